/** What allocation rules compute, in plain float64 loops straight from the formulas: the specification. */

/** Eigenvalues of a symmetric matrix [size, size], ascending, by cyclic Jacobi rotations. */
export function jacobiEigenvalues(matrix: Float64Array, size: number): number[] {
  const a = Float64Array.from(matrix);
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0;
    for (let p = 0; p < size; p++) {
      for (let q = p + 1; q < size; q++) {
        const apq = a[p * size + q];
        off += apq * apq;
        if (apq === 0) continue;
        const theta = (a[q * size + q] - a[p * size + p]) / (2 * apq);
        const t = (theta >= 0 ? 1 : -1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(t * t + 1);
        const s = t * c;
        for (let k = 0; k < size; k++) {
          const [x, y] = [a[k * size + p], a[k * size + q]];
          a[k * size + p] = c * x - s * y;
          a[k * size + q] = s * x + c * y;
        }
        for (let k = 0; k < size; k++) {
          const [x, y] = [a[p * size + k], a[q * size + k]];
          a[p * size + k] = c * x - s * y;
          a[q * size + k] = s * x + c * y;
        }
      }
    }
    if (off === 0) break;
  }
  return Array.from({ length: size }, (_, i) => a[i * size + i]).sort((x, y) => x - y);
}

/** WWᵀ or WᵀW, whichever is smaller. */
export function smallerGram(values: Float32Array, rows: number, columns: number): Float64Array {
  const size = Math.min(rows, columns);
  const gram = new Float64Array(size * size);
  for (let i = 0; i < size; i++) {
    for (let j = 0; j < size; j++) {
      for (let k = 0; k < Math.max(rows, columns); k++) {
        gram[i * size + j] +=
          rows >= columns
            ? values[k * columns + i] * values[k * columns + j]
            : values[i * columns + k] * values[j * columns + k];
      }
    }
  }
  return gram;
}

/** LAMP of each weight, in place order: w² / Σ of all v² >= w². */
export function lampScoresByDefinition(values: Float32Array): number[] {
  return Array.from(values, (w) => {
    const notSmaller = Array.from(values).filter((v) => v * v >= w * w);
    return w === 0 ? 0 : (w * w) / notSmaller.reduce((sum, v) => sum + v * v, 0);
  });
}

/** Share of each list below the value that `target` of all values lie below; ties give way evenly. */
export function thresholdShares(lists: readonly (readonly number[])[], target: number): number[] {
  const all = lists.flat().sort((x, y) => x - y);
  const rank = target * all.length;
  const threshold = all[Math.min(all.length - 1, Math.floor(rank))] ?? 0;
  const below = all.filter((value) => value < threshold).length;
  const ties = all.filter((value) => value === threshold).length;
  const share = (rank - below) / ties;
  return lists.map((list) => {
    const own = list.filter((value) => value < threshold).length;
    return (own + share * list.filter((value) => value === threshold).length) / list.length;
  });
}

/** The exponent from every start that is allowed, with its distance; the released code in loops. */
export function tailByDefinition(
  eigenvalues: readonly number[],
  { xmin, xlow }: { readonly xmin: "peak" | "mid"; readonly xlow: "released" | "intended" },
): number {
  const n = eigenvalues.length;
  const fit = (start: number): { exponent: number; distance: number } => {
    const tail = eigenvalues.slice(start);
    const sum = tail.reduce((total, value) => total + Math.log(value / eigenvalues[start]), 0);
    const exponent = 1 + tail.length / sum;
    const distances = tail.map((value, t) =>
      Math.abs(1 - (value / eigenvalues[start]) ** (1 - exponent) - t / tail.length),
    );
    return { exponent, distance: Math.max(...distances) };
  };
  if (xmin === "mid") return fit(Math.floor(n / 2)).exponent;
  const logs = eigenvalues.map(Math.log10);
  const [low, high] = [Math.min(...logs), Math.max(...logs)];
  const counts = Array.from({ length: 100 }, () => 0);
  for (const log of logs) counts[Math.min(99, Math.floor((100 * (log - low)) / (high - low)))]++;
  const x = 10 ** (low + ((high - low) * counts.indexOf(Math.max(...counts))) / 100);
  const from = xlow === "released" ? Math.log10(0.95 * x) : 0.95 * x;
  const starts = eigenvalues
    .map((_, i) => i)
    .filter((i) => i < n - 1 && eigenvalues[i] >= from && eigenvalues[i] <= 1.5 * x);
  return starts.map(fit).reduce((best, each) => (each.distance < best.distance ? each : best)).exponent;
}
