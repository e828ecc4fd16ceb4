/** Matrices and masks of the CPU device: made, filled, copied, read. */
import type { DataOperations, ResolvedView } from "../device.js";
import type { Owner } from "../resident.js";
import { compactValues, CpuMask, CpuMatrix, filledMatrix, rectangleOf } from "./matrix.js";
import type { WorkQueue } from "./queue.js";

export function dataOperations(
  queue: WorkQueue,
  owner: Owner<Float32Array | Uint32Array>,
): DataOperations<CpuMatrix, ResolvedView<CpuMatrix>, CpuMask> {
  return {
    createMatrix: (rows, columns, label) => new CpuMatrix(owner, { label, rows, columns }),
    createMask: (rows, columns, label) => new CpuMask(owner, { label, rows, columns }),
    uploadMatrix: (values, rows, columns, label) => filledMatrix(owner, { label, rows, columns }, values),
    uploadMask(words, rows, columns, label) {
      const mask = new CpuMask(owner, { label, rows, columns });
      mask.values.set(words);
      return mask;
    },
    copy({ values: from }, { values: to }) {
      queue.enqueue(() => to.set(from));
    },
    async download(view) {
      const rectangle = rectangleOf(view);
      await queue.synchronize();
      return compactValues(rectangle).slice();
    },
    async downloadMask({ values }) {
      await queue.synchronize();
      return values.slice();
    },
  };
}
