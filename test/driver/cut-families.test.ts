/**
 * Parts of every family's models: what is written has all tensors that its config says and no others, and computes to the bit
 * what the model does where blocks are passed by, experts cannot be chosen, and channels are zero.
 */
import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { CutPlan } from "../../src/contract.js";
import { cutModel } from "../../src/driver/cut/cut-model.js";
import { emptyPlan } from "../../src/driver/cut/plan.js";
import { verifyModel } from "../../src/driver/cut/verify.js";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { embedTokens } from "../../src/forward/embedding.js";
import { HiddenStates } from "../../src/forward/hidden-states.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import type { GraphBuilder, Value } from "../../src/graph/graph.js";
import { lookUp } from "../../src/look-up.js";
import type { BlockSpec } from "../../src/model/architecture.js";
import { channelGroup } from "../../src/model/cut-tensors.js";
import { findFamily } from "../../src/model/families/registry.js";
import { putMatrix, takeMatrix } from "../../src/model/logical-matrix.js";
import { openModel, type Model } from "../../src/model/open-model.js";
import { copyFixture, fixtures } from "../helpers/architectures.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { readStates, runBlock } from "../helpers/forward.js";

const TOKENS = 12;

/**
 * The block with a router that chooses among some experts: rows of the others are left out of it, since a softmax over more
 * entries sums them in another order. The experts themselves are all there, under their own numbers.
 */
function withoutExperts(block: BlockSpec, kept: readonly number[]): BlockSpec {
  const narrowed = (graph: GraphBuilder): GraphBuilder =>
    new Proxy(graph, {
      get(target, key) {
        const found: unknown = Reflect.get(target, key, target);
        if (typeof found !== "function") return found;
        const method = found as (...given: unknown[]) => readonly Value[];
        if (key !== "applyAll") return method.bind(target);
        return (operator: string, operands: readonly Value[], attributes: unknown): readonly Value[] => {
          if (operator !== "router" && operator !== "sparseMixer")
            return method.call(target, operator, operands, attributes);
          const numbers = target.integers([...kept], [kept.length]);
          const rows = operands.slice(1).map((operand) => target.apply("gather", [operand, numbers]));
          const [chosen, weights] = method.call(target, operator, [operands[0], ...rows], attributes);
          return [target.apply("gather", [numbers, chosen as Value]), weights as Value];
        };
      },
    });
  return {
    ...block,
    shapeKey: `${block.shapeKey} of ${kept.join()}`,
    build: (context) => block.build({ ...context, graph: narrowed(context.graph) }),
  };
}

/** Columns of what reads channels that are not kept become zero. */
function zeroChannels(block: BlockSpec, weights: ReadonlyMap<string, Float32Array>, kept: readonly number[]): void {
  const isKept = new Set(kept);
  for (const linear of channelGroup(block)?.linears ?? []) {
    const { shape } = lookUp(block.tensors, linear.role);
    const stored = lookUp(weights, linear.role);
    const matrix = takeMatrix(stored, shape, linear);
    for (let at = 0; at < matrix.length; at++) if (!isKept.has(at % linear.inFeatures)) matrix[at] = 0;
    putMatrix(matrix, stored, shape, linear);
  }
}

/** What leaves the last block. */
async function forward(model: Model, { drop, keep }: Partial<CutPlan>): Promise<Float32Array> {
  const { architecture, checkpoint } = model;
  const { vocabularySize } = architecture;
  const ids = [1, 2].map((seed) =>
    Int32Array.from({ length: TOKENS }, (_, i) => (i * 37 + seed * 11) % vocabularySize),
  );
  const memory = { memoryBytes: 2 ** 24, scratchFile: "/nowhere" };
  await using states = await HiddenStates.create({
    sequences: 2,
    tokens: TOKENS,
    width: architecture.state.width,
    ...memory,
  });
  await embedTokens(model, ids, states);
  let hidden = await readStates(states, 0, 2);
  await using runner = new BlockRunner(architecture);
  for (const block of architecture.blocks) {
    if (drop?.blocks.includes(block.index) === true) continue;
    const weights = await readBlockWeights(checkpoint, block);
    const [experts, channels] = [keep?.experts?.[block.index], keep?.channels?.[block.index]];
    if (channels !== undefined) zeroChannels(block, weights, channels);
    const run = experts === undefined ? block : withoutExperts(block, experts);
    const result = await runBlock(
      runner,
      run,
      weights,
      hidden,
      { batch: 2, tokens: TOKENS },
      { hidden: true, taps: undefined },
    );
    assert.ok(result.hidden);
    hidden = result.hidden;
  }
  return hidden;
}

