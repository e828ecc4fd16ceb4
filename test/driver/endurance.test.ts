/** Long and large work, in small: scripts/endurance.mjs is the whole of it. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import { openModel } from "../../src/model/open-model.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { measureGrowth } from "../helpers/growth.js";
import { writeRandomIds, writeSparseLarge, writeSyntheticLlama } from "../helpers/synthetic-model.js";

test("memory does not grow with the number of blocks", async (t) => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const directory = temporaryDirectory(t);
  const [hidden, intermediate, blocks] = [64, 128, 24];
  await writeSyntheticLlama(directory, { hidden, intermediate, blocks });
  const source = await writeRandomIds(directory, { sequences: 8, tokens: 16 });
  const blockBytes = 4 * (4 * hidden ** 2 + 3 * hidden * intermediate);
  const { bytesPerBlock } = await measureGrowth({
    ...{ model: directory, source, method: "wanda", out: join(temporaryDirectory(t), "out"), warmUp: 8 },
    measure: () => {
      collect();
      collect(); // what the first one found is given back by a thread of its own, which the second waits for
      return process.memoryUsage().arrayBuffers; // where weights are; the report's lines are on the heap
    },
  });
  assert.ok(bytesPerBlock < 0.01 * blockBytes, `${bytesPerBlock} bytes more with every block of ${blockBytes}`);
});

test("a model of 141 GB is opened and checked by its headers alone", async (t) => {
  const directory = temporaryDirectory(t);
  await writeSparseLarge(directory);
  await using model = await openModel(directory);
  assert.equal(model.architecture.blocks.length, 80);
  assert.ok(model.checkpoint.bytesRead < 1e6, `${model.checkpoint.bytesRead} bytes read`);
  await using checkpoint = await openCheckpoint(directory);
  const sizes = [...checkpoint.tensors.values()].map(({ byteLength }) => byteLength);
  assert.ok(sizes.reduce((a, b) => a + b, 0) > 141e9);
});
