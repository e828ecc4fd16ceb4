/**
 * Float64 twin of the OBS sweep (Frantar & Alistarh 2023, equation 5 of the block step): for each column c in order,
 * pruned entries give e = w_c / U_cc, become 0, and every later column j of the panel receives w_j -= e·U_cj.
 */

export interface ReferenceSweep {
  /** [columns, rows] transposed panel, changed in place. */
  readonly panel: Float64Array;
  readonly rows: number;
  readonly panelColumns: number;
  /** [panelColumns, panelColumns] upper triangular: U of this panel, row stride `inverseStride`. */
  readonly inverse: ArrayLike<number>;
  readonly inverseStride: number;
  readonly firstColumn: number;
  readonly columns: number;
  /** [panelColumns, rows] one byte per weight, 1 = kept; written where `choose` is given. */
  readonly keep: Uint8Array;
  readonly choose?: { readonly keep: number; readonly group: number };
}

export interface ReferenceSweepResult {
  /** ½ Σ e² per row. */
  readonly losses: Float64Array;
  /** Scores |w|/U_cc at the moment at which a mask would be chosen (the group's first column), [panelColumns, rows]. */
  readonly scores: Float64Array;
}

/** `scoreGroup`: where `choose` is absent, record scores at the first column of groups of this width (default 1). */
export function referenceSweep(sweep: ReferenceSweep, scoreGroup = 1): ReferenceSweepResult {
  const { panel, rows, panelColumns, inverse, inverseStride, keep } = sweep;
  const group = sweep.choose?.group ?? scoreGroup;
  const losses = new Float64Array(rows);
  const scores = new Float64Array(panelColumns * rows);
  const end = sweep.firstColumn + sweep.columns;
  for (let r = 0; r < rows; r++) {
    for (let c = sweep.firstColumn; c < end; c++) {
      if ((c - sweep.firstColumn) % group === 0) {
        const order: number[] = [];
        for (let g = c; g < Math.min(c + group, end); g++) {
          const scale = Math.fround(1 / inverse[g * inverseStride + g]);
          scores[g * rows + r] = Math.abs(panel[g * rows + r]) * scale;
          order.push(g);
        }
        if (sweep.choose !== undefined) {
          order.sort((x, y) => scores[x * rows + r] - scores[y * rows + r] || x - y);
          order.forEach((g, rank) => (keep[g * rows + r] = rank < group - (sweep.choose?.keep ?? 0) ? 0 : 1));
        }
      }
      if (keep[c * rows + r] === 1) continue;
      const e = panel[c * rows + r] / inverse[c * inverseStride + c];
      losses[r] += 0.5 * e * e;
      panel[c * rows + r] = 0;
      for (let j = c + 1; j < panelColumns; j++) panel[j * rows + r] -= e * inverse[c * inverseStride + j];
    }
  }
  return { losses, scores };
}
