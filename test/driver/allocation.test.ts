/** What a run says of the allocation it worked out. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { allocationSchema } from "../../src/allocation/registry.js";
import type { RunReport } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { SILENT_LOGGER } from "../../src/logging.js";
import { pruneCount } from "../../src/sparsity/target.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { createTestContext } from "../helpers/engine.js";
import { demoRun } from "../helpers/runs.js";

interface Warning {
  readonly message: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

async function pruneGlobally(
  t: TestContext,
  largest: number,
): Promise<{ readonly report: RunReport; readonly warnings: readonly Warning[] }> {
  const warnings: Warning[] = [];
  const warn = (message: string, fields: Record<string, unknown> = {}): void => void warnings.push({ message, fields });
  const allocation = allocationSchema.parse({ rule: "global", largest });
  const config = demoRun(join(temporaryDirectory(t), "out"), { method: "magnitude", sparsity: 0.7, allocation });
  const report = await pruneModel(config, createTestContext({ logger: { ...SILENT_LOGGER, warn } }));
  return { report, warnings };
}

test("linears that a rule asks more of than its largest sparsity are named in a warning", async (t) => {
  const largest = 0.72;
  const { report, warnings } = await pruneGlobally(t, largest);
  const capped = report.layers
    .filter(({ zeros, elements }) => zeros === pruneCount(elements, largest))
    .map(({ name }) => name);
  assert.ok(capped.length > 1 && capped.length < report.layers.length, String(capped.length));
  assert.equal(warnings.length, 1);
  const [{ message, fields }] = warnings as [Warning];
  assert.deepEqual(fields["capped"], capped);
  for (const part of ["--allocation global", String(largest), String(capped[0]), `${capped.length} linears`])
    assert.ok(message.includes(part), `${message} lacks ${part}`);
});

test("an allocation within its bounds warns of nothing", async (t) => {
  const { warnings } = await pruneGlobally(t, 0.99);
  assert.deepEqual(warnings, []);
});
