/**
 * Accidents at some steps of commands that write; `npm run torture` lets them happen at all of them (docs/reliability.md). The steps
 * are those around every change of names and every promise to the journal, and a few between them.
 */
import { ACCIDENTS, type Step } from "../helpers/accidents.js"; // before anything that opens the door
import assert from "node:assert/strict";
import { test } from "node:test";
import { Torture, type SceneName } from "../helpers/torture.js";

/** Steps of a scene that are tried, from 1: as many as asked for, spread evenly over the interesting ones. */
function chosen(steps: readonly Step[], count: number): number[] {
  const isInteresting = ({ type, path }: Step): boolean =>
    ["rename", "sync", "unlink", "rmdir"].includes(type) || path.endsWith(".jsonl");
  const interesting = steps.flatMap((step, index) => (isInteresting(step) ? [index + 1] : []));
  return Array.from(
    { length: count },
    (_, i) => interesting[Math.floor(((i + 0.5) * interesting.length) / count)] ?? 1,
  );
}

/** The steps that give the output its name, where all that it needs must be on the disk. */
function namings(steps: readonly Step[]): number[] {
  return steps.flatMap((step, index) => (step.type === "rename" && step.to.endsWith("/out") ? [index + 1] : []));
}

async function expectNoHarm(
  scene: SceneName,
  counts: { readonly accidents: number; readonly cuts: number },
): Promise<void> {
  using torture = await Torture.of(scene);
  const problems: string[] = [];
  for (const [index, at] of chosen(torture.steps, counts.accidents).entries()) {
    const kind = ACCIDENTS[index % ACCIDENTS.length] as (typeof ACCIDENTS)[number];
    const { met, problem } = await torture.suffer({ kind, at });
    if (problem !== undefined) problems.push(`${kind} at ${at}, ${met?.type} ${met?.path}: ${problem}`);
  }
  const cuts = new Set([...chosen(torture.steps, counts.cuts), ...namings(torture.steps)]);
  for await (const { after, remains, met, problem } of torture.cutPower((step) => cuts.has(step)))
    if (problem !== undefined)
      problems.push(`power cut after ${after}, ${met?.type} ${met?.path}, ${remains}: ${problem}`);
  assert.deepEqual(problems, []);
}

test("a run", () => expectNoHarm("run", { accidents: 12, cuts: 3 }));
test("a run that replaces an output", () => expectNoHarm("replace", { accidents: 8, cuts: 3 }));
test("a comparison", () => expectNoHarm("compare", { accidents: 4, cuts: 1 }));
test("trainings", () => expectNoHarm("train", { accidents: 0, cuts: 2 }));
test("generated calibration data", () => expectNoHarm("generate", { accidents: 8, cuts: 13 }));
