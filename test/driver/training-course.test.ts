/** What is said and reported of a training, and when its state is kept. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { createCpuDevice } from "../../src/device/cpu/cpu-device.js";
import { Journal } from "../../src/driver/journal.js";
import { TrainingCourseLog } from "../../src/driver/training-course.js";
import { TrainingState } from "../../src/driver/training-state.js";
import type { ProjectionReport } from "../../src/training/descent.js";
import { FULL_PRECISION, ParameterStore } from "../../src/training/parameter-store.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { createMemoryLogger } from "../../src/logging.js";

const PROJECTED: ProjectionReport = { primal: 0.1, dual: 0.2, flips: 0.01, lambda: 0.5, penaltyRatio: 1 };

function courseOf(
  steps: number,
  interval: number,
  penaltyRatio = 1,
  frozenFrom = steps,
  flips = PROJECTED.flips,
): TrainingCourseLog {
  const log = new TrainingCourseLog(steps);
  for (let step = 1; step <= steps; step++) {
    const isProjected = (step - 1) % interval === 0 && step <= frozenFrom;
    const projected = isProjected ? { ...PROJECTED, penaltyRatio, flips } : undefined;
    log.add({ step, steps, loss: 1 / step, gradientNorm: 2, ...(projected && { projected }) });
  }
  return log;
}

test("a curve has some 64 points, each the mean since the one before, and its ends", () => {
  const { curve } = courseOf(2048, 5000).course; // one projection, at the first step
  assert.ok(curve.length > 60 && curve.length < 70, `${curve.length}`);
  assert.equal(curve[0]?.step, 1);
  assert.equal(curve.at(-1)?.step, 2048);
  const [before, point] = curve.slice(3, 5) as [(typeof curve)[number], (typeof curve)[number]];
  const between = Array.from({ length: point.step - before.step }, (_, i) => 1 / (before.step + 1 + i));
  assert.ok(Math.abs(point.loss - between.reduce((a, b) => a + b, 0) / between.length) < 1e-12);
  const few = courseOf(7, 100).course.curve.map(({ step }) => step);
  assert.equal(few[0], 1);
  assert.equal(few.at(-1), 7);
});

test("projections have points for themselves, every one or as many as a curve has, and what is between its own", () => {
  const stepsOf = (interval: number): number[] =>
    courseOf(1000, interval, 1, 500)
      .course.curve.filter(({ primal }) => primal !== undefined)
      .map(({ step }) => step);
  for (const interval of [20, 32, 250])
    assert.deepEqual(
      stepsOf(interval),
      Array.from({ length: Math.ceil(500 / interval) }, (_, i) => 1 + interval * i),
    );
  assert.deepEqual(stepsOf(8).slice(0, 4), [1, 17, 33, 49], "every second");
  const { curve } = courseOf(1000, 250, 1, 500).course;
  const others = curve.filter(({ primal }) => primal === undefined).map(({ step }) => step);
  assert.ok(others.length > 50 && others.length < 70, `${others.length}`);
  assert.ok(others.some((step) => step < 250) && others.includes(1000));
});

test("the report's losses are means over tenths, also of a training that was taken up again", () => {
  const whole = courseOf(100, 10);
  const first = Array.from({ length: 10 }, (_, i) => 1 / (i + 1)).reduce((a, b) => a + b, 0) / 10;
  assert.ok(Math.abs(whole.ends.first - first) < 1e-12);
  const again = new TrainingCourseLog(100, JSON.parse(JSON.stringify(whole.course)) as typeof whole.course);
  assert.deepEqual(again.ends, whole.ends);
  assert.deepEqual(again.course, whole.course);
});

test("a penalty far off its useful range is warned of once, with what was measured and what to do", () => {
  for (const [ratio, expected] of [
    [1e-4, /λ is too weak: its pull is 0.00010 times.*larger --lambda/],
    [5e4, /λ is too strong.*smaller --lambda/],
    [1, undefined],
  ] as const) {
    const logger = createMemoryLogger();
    const log = courseOf(100, 5, ratio);
    log.warn(logger);
    log.warn(logger);
    assert.equal(logger.lines.length, expected === undefined ? 0 : 1);
    if (expected !== undefined) assert.match(logger.lines[0]?.message ?? "", expected);
  }
  for (const primal of [0.09, 0.45]) {
    const apart = createMemoryLogger();
    const log = courseOf(100, 5);
    log.add({ step: 100, steps: 100, loss: 1, gradientNorm: 1, projected: { ...PROJECTED, primal } });
    for (const each of [log, new TrainingCourseLog(100, log.course)]) each.warnAtEnd(apart);
    assert.deepEqual(
      apart.lines.map(({ message }) => /still 45 % apart/.test(message)),
      primal < 0.1 ? [] : [true, true],
      "also where the last projection was an earlier run's",
    );
  }
  const flipping = createMemoryLogger();
  courseOf(100, 5, 1, 100, 0.3).warn(flipping);
  assert.match(flipping.lines[0]?.message ?? "", /does not settle: 30 %.*longer --interval/);
  const logger = createMemoryLogger();
  const early = new TrainingCourseLog(100);
  early.add({ step: 1, steps: 100, loss: 1, gradientNorm: 1, projected: { ...PROJECTED, penaltyRatio: 1e-9 } });
  early.warn(logger);
  assert.equal(logger.lines.length, 0, "x and z have not parted yet");
});

test("copies are minutes apart, take a twentieth of the time at most, and replace each other", async (t) => {
  const directory = temporaryDirectory(t);
  await using device = await createCpuDevice();
  const group = {
    name: "g",
    load: () => Promise.resolve([{ name: "w", shape: [2], values: Float32Array.of(1, 2), isMasked: false }]),
  };
  const open = (): Promise<ParameterStore> =>
    ParameterStore.create({ device, groups: [group], formats: FULL_PRECISION, memoryBytes: 2 ** 20, directory });
  await using store = await open();
  const fingerprint = { bytes: {}, place: {} };
  let time = 0;
  let costs = 0;
  const now = (): number => (time += costs); // asked for at the beginning and the end of a copy
  {
    await using journal = await Journal.open(directory, fingerprint, false);
    const state = new TrainingState({ store, journal, name: "elsa", directory: join(directory, "kept"), now });
    assert.equal(await state.restore(), undefined);
    assert.equal(state.isDue, false);
    time = 299_000;
    assert.equal(state.isDue, false);
    time = 300_000;
    assert.equal(state.isDue, true);
    await state.keep(3, { losses: [3, 2, 1], gradientNorms: [1, 1, 1], curve: [] });
    assert.equal(state.isDue, false);
    time = 600_000;
    costs = 30_000; // then the next is ten minutes away
    await state.keep(5, { losses: [5], gradientNorms: [1], curve: [] });
    costs = 0;
    time += 599_000;
    assert.equal(state.isDue, false);
    time += 2_000;
    assert.equal(state.isDue, true);
  }
  await using journal = await Journal.open(directory, fingerprint, true);
  await using other = await open();
  const again = new TrainingState({ store: other, journal, name: "elsa", directory: join(directory, "kept") });
  assert.deepEqual(await again.restore(), { step: 5, course: { losses: [5], gradientNorms: [1], curve: [] } });
});
