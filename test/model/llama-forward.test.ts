/**
 * The llama family against stored forwards: embeddings, hidden states of every block, the input of every linear of
 * block 1, logits. Correct float32 implementations agree to 3e-5; 1e-4 is what the fixtures' authors accept, since a
 * wrong epsilon or rotation already costs 5e-4.
 */
import assert from "node:assert/strict";
import { copyFile, cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { BlockRunner, gramPanels, lookUp } from "../../src/model/forward.js";
import { readBlockWeights } from "../../src/model/block-weights.js";
import { embedTokens } from "../../src/model/embedding.js";
import { applyFinalNorm, computeLogits, nextTokenLosses } from "../../src/model/head.js";
import { HiddenStates } from "../../src/model/hidden-states.js";
import { openModel } from "../../src/model/open-model.js";
import { repositoryPath } from "../helpers/paths.js";
import { readTensors, relativeError, rowsOf, tensorOf } from "../helpers/tensors.js";

const TOLERANCE = 1e-4;
const FOLDERS = ["llama", "llama_bias"];

async function withModel(folder: string, config: string, use: (directory: string) => Promise<void>): Promise<void> {
  const source = repositoryPath(`test/fixtures/architectures/${folder}`);
  const directory = await mkdtemp(join(tmpdir(), "prune-llama-"));
  try {
    await cp(source, directory, { recursive: true });
    await copyFile(join(source, config), join(directory, "config.json"));
    await rm(join(directory, "golden.safetensors"));
    await use(directory);
  } finally {
    await rm(directory, { recursive: true });
  }
}

for (const folder of FOLDERS) {
  for (const config of ["config.json", "config.v5.json"]) {
    test(`${folder} with ${config} gives the stored hidden states, linear inputs and logits`, async () => {
      await withModel(folder, config, async (directory) => {
        const golden = readTensors(repositoryPath(`test/fixtures/architectures/${folder}/golden.safetensors`));
        const ids = rowsOf(tensorOf(golden, "input_ids"));
        const tokens = ids[0]?.length ?? 0;
        await using model = await openModel(directory);
        const { architecture } = model;
        const scratchFile = join(directory, "scratch.bin");
        // A budget of one sequence forces the second one through the scratch file.
        const memoryBytes = tokens * architecture.hiddenSize * 4;
        await using states = await HiddenStates.create({
          sequences: 2,
          tokens,
          hiddenSize: architecture.hiddenSize,
          memoryBytes,
          scratchFile,
        });
        await embedTokens(model, ids, states);
        assert.ok(relativeError(await states.read(0, 2), tensorOf(golden, "embed").values) < 1e-7, "embed");

        await using runner = new BlockRunner(architecture);
        const hiddenStates = tensorOf(golden, "hidden_states").values;
        for (const block of architecture.blocks) {
          const weights = await readBlockWeights(model.checkpoint, block);
          const groups = block.groups.map((group) => group.name);
          const input = await states.read(0, 2);
          const result = await runner.run(block, weights, input, 2, tokens, {
            hidden: true,
            taps: { kind: "inputs", groups },
          });
          assert.ok(result.hidden);
          if (block.index === 1) {
            for (const group of block.groups) {
              for (const linear of group.linears) {
                const expected = tensorOf(golden, `inputs/${linear.name}`).values;
                const error = relativeError(lookUp(result.taps, group.name).parts[0] ?? [], expected);
                assert.ok(error < TOLERANCE, `input of ${linear.name}: ${error}`);
              }
            }
          }
          const size = 2 * tokens * architecture.hiddenSize;
          const error = relativeError(
            result.hidden,
            hiddenStates.subarray(block.index * size, (block.index + 1) * size),
          );
          assert.ok(error < TOLERANCE, `hidden states of block ${block.index}: ${error}`);
          await states.write(0, result.hidden);
        }
        await applyFinalNorm(model, states, 2);
        const logits = await computeLogits(model, states, 1);
        const expected = tensorOf(golden, "logits").values;
        assert.ok(relativeError(logits, expected) < TOLERANCE, `logits: ${relativeError(logits, expected)}`);

        const losses = await nextTokenLosses(model, states, ids, 2);
        const vocabulary = architecture.vocabularySize;
        ids.forEach((sequence, s) => {
          for (let t = 0; t + 1 < tokens; t++) {
            const row = expected.subarray((s * tokens + t) * vocabulary, (s * tokens + t + 1) * vocabulary);
            const top = Math.max(...row);
            const logSumExp = top + Math.log(row.reduce((sum, logit) => sum + Math.exp(logit - top), 0));
            const loss = logSumExp - (row[sequence[t + 1] ?? 0] ?? 0);
            assert.ok(Math.abs((losses[s]?.[t] ?? NaN) - loss) < TOLERANCE * 10, `loss of sequence ${s} token ${t}`);
          }
        });
      });
    });
  }

  test(`${folder}: column norms and Gram panels computed in the graph are those of the tapped inputs`, async () => {
    await withModel(folder, "config.json", async (directory) => {
      await using model = await openModel(directory);
      const { architecture } = model;
      const block = architecture.blocks[0];
      assert.ok(block);
      const weights = await readBlockWeights(model.checkpoint, block);
      const tokens = 9;
      const hidden = new Float32Array(3 * tokens * architecture.hiddenSize).map((_, i) => Math.sin(i * 0.7) + 0.3);
      await using runner = new BlockRunner(architecture);
      const groups = block.groups.map((group) => group.name);
      const run = (kind: "inputs" | "column-norms" | "gram") =>
        runner.run(block, weights, hidden, 3, tokens, { hidden: false, taps: { kind, groups } });
      const [inputs, norms, grams] = [await run("inputs"), await run("column-norms"), await run("gram")];
      for (const { name, inFeatures: n } of block.groups) {
        const x = lookUp(inputs.taps, name).parts[0] as Float32Array;
        const gram = new Float64Array(n * n);
        for (let t = 0; t < x.length / n; t++) {
          for (let i = 0; i < n; i++)
            for (let j = 0; j < n; j++)
              gram[i * n + j] = (gram[i * n + j] ?? 0) + (x[t * n + i] ?? 0) * (x[t * n + j] ?? 0);
        }
        // 27 terms in float32: relative error below 27 · 2⁻²⁴ ≈ 2e-6 of the largest product sum.
        const diagonal = Float64Array.from({ length: n }, (_, i) => gram[i * n + i] ?? 0);
        assert.ok(relativeError(lookUp(norms.taps, name).parts[0] ?? [], diagonal) < 1e-5, `${name} norms`);
        gramPanels(n).forEach(({ first, end }, index) => {
          const panel = lookUp(grams.taps, name).parts[index] ?? new Float32Array(0);
          const expected = Float64Array.from(
            { length: (end - first) * end },
            (_, i) => gram[(first + Math.floor(i / end)) * n + (i % end)] ?? 0,
          );
          assert.ok(relativeError(panel, expected) < 1e-5, `${name} panel ${index}`);
        });
      }
    });
  });
}

test("wide Gram matrices are cut into panels that cover the lower triangle once", () => {
  for (const n of [1, 48, 703, 2048, 5632, 11008]) {
    const panels = gramPanels(n);
    assert.equal(panels[0]?.first, 0);
    assert.equal(panels.at(-1)?.end, n);
    panels.slice(1).forEach((panel, index) => assert.equal(panel.first, panels[index]?.end));
  }
  assert.equal(gramPanels(5632).length, 8);
});
