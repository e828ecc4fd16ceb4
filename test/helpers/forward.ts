/** Running blocks and looking into hidden states with plain arrays, for tests on the host. */
import { borrowed } from "../../src/array.js";
import type { BlockRequest } from "../../src/forward/block-graph.js";
import type { BlockRunner, BlockWeights } from "../../src/forward/block-runner.js";
import type { HiddenStates } from "../../src/forward/hidden-states.js";
import { valuesOf } from "../../src/forward/values.js";
import type { Architecture, BlockSpec } from "../../src/model/architecture.js";

export interface PlainTap {
  readonly parts: readonly Float32Array[];
  readonly moments: { readonly sums: Float32Array; readonly squaredDeviations: Float32Array } | undefined;
  readonly rows: number;
}

export interface PlainResult {
  readonly hidden: Float32Array | undefined;
  readonly taps: ReadonlyMap<string, PlainTap>;
}

/** @param hidden [batch * tokens, hidden] */
export async function runBlock(
  runner: BlockRunner,
  block: BlockSpec,
  weights: BlockWeights,
  hidden: Float32Array,
  size: { readonly batch: number; readonly tokens: number },
  request: BlockRequest,
): Promise<PlainResult> {
  const shape = [size.batch * size.tokens, hidden.length / (size.batch * size.tokens)];
  using result = await runner.run(block, weights, borrowed("hidden", hidden, shape), size, request);
  return {
    hidden: result.hidden && valuesOf(result.hidden).slice(),
    taps: new Map(
      [...result.taps].map(([group, { parts, moments, rows }]) => [
        group,
        {
          parts: parts.map((part) => valuesOf(part).slice()),
          moments: moments && {
            sums: valuesOf(moments.sums).slice(),
            squaredDeviations: valuesOf(moments.squaredDeviations).slice(),
          },
          rows,
        },
      ]),
    ),
  };
}

/** A copy of the slots' values. */
export async function readStates(states: HiddenStates, first: number, count: number): Promise<Float32Array> {
  using array = await states.read(first, count);
  return valuesOf(array).slice();
}

export async function writeStates(states: HiddenStates, first: number, values: Float32Array): Promise<void> {
  const rows = Math.max(1, (values.length / states.sequenceLength) * states.tokens);
  await states.write(first, borrowed("states", values, [rows, values.length / rows]));
}

/** The hidden states of rows of state as the library has them, stream after stream: [streams, rows, hiddenSize]. */
export function streamByStream({ state, hiddenSize }: Architecture, rows: Float32Array): Float32Array {
  const count = rows.length / state.width;
  const ordered = new Float32Array(count * state.hidden);
  for (let row = 0; row < count; row++)
    for (let at = 0; at < state.hidden; at += hiddenSize) {
      const from = row * state.width + at;
      ordered.set(rows.subarray(from, from + hiddenSize), count * at + row * hiddenSize);
    }
  return ordered;
}
