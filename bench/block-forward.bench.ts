/**
 * One block's forward and the statistics of its linears' inputs, as fractions of ONNX Runtime's own matrix product in
 * the same run. Operations are counted as a straightforward implementation would do them: the Gram matrix in full
 * (2·T·C², although symmetry lets us skip almost half), attention causally (half of the square).
 */
import { borrowed } from "../src/array.js";
import type { BlockRequest, TapKind } from "../src/forward/block-graph.js";
import { BlockRunner } from "../src/forward/block-runner.js";
import { compareWithRoofline, machineLine, randomValues } from "./harness.js";
import { syntheticArchitecture } from "./llama-shape.js";

const TOKENS = 1024;
const ROUNDS = 5;

const architecture = syntheticArchitecture({ blocks: 1, vocabulary: 32000 });
const block = architecture.blocks[0];
if (block === undefined) throw new Error("no block");
const weights = new Map(
  [...block.tensors].map(([role, { shape }]) => [
    role,
    randomValues(
      shape.reduce((a, b) => a * b, 1),
      0.05,
    ),
  ]),
);
const hidden = randomValues(TOKENS * architecture.hiddenSize, 2);
const groups = block.groups.map((group) => group.name);
await using runner = new BlockRunner(architecture);

const linearOf = (role: string): number =>
  block.groups
    .flatMap((group) => group.linears)
    .filter((linear) => linear.role === role)
    .reduce((sum, l) => sum + l.inFeatures * l.outFeatures, 0);
const parameters = block.groups
  .flatMap((group) => group.linears)
  .reduce((sum, linear) => sum + linear.inFeatures * linear.outFeatures, 0);
const forward = (2 * TOKENS * parameters + 2 * TOKENS * TOKENS * 2048) / 1e9;
const withoutDown = forward - (2 * TOKENS * linearOf("mlp.down_proj.weight")) / 1e9;
const gram = block.groups.reduce((sum, group) => sum + 2 * TOKENS * group.inFeatures ** 2, 0) / 1e9;

const size = { batch: 1, tokens: TOKENS };
const states = borrowed("hidden", hidden, [TOKENS, architecture.hiddenSize]);
/** The result's memory goes back to the executor, as in a run. */
const run = (request: BlockRequest) => async (): Promise<void> => {
  using _result = await runner.run(block, weights, states, size, request);
};
/** The result is never given back, so that the next one is written to fresh pages. */
const runFresh = (request: BlockRequest) => async (): Promise<void> => {
  await runner.run(block, weights, states, size, request);
};
const taps = (kind: TapKind): BlockRequest["taps"] => ({ kind, groups });
const moving: BlockRequest = { hidden: true, taps: undefined };
const tapping: BlockRequest = { hidden: false, taps: taps("inputs") };
const sparsegpt: BlockRequest = { hidden: false, taps: taps("gram") };
const rows = await compareWithRoofline(
  [
    { name: "forward", gigaflops: forward, run: run(moving) },
    { name: "forward, outputs in fresh memory", gigaflops: forward, run: runFresh(moving) },
    {
      name: "forward to the last linear's input + column norms (wanda's pass)",
      gigaflops: withoutDown,
      run: run({ hidden: false, taps: taps("column-norms") }),
    },
    { name: "forward + Gram matrices", gigaflops: forward + gram, run: run({ hidden: true, taps: taps("gram") }) },
    {
      name: "forward to the last linear's input + Gram matrices (sparsegpt's pass)",
      gigaflops: withoutDown + gram,
      run: run(sparsegpt),
    },
    { name: "the same, outputs in fresh memory", gigaflops: withoutDown + gram, run: runFresh(sparsegpt) },
    { name: "forward, inputs handed out (what another device reads)", gigaflops: withoutDown, run: run(tapping) },
    { name: "the same, outputs in fresh memory", gigaflops: withoutDown, run: runFresh(tapping) },
  ],
  ROUNDS,
);
console.log(`block forward, hidden 2048, 32 heads over 4, intermediate 5632, ${TOKENS} tokens (${machineLine()})`);
for (const { name, seconds, rate, fraction } of rows) {
  console.log(
    `  ${name}: ${(seconds * 1000).toFixed(0)} ms, ${rate.toFixed(0)} GFLOP/s, ${(fraction * 100).toFixed(0)} % of the matrix product`,
  );
}
