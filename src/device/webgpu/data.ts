/** Matrices and masks of the webgpu device: made, filled, copied, read. */
import { maskWordsPerRow, type DataOperations } from "../device.js";
import type { Description } from "../resident.js";
import { GpuMask, GpuMatrix, rowPitch, type GpuView } from "./buffer.js";
import type { Dispatcher } from "./dispatch.js";

/** Floats of padded rows that are put together on the host at a time. */
const PADDED_FLOATS = 2 ** 20;

export function dataOperations(dispatcher: Dispatcher): DataOperations<GpuMatrix, GpuView, GpuMask> {
  return {
    createMatrix: (rows, columns, label) => createMatrix(dispatcher, { label, rows, columns }),
    createMask: (rows, columns, label) => createMask(dispatcher, { label, rows, columns }),
    uploadMatrix: (values, rows, columns, label) => uploadMatrix(dispatcher, { label, rows, columns }, values),
    uploadMask(words, rows, columns, label) {
      const mask = createMask(dispatcher, { label, rows, columns });
      dispatcher.upload(mask.buffer, 0, words);
      return mask;
    },
    copy(source, target) {
      const bytes = target.rows * target.pitch * 4;
      if (bytes > 0) dispatcher.copy(source.buffer, 0, target.buffer, 0, bytes);
    },
    download: (view) => download(dispatcher, view),
    async downloadMask({ buffer, rows, words: wordsPerRow }) {
      const words = new Uint32Array(rows * wordsPerRow);
      await dispatcher.read(buffer, 0, words.byteLength, 4, (piece, offset) => {
        words.set(new Uint32Array(piece), offset / 4);
      });
      return words;
    },
  };
}

export function createMatrix(dispatcher: Dispatcher, size: Description): GpuMatrix {
  const { label, rows, columns } = size;
  const bytes = rows * rowPitch(columns) * 4;
  const buffer = dispatcher.createBuffer(bytes, label, `matrix "${label}" of ${rows} × ${columns} f32`);
  return new GpuMatrix(dispatcher, buffer, size);
}

function createMask(dispatcher: Dispatcher, size: Description): GpuMask {
  const { label, rows, columns } = size;
  const bytes = rows * maskWordsPerRow(columns) * 4;
  const buffer = dispatcher.createBuffer(bytes, label, `mask "${label}" of ${rows} × ${columns} bits`);
  return new GpuMask(dispatcher, buffer, size);
}

export function uploadMatrix(dispatcher: Dispatcher, size: Description, values: Float32Array): GpuMatrix {
  const { rows, columns } = size;
  const matrix = createMatrix(dispatcher, size);
  const { pitch } = matrix;
  if (pitch === columns) {
    dispatcher.upload(matrix.buffer, 0, values);
    return matrix;
  }
  const rowsAtOnce = Math.max(1, Math.min(rows, Math.floor(PADDED_FLOATS / pitch)));
  const padded = new Float32Array(rowsAtOnce * pitch);
  for (let first = 0; first < rows; first += rowsAtOnce) {
    const count = Math.min(rowsAtOnce, rows - first);
    for (let row = 0; row < count; row++) {
      padded.set(values.subarray((first + row) * columns, (first + row + 1) * columns), row * pitch);
    }
    dispatcher.upload(matrix.buffer, first * pitch * 4, padded.subarray(0, count * pitch));
  }
  return matrix;
}

async function download(dispatcher: Dispatcher, view: GpuView): Promise<Float32Array> {
  const { matrix, firstRow, rows, firstColumn, columns } = view;
  const rowBytes = matrix.pitch * 4;
  const result = new Float32Array(rows * columns);
  await dispatcher.read(matrix.buffer, firstRow * rowBytes, rows * rowBytes, rowBytes, (piece, offset) => {
    const first = offset / rowBytes;
    for (let row = 0; row < piece.byteLength / rowBytes; row++) {
      const source = new Float32Array(piece, row * rowBytes + firstColumn * 4, columns);
      result.set(source, (first + row) * columns);
    }
  });
  return result;
}
