/** How far a run has come, by parts and in whole runs. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { allocationSchema } from "../../src/allocation/registry.js";
import type { RunConfig } from "../../src/contract.js";
import { Course, spansOf } from "../../src/driver/course.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { createTestContext } from "../helpers/engine.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { demoRun } from "../helpers/runs.js";

const THREE = [
  { name: "copy", seconds: 1 },
  { name: "a statistics", seconds: 2 },
  { name: "a.q", seconds: 1 },
  { name: "a statistics", seconds: 2 },
  { name: "a.o", seconds: 4 },
];

test("a part that begins ends all before it; the same name again is the next of that name", () => {
  const course = new Course(THREE);
  assert.equal(course.reach("copy", 0.5), 0.05);
  assert.equal(course.reach("a statistics", 0.5), 0.2);
  assert.equal(course.reach("a.q", 0), 0.3);
  assert.equal(course.reach("a statistics", 0.5), 0.5);
  assert.equal(course.reach("a.o", 1), 1);
});

test("nothing takes back what was done: a share that falls, an unknown part, one that is over", () => {
  const course = new Course(THREE);
  course.reach("a statistics", 0.5);
  assert.equal(course.reach("a statistics", 0.25), 0.2);
  assert.equal(course.reach("a.o", 0), 0.6);
  assert.equal(course.reach("a.q", 1), 0.6);
  assert.equal(course.reach("something else", 1), 0.6);
});

test("what is left out or was done before is no part of the whole", () => {
  const course = new Course(THREE);
  course.reach("copy", 1);
  course.leaveOut((name) => name === "a statistics" || name === "copy");
  assert.equal(course.fraction, 0.1, "what has begun stays");
  assert.equal(course.reach("a.q", 0), 1 / 6);
  course.shorten("a.o", 0.75);
  assert.equal(course.reach("a.o", 0), 2 / 3);
  assert.equal(course.reach("a.o", 1), 1);
});

test("parts of a whole lie in it by their time", () => {
  assert.deepEqual(spansOf([1, 3, 0]), [
    { from: 0, to: 0.25 },
    { from: 0.25, to: 1 },
    { from: 1, to: 1 },
  ]);
  assert.deepEqual(spansOf([0]), [{ from: 0, to: 0 }]);
});

const KINDS: Readonly<Record<string, Partial<RunConfig>>> = {
  "no activations": { method: "magnitude" },
  "one pass per block": { method: "wanda" },
  "group by group": { method: "sparsegpt", propagation: "group" },
  "the dense stream": { method: "sparsegpt", propagation: "dense" },
  "the dense model beside it": { method: "sparsegpt", propagation: "group", reproduce: "model" },
  "gradients of the model": { method: "snip" },
  "trained blocks": { then: [{ method: "reconstruct", methodOptions: { epochs: 1 } }] },
  "a trained model": { method: "elsa", methodOptions: { steps: 3, batchSize: 2, interval: 2 } },
  "an allocation": { allocation: allocationSchema.parse({ rule: "owl" }) },
  "a search": {
    allocation: allocationSchema.parse({ rule: "evolutionary", generations: 2, offspring: 4, heldOut: 1 }),
  },
};

for (const [kind, overrides] of Object.entries(KINDS))
  test(`a run of ${kind}: every part comes, in order, and all is done at the end`, async (t) => {
    const context = createTestContext(); // which expects that the share never falls
    const config = demoRun(join(temporaryDirectory(t), "out"), { seqlen: 16, ...overrides });
    await pruneModel(config, context);
    const { events } = context;
    assert.ok((events[0]?.fraction ?? 1) < 0.01, `it begins with ${events[0]?.fraction}`);
    assert.ok((events.at(-1)?.fraction ?? 0) > 0.999, `it ends with ${events.at(-1)?.fraction}`);
    const jumps = events
      .slice(1)
      .map(({ fraction }, i) => ({ by: fraction - (events[i]?.fraction ?? 0), event: events[i + 1] }));
    const largest = jumps.reduce((most, jump) => (jump.by > most.by ? jump : most));
    assert.ok(largest.by < 0.35, JSON.stringify(largest));
  });
