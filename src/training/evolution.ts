/**
 * Masks that move while what they keep is trained: now and then the kept weights that matter least are dropped and as many
 * pruned ones grow, those whose gradients are largest, so that every linear keeps its count of zeros.
 *
 * Source: sparsity evolution of Xiao et al. 2025 (SEFT), arXiv:2505.24037, after Evci et al. 2020 (RigL), arXiv:1911.11134:
 * growth by the gradient's magnitude and a share that falls by a cosine. A kept weight matters by |w|·√v with Adam's second moment v,
 * which is SEFT's |w·∂loss/∂w| over many batches in place of one.
 */
import type { Device } from "../device/device.js";
import type { LinearSpec } from "../model/architecture.js";
import { putMatrix, takeMatrix } from "../model/logical-matrix.js";
import type { Parameter } from "./parameters.js";
import { flagsOf, wordsOf } from "./projection.js";

/** Share of the kept weights that change places after so many steps: `largest` at first, 0 at the end. */
export function exchangedShare(largest: number, step: number, steps: number): number {
  return (largest / 2) * (1 + Math.cos((Math.PI * step) / steps));
}

/**
 * Exchange weights of a masked parameter; its gradient is that of the last step. What grows starts at 0, and the moments
 * of all that changed places as well.
 * @param share of the kept weights of each linear, rounded down; no more than there are pruned ones
 * @returns how many weights grew
 */
export async function exchange(
  device: Device,
  parameter: Parameter,
  linears: readonly LinearSpec[],
  share: number,
): Promise<number> {
  const { shape, values, gradient } = parameter;
  const { rows, columns } = values.matrix;
  const words = (await parameter.give("mask")) as Uint32Array;
  const kept = flagsOf(words, rows, columns);
  const [first, second] = [
    (await parameter.give("first")) as Float32Array,
    (await parameter.give("second")) as Float32Array,
  ];
  /** 1 where the mask changes. */
  const changed = new Float32Array(kept.length);
  let grown = 0;
  for (const linear of linears) {
    const take = (stored: Float32Array): Float32Array => takeMatrix(stored, shape, linear);
    const [own, w, g, v] = [kept, values.host, gradient.host, second].map(take) as [F, F, F, F];
    const count = Math.min(Math.floor(share * sum(own)), own.length - sum(own));
    if (count === 0) continue;
    const worth = own.map((flag, i) => (flag === 1 ? Math.min(Math.abs(w[i]) * Math.sqrt(v[i]), FAR / 2) : FAR));
    const places = await lowest(device, linear, worth, count);
    // All but the `count` whose gradients are largest; kept ones come before any pruned one.
    const appeal = own.map((flag, i) => (flag === 0 ? Math.max(Math.abs(g[i]), NEAR) : 0));
    const staying = await lowest(device, linear, appeal, own.length - count);
    staying.forEach((flag, i) => (places[i] += 1 - flag));
    putMatrix(places, changed, shape, linear);
    grown += count;
  }
  if (grown === 0) return 0;
  const moments = [first.slice(), second.slice()] as const;
  for (let i = 0; i < changed.length; i++) {
    if (changed[i] === 0) continue;
    kept[i] = 1 - kept[i];
    values.host[i] = 0;
    for (const moment of moments) moment[i] = 0;
  }
  values.upload();
  await parameter.receive("first", (into) => Promise.resolve(into.set(moments[0])));
  await parameter.receive("second", (into) => Promise.resolve(into.set(moments[1])));
  await parameter.receive("mask", (into) => Promise.resolve(into.set(wordsOf(kept, rows, columns))));
  return grown;
}

type F = Float32Array;

/** Scores of what is not chosen from: beyond all others, and just above those that are. */
const [FAR, NEAR] = [3e38, 2 ** -126];

function sum(flags: Float32Array): number {
  return flags.reduce((total, flag) => total + flag, 0);
}

/** 1 for the `count` entries of lowest score, the lower index first among equals. @param scores finite, not negative */
async function lowest(device: Device, linear: LinearSpec, scores: Float32Array, count: number): Promise<Float32Array> {
  const { name, outFeatures: rows, inFeatures: columns } = linear;
  using matrix = device.uploadMatrix(scores, rows, columns, `${name}: scores`);
  using even = device.uploadMatrix(new Float32Array(columns).fill(1), 1, columns, `${name}: scale`);
  using mask = device.createMask(rows, columns, `${name}: mask`);
  device.selectMatrix(matrix, even, count, mask);
  return flagsOf(await device.downloadMask(mask), rows, columns).map((flag) => 1 - flag);
}
