/** Copies of views on the device: for operands that may not be bound beside their own matrix as an output. */
import type { GpuView } from "../buffer.js";
import { GpuMatrix } from "../buffer.js";
import type { Dispatcher } from "../dispatch.js";

/** The same view on a fresh matrix holding the view's rows. The caller disposes `matrix` of the result. */
export function detach(dispatcher: Dispatcher, view: GpuView): GpuView {
  const { matrix, rows } = view;
  const bytes = rows * matrix.pitch * 4;
  const label = `copy of ${matrix.label}`;
  const buffer = dispatcher.createBuffer(bytes, label, `${label} (${rows} × ${matrix.columns})`);
  if (bytes > 0) dispatcher.copy(matrix.buffer, view.firstRow * matrix.pitch * 4, buffer, 0, bytes);
  const copy = new GpuMatrix(dispatcher, buffer, { label, rows, columns: matrix.columns });
  return { ...view, matrix: copy, firstRow: 0 };
}