/** All but the second of every group of four, or of all. */
function someExperts({ count, limit, chosen }: NonNullable<BlockSpec["experts"]>): number[] {
  const size = count / (limit?.groups ?? 1);
  const all = Array.from({ length: count }, (_, expert) => expert);
  const kept = all.filter((expert) => expert % size !== 1 || size <= 2);
  return kept.length < chosen ? all : kept;
}

/** Whether one number in the family's config is the width of all dense MLPs. */
function hasWidth({ architecture }: Model): boolean {
  return findFamily(architecture.family).edit?.width !== undefined;
}

/** Without a block in the middle; with fewer experts and channels. */
function plansFor(model: Model, isFirst: boolean): Partial<CutPlan>[] {
  const { blocks } = model.architecture;
  const shorter = { drop: { blocks: [Math.floor(blocks.length / 2)], allowEnds: true } };
  const plans: Partial<CutPlan>[] = blocks.length > 1 ? [shorter] : [];
  if (!isFirst) return plans;
  const experts = blocks.flatMap((block) =>
    block.experts === undefined ? [] : [[String(block.index), someExperts(block.experts)] as const],
  );
  const channels = blocks.flatMap((block) => {
    const { inFeatures = 0 } = (hasWidth(model) ? channelGroup(block) : undefined) ?? {};
    // Others in each block, but as many.
    const all = Array.from({ length: inFeatures }, (_, channel) => channel);
    const kept = all.filter((channel) => (channel + block.index) % inFeatures >= 16);
    return inFeatures === 0 ? [] : [[String(block.index), kept] as const];
  });
  const keep = {
    ...(experts.length === 0 ? {} : { experts: Object.fromEntries(experts) }),
    ...(channels.length === 0 ? {} : { channels: Object.fromEntries(channels) }),
  };
  return Object.keys(keep).length === 0 ? plans : [...plans, { keep }];
}

/** Families of whose models no part can be written. */
const UNCUT = ["gemma3n_text"];

for (const fixture of fixtures()) {
  for (const config of fixture.configs) {
    test(`${fixture.folder}, ${config}: parts`, { skip: fixture.skip }, async (t) => {
      const directory = await copyFixture(t, fixture, config);
      await using model = await openModel(directory);
      const base = await emptyPlan(model);
      for (const verbs of plansFor(model, config === "config.json")) {
        const place = temporaryDirectory(t);
        const [plan, out] = [join(place, "plan.json"), join(place, "out")];
        writeFileSync(plan, JSON.stringify({ ...base, ...verbs }));
        const cutting = cutModel({ model: directory, plan, out, force: false, resume: false }, createTestContext());
        if (findFamily(model.architecture.family).edit === undefined) {
          await assert.rejects(cutting, { code: "E_EDIT_FAMILY" });
          assert.ok(UNCUT.includes(fixture.folder) && !existsSync(out));
          continue;
        }
        await cutting;
        const verified = await verifyModel({ directory: out });
        assert.equal(verified.blocks, model.architecture.blocks.length - (verbs.drop?.blocks.length ?? 0));
        await using written = await openModel(out);
        const [expected, actual] = [await forward(model, verbs), await forward(written, {})];
        assert.ok(expected.every(Number.isFinite));
        assert.equal(
          Buffer.compare(Buffer.from(actual.buffer), Buffer.from(expected.buffer)),
          0,
          JSON.stringify(verbs),
        );
      }
    });
  }
}
