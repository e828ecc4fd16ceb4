/** Steps on matrices that solvers share: copies, orders, inverses, the output error. Nothing here knows a method. */
import type { Device, Matrix } from "../device/device.js";
import { NumericalError } from "../errors.js";
import { costOf, elementsOf, inSequence, matrixBytes, productOf, type LayerSize, type SolveCost } from "./cost.js";
import type { LayerProblem } from "./solver.js";

/** A copy on the device, owned by the caller. */
export function copyMatrix(device: Device, matrix: Matrix, label: string): Matrix {
  const copy = device.createMatrix(matrix.rows, matrix.columns, label);
  device.copy(matrix, copy);
  return copy;
}

/**
 * Rows and columns of a symmetric matrix in another order, both triangles; owned by the caller.
 *
 * @param matrix [n, n], lower triangle, left as it is
 * @param order which row and column of the matrix comes in each place, a permutation of n
 */
export function permuteSymmetric(device: Device, matrix: Matrix, order: Uint32Array, label: string): Matrix {
  using full = copyMatrix(device, matrix, `${label}, both triangles`);
  device.mirrorLower(full);
  const permuted = device.createMatrix(order.length, order.length, label);
  device.gather(full, permuted, { rows: order, columns: order });
  return permuted;
}

/**
 * Replace a matrix given by its lower triangle by its full symmetric inverse.
 *
 * @throws NumericalError E_NOT_POSITIVE_DEFINITE
 */
export async function invert(problem: Pick<LayerProblem, "name">, matrix: Matrix, device: Device): Promise<void> {
  const failure = await device.invertPositiveDefinite(matrix);
  if (failure === undefined) return;
  throw new NumericalError(
    "E_NOT_POSITIVE_DEFINITE",
    `${problem.name}: the damped Gram matrix is not positive definite (pivot ${failure.column} is ${failure.pivot}).`,
    {
      hint: "Raise the method's damping or use more calibration sequences.",
      details: { layer: problem.name, column: failure.column, pivot: failure.pivot },
    },
  );
}

/**
 * tr(D·G·Dᵀ) / sequences with D = dense - pruned: the squared error of the layer's outputs, summed over the tokens of a
 * sequence, mean over sequences. Costs one product and borrows one matrix of G's size and two of the weight's.
 *
 * @param gram Σxxᵀ, lower triangle, left as it is
 */
export async function reconstructionLoss(
  device: Device,
  layer: { readonly dense: Matrix; readonly pruned: Matrix; readonly gram: Matrix; readonly sequenceCount: number },
): Promise<number> {
  const { dense, pruned, gram } = layer;
  using full = copyMatrix(device, gram, "loss: Gram matrix");
  device.mirrorLower(full);
  using change = device.createMatrix(dense.rows, dense.columns, "loss: change of the weight");
  using product = device.createMatrix(dense.rows, dense.columns, "loss: product");
  using dots = device.createMatrix(1, dense.rows, "loss: rows");
  device.subtract({ matrix: dense }, { matrix: pruned }, { matrix: change });
  device.matmul({ a: { matrix: change }, b: { matrix: full }, out: { matrix: product } });
  device.rowDots(change, product, dots);
  const rows = await device.download({ matrix: dots });
  return rows.reduce((total, value) => total + value, 0) / layer.sequenceCount;
}

/** What `reconstructionLoss` costs. */
export function reconstructionCost(size: LayerSize): SolveCost {
  const { inFeatures: C, outFeatures: R } = size;
  const passes = costOf({
    entries: 2 * C ** 2 + 2 * elementsOf(size),
    bytes: matrixBytes(C, C) + 2 * matrixBytes(R, C),
  });
  return inSequence(productOf(size), passes);
}

/**
 * Run `work`; if it fails, dispose of `weight` and of everything passed through `owned`. On success they belong to
 * whoever receives the result.
 */
export async function disposeOnFailure<Result>(
  weight: Disposable,
  work: (owned: <Resource extends Disposable>(resource: Resource) => Resource) => Promise<Result>,
): Promise<Result> {
  const resources: Disposable[] = [weight];
  try {
    return await work((resource) => {
      resources.push(resource);
      return resource;
    });
  } catch (error) {
    for (const resource of resources) resource[Symbol.dispose]();
    throw error;
  }
}
