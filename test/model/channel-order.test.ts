/**
 * Every family's block computes the same function after its permutable channels changed places: what a family says about
 * the producers of an input is tested by permuting at random and comparing forwards, nothing being pruned.
 */
import assert from "node:assert/strict";
import { copyFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import type { BlockSpec } from "../../src/model/architecture.js";
import { readBlockWeights } from "../../src/forward/weights.js";
import { reorderChannels, reorderColumns, reorderRows } from "../../src/model/channel-order.js";
import { BlockRunner } from "../../src/forward/block-runner.js";
import { openModel } from "../../src/model/open-model.js";
import { fixturePath, fixtures } from "../helpers/architectures.js";
import { runBlock } from "../helpers/forward.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { relativeError } from "../helpers/tensors.js";

/** A shuffle that is the same everywhere. */
function shuffled(size: number, seed: number): Int32Array {
  const order = Int32Array.from({ length: size }, (_, i) => i);
  let state = seed + 1;
  for (let i = size - 1; i > 0; i--) {
    state = (state * 48271) % 2147483647; // Lehmer's generator
    const j = state % (i + 1);
    [order[i], order[j]] = [order[j] ?? 0, order[i] ?? 0];
  }
  return order;
}

/** Groups that read what a gate, an up projection or an MLP's first linear makes. */
function permutableGroups(block: BlockSpec): string[] {
  return block.groups.filter(({ producers }) => producers !== undefined).map(({ name }) => name);
}

async function compareForwards(directory: string): Promise<void> {
  await using model = await openModel(directory);
  const { architecture, checkpoint } = model;
  await using runner = new BlockRunner(architecture);
  const [batch, tokens] = [2, 9];
  const hidden = Float32Array.from({ length: batch * tokens * architecture.state.width }, (_, i) => Math.sin(i * 0.7));
  for (const block of architecture.blocks) {
    const expected = block.groups.map(({ name }) => name).filter((name) => /mlp-output|expert.*-output/.test(name));
    assert.deepEqual(permutableGroups(block), expected, "inputs of down projections, and nothing else");
    assert.ok(expected.length > 0, block.name);
    const weights = await readBlockWeights(checkpoint, block);
    const dense = new Map([...weights].map(([role, values]) => [role, values.slice()]));
    const forward = { hidden: true, taps: undefined };
    const before = await runBlock(runner, block, weights, hidden, { batch, tokens }, forward);
    const changed = block.groups.flatMap((group, index) =>
      group.producers === undefined
        ? []
        : [...reorderChannels(block, weights, group, shuffled(group.inFeatures, block.index * 100 + index))],
    );
    for (const [role, values] of weights) {
      const isSame = values.every((value, i) => value === dense.get(role)?.[i]);
      // A bias of zeros looks the same in any order.
      if (!isSame || !role.endsWith(".bias")) assert.equal(isSame, !changed.includes(role), role);
    }
    const after = await runBlock(runner, block, weights, hidden, { batch, tokens }, forward);
    assert.ok(before.hidden && after.hidden);
    const error = relativeError(after.hidden, before.hidden);
    assert.ok(error < 1e-5, `${block.name}: ${error}`); // sums of a few dozen float32 terms in another order
  }
}

for (const { folder, directory, skip } of fixtures()) {
  test(`${folder}: channels that change places leave the block's function as it is`, { skip }, () =>
    compareForwards(directory),
  );
}

for (const folder of ["mixtral", "qwen3_moe"]) {
  test(`${folder} with stacked experts: channels that change places leave the block's function as it is`, async (t) => {
    const directory = temporaryDirectory(t);
    copyFileSync(fixturePath(folder, "fused/model.safetensors"), join(directory, "model.safetensors"));
    copyFileSync(fixturePath(folder, "config.json"), join(directory, "config.json"));
    await compareForwards(directory);
  });
}

test("rows and columns in a new order", () => {
  const [n, width] = [131, 3];
  const order = shuffled(n, 5);
  const rows = Float32Array.from({ length: n * width }, (_, i) => i);
  const columns = rows.slice();
  reorderRows(rows, order);
  reorderColumns(columns, order);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < width; k++) {
      assert.equal(rows[i * width + k], (order[i] ?? 0) * width + k);
      assert.equal(columns[k * n + i], k * n + (order[i] ?? 0));
    }
  }
});
