/**
 * Statistics of every sequence's own gradients, of a dense family, one with fused projections, a mixture of experts and one
 * whose last blocks attend to the keys of earlier ones, against differences of the sequences' losses in float64.
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { lookUp } from "../../src/look-up.js";
import { openModel } from "../../src/model/open-model.js";
import type { ModelGradient } from "../../src/solvers/solver.js";
import { collectGradients, type GradientSums } from "../../src/training/gradient-statistics.js";
import { stepStates } from "../../src/training/model-gradients.js";
import { fixturePath } from "../helpers/architectures.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { float64Model, type Float64Model } from "../helpers/float64-model.js";

const STATISTICS: readonly ModelGradient[] = ["gradient-magnitudes", "gradient-squares", "gradient-sums"];
const [SEQUENCES, TOKENS] = [3, 7];

/** Small against weights, so large that float64's roundings are nothing beside the difference. */
const STEP = 1e-5;

/** Of float32 gradients, in which some cancel, relative to the largest of the tensor. */
const TOLERANCE = 1e-4;

interface Found {
  readonly loss: number;
  /** By the block's index. */
  readonly sums: ReadonlyMap<number, GradientSums>;
  readonly progress: readonly string[];
}

const idsOf = (vocabulary: number): Int32Array[] =>
  Array.from({ length: SEQUENCES }, (_, s) =>
    Int32Array.from({ length: TOKENS }, (_, i) => (s * 41 + i * i * 31 + 7 * i) % vocabulary),
  );

async function collect(
  directory: string,
  folder: string,
  options: { readonly memoryBytes?: number; readonly sequencesPerRun?: number } = {},
): Promise<Found> {
  const { memoryBytes = 2 ** 24, sequencesPerRun } = options;
  await using model = await openModel(fixturePath(folder));
  const { architecture } = model;
  await using runner = new BlockRunner(architecture);
  await using states = await stepStates(architecture, {
    ...{ sequences: SEQUENCES, tokens: TOKENS, memoryBytes, scratchFile: join(directory, "states") },
  });
  const sums = new Map<number, GradientSums>();
  const progress: string[] = [];
  const loss = await collectGradients({
    ...{
      model,
      runner,
      states,
      statistics: STATISTICS,
      sequences: idsOf(architecture.vocabularySize),
      sequencesPerRun,
    },
    rolesOf: (block) => new Set(block.groups.flatMap(({ linears }) => linears.map(({ role }) => role))),
    take: (block, own) => Promise.resolve(void sums.set(block.index, own)),
    onSequences: (block, direction, done) => progress.push(`${block.index} ${direction} ${done}`),
  });
  return { loss, sums, progress };
}

/** The derivative of each sequence's loss by one weight. */
function derivatives(model: Float64Model, ids: readonly Int32Array[], block: number, role: string, place: number) {
  const { values } = lookUp(model.blocks[block] as Float64Model["blocks"][number], role);
  const weight = values[place] as number;
  const at = (moved: number): number[] => {
    values[place] = weight + moved;
    return ids.map((sequence) => model.loss(sequence));
  };
  const [up, down] = [at(STEP), at(-STEP)];
  values[place] = weight;
  return up.map((loss, sequence) => (loss - (down[sequence] as number)) / (2 * STEP));
}

for (const folder of ["llama", "gpt_neox", "mixtral", "gemma3n_text"]) {
  test(`${folder}: sums over sequences are those of derivatives, each sequence's by itself`, async (t) => {
    await using model = await openModel(fixturePath(folder));
    const ids = idsOf(model.architecture.vocabularySize);
    const { loss, sums } = await collect(temporaryDirectory(t), folder);
    const exact = await float64Model(model);
    const expectedLoss = ids.reduce((sum, sequence) => sum + exact.loss(sequence), 0) / SEQUENCES;
    assert.ok(Math.abs(loss - expectedLoss) < 1e-5 * expectedLoss, `${loss}, in float64 ${expectedLoss}`);
    let [checked, cancelling] = [0, 0];
    for (const [block, own] of sums) {
      const of = (statistic: ModelGradient, role: string): Float32Array => lookUp(lookUp(own, statistic), role);
      const roles = [...lookUp(own, "gradient-sums").keys()];
      for (const role of roles.filter((_, index) => index % 2 === block % 2 || roles.length < 5)) {
        const magnitudes = of("gradient-magnitudes", role);
        const place = magnitudes.indexOf(Math.max(...magnitudes));
        const largest = magnitudes[place] as number;
        const found = derivatives(exact, ids, block, role, place);
        const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0);
        const expected = {
          "gradient-magnitudes": sum(found.map(Math.abs)),
          "gradient-squares": sum(found.map((value) => value ** 2)),
          "gradient-sums": sum(found),
        };
        for (const statistic of STATISTICS) {
          const value = of(statistic, role)[place] as number;
          const off = Math.abs(value - expected[statistic]);
          const size = statistic === "gradient-squares" ? largest ** 2 : largest;
          assert.ok(off <= TOLERANCE * size, `${block} ${role} ${statistic}: ${value}, not ${expected[statistic]}`);
        }
        checked++;
        cancelling += Number(Math.abs(expected["gradient-sums"]) < 0.99 * expected["gradient-magnitudes"]);
      }
    }
    assert.ok(checked >= 4 && cancelling > 0, `${checked} checked, of which ${cancelling} differ in sign`);
  });
}

test("however many sequences go together and wherever states are, statistics and progress are the same", async (t) => {
  const directory = temporaryDirectory(t);
  const whole = await collect(directory, "opt"); // learned positions: what enters the first block is computed as well
  const cut = await collect(directory, "opt", { sequencesPerRun: 2, memoryBytes: 2000 });
  assert.ok(Math.abs(cut.loss - whole.loss) < 1e-6 * whole.loss);
  for (const [block, sums] of whole.sums) {
    for (const [statistic, tensors] of sums) {
      for (const [role, values] of tensors) {
        const other = lookUp(lookUp(lookUp(cut.sums, block), statistic), role);
        const largest = Math.max(...values.map(Math.abs));
        values.forEach((value, i) =>
          assert.ok(Math.abs(value - (other[i] as number)) <= 1e-5 * largest, `${block} ${role} ${statistic} ${i}`),
        );
      }
    }
  }
  const blocks = whole.sums.size;
  assert.deepEqual(
    [...whole.sums.keys()],
    Array.from({ length: blocks }, (_, i) => blocks - 1 - i),
  );
  assert.deepEqual(cut.progress.slice(0, 2), ["0 forward 2", "0 forward 3"]);
  assert.deepEqual(cut.progress.slice(-3), ["0 back 1", "0 back 2", "0 back 3"]);
});
