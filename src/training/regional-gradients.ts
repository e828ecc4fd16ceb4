/**
 * Regional gradients of one block: of ‖block(X_n)‖₂ for every calibration sequence n by itself, and of them the root mean
 * square over the sequences (Wanda++: Yang et al. 2025, arXiv:2503.04992). One block goes back through itself alone.
 */
import { borrowed, type NdArray } from "../array.js";
import type { BlockRunner } from "../forward/block-runner.js";
import type { HiddenStates } from "../forward/hidden-states.js";
import { squaresOf, valuesOf } from "../forward/values.js";
import { weightArrays } from "../forward/weights.js";
import { lookUp } from "../look-up.js";
import type { BlockSpec, StateSpec } from "../model/architecture.js";
import { GrowingSums, type TensorSums } from "./gradient-statistics.js";
import type { BlockGradients } from "./model-gradients.js";

export interface RegionalPass {
  readonly block: BlockSpec;
  /** By role. */
  readonly weights: ReadonlyMap<string, Float32Array>;
  /** What enters the block, of every sequence. */
  readonly states: HiddenStates;
  readonly runner: BlockRunner;
  readonly gradients: BlockGradients;
  /** Roles of the tensors that hold pruned weights. */
  readonly roles: ReadonlySet<string>;
  /** Called after every sequence; throws to stop. */
  readonly onSequence: (done: number) => void;
}

/** @throws NumericalError E_NON_FINITE naming the tensor */
export async function regionalGradients(pass: RegionalPass): Promise<TensorSums> {
  const { block, weights, states, runner, gradients, roles } = pass;
  const tensors = weightArrays(block, weights);
  const size = { batch: 1, tokens: states.tokens };
  const growing = new GrowingSums(block, ["gradient-squares"], roles);
  for (let sequence = 0; sequence < states.sequences; sequence++) {
    using hidden = await states.read(sequence, 1);
    using output = await runner.run(block, weights, hidden, size, { hidden: true, taps: undefined });
    const gradient = unit(output.hidden as NdArray, runner.state);
    const results = await gradients.run(block, tensors, { hidden, gradient }, size);
    growing.add(results);
    for (const array of results.values()) array[Symbol.dispose]();
    pass.onSequence(sequence + 1);
  }
  growing.expectFinite();
  const squares = lookUp(growing.sums, "gradient-squares");
  for (const sum of squares.values())
    for (let i = 0; i < sum.length; i++) sum[i] = Math.sqrt(sum[i] / states.sequences);
  return squares;
}

/** y / ‖y‖ of hidden states y, the gradient of ‖y‖; nothing where y is, and for what is carried beside them. */
function unit(y: NdArray, state: StateSpec): NdArray {
  const values = valuesOf(y);
  const norm = Math.sqrt(squaresOf(values, state));
  const factor = norm === 0 ? 0 : 1 / norm;
  return borrowed(
    "gradient of the norm",
    values.map((value, i) => (i % state.width < state.hidden ? factor * value : 0)),
    y.shape,
  );
}
