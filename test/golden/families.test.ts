/**
 * Whole small models as the reference library computes them: embeddings, what leaves every block, the input of every
 * linear, logits. Parts of them are fixtures (test/model/families.test.ts), which are compared everywhere.
 */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { embedTokens } from "../../src/forward/embedding.js";
import { applyFinalNorm, computeLogits } from "../../src/forward/head.js";
import { HiddenStates } from "../../src/forward/hidden-states.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import { lookUp } from "../../src/look-up.js";
import { familyOf } from "../../src/model/families/registry.js";
import { openModel } from "../../src/model/open-model.js";
import { readJson, storedModule, TOLERANCE, toleranceOf } from "../helpers/architectures.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { readStates, runBlock, streamByStream, writeStates } from "../helpers/forward.js";
import { sharedPath } from "../helpers/paths.js";
import { readTensors, relativeError, rowsOf, tensorOf } from "../helpers/tensors.js";

/** Linears of the library that are never pruned: routers, gates of shared experts, and what mixes streams. */
const ROUTER = /\.(gate|wg|router|layer|shared_expert_gate|modality_router|prediction_coefs|correction_coefs)$/;

const reference = sharedPath("golden/transformers-5");
const folders = reference === undefined ? [] : readdirSync(reference, { withFileTypes: true });

for (const folder of folders.filter((entry) => entry.isDirectory()).map(({ name }) => name)) {
  const directory = join(reference ?? "", folder);
  const { model_type: modelType } = readJson<{ model_type: string }>(join(directory, "config.json"));
  const skip = familyOf(modelType) === undefined ? `no family for model_type "${modelType}" yet` : false;
  test(`${folder}: every block, every linear's input and the logits are the library's`, { skip }, async (t) => {
    const golden = readTensors(join(directory, "golden.safetensors"));
    const ids = rowsOf(tensorOf(golden, "input_ids"));
    const tokens = ids[0]?.length ?? 0;
    await using model = await openModel(directory);
    const { architecture } = model;
    await using states = await HiddenStates.create({
      sequences: 2,
      tokens,
      width: architecture.state.width,
      memoryBytes: 2 ** 24,
      scratchFile: join(temporaryDirectory(t), "scratch.bin"),
    });
    const compare = (actual: ArrayLike<number>, name: string, tolerance = TOLERANCE): void => {
      const error = relativeError(actual, tensorOf(golden, name).values);
      assert.ok(error < tolerance, `${name}: ${error}`);
    };
    await embedTokens(model, ids, states);
    compare(streamByStream(architecture, await readStates(states, 0, 2)), "embed");
    const left = new Set([...golden.keys()].filter((name) => name.startsWith("inputs/") && !ROUTER.test(name)));
    await using runner = new BlockRunner(architecture);
    for (const block of architecture.blocks) {
      const weights = await readBlockWeights(model.checkpoint, block);
      const groups = block.groups.map(({ name }) => name);
      const hidden = await readStates(states, 0, 2);
      const request = { hidden: true, taps: { kind: "inputs", groups } } as const;
      const result = await runBlock(runner, block, weights, hidden, { batch: 2, tokens }, request);
      for (const { name: group, linears } of block.groups) {
        for (const { name, role } of linears) {
          const module = storedModule(block, role, name);
          const input = `inputs/${module}`;
          if (!golden.has(input)) continue; // an expert: stacked ones are no linears to the library
          compare(lookUp(result.taps, group).parts[0] ?? [], input, toleranceOf(folder, module));
          left.delete(input);
        }
      }
      assert.ok(result.hidden);
      compare(streamByStream(architecture, result.hidden), `block/${block.index}`);
      await writeStates(states, 0, result.hidden);
    }
    assert.deepEqual([...left], [], "linears of the library that are not pruned");
    await applyFinalNorm(model, states, 2);
    compare(await computeLogits(model, states, { batch: 1 }), "logits");
  });
}
