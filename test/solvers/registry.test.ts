/** Finding methods by name, and their option schemas. */
import { readFileSync } from "node:fs";
import { test } from "node:test";
import assert from "node:assert/strict";
import { repositoryPath } from "../helpers/paths.js";
import { UsageError } from "../../src/errors.js";
import { findSolver, SOLVERS } from "../../src/solvers/registry.js";

test("every registered solver is found under its own name", () => {
  assert.deepEqual(
    [...SOLVERS].filter(([, solver]) => solver.startsFromMask !== true).map(([name]) => name),
    ["random", "magnitude", "wanda", "wanda++", "ria", "snip", "gblm", "sparsegpt", "thanos", "admm", "alps"],
  );
  assert.deepEqual(
    [...SOLVERS].filter(([, solver]) => solver.startsFromMask === true).map(([name]) => name),
    ["dsnot", "obs-update", "admm-update", "cg-update"],
  );
  for (const [name, solver] of SOLVERS) {
    assert.equal(findSolver(name), solver);
    assert.equal(solver.name, name);
    assert.ok(solver.summary.length > 10);
  }
});

test("an unknown method is a usage error that names the nearest one and lists all", () => {
  for (const [wrong, near] of [
    ["wand", "wanda"],
    ["sparse-gpt", "sparsegpt"],
    ["SparseGPT2", "sparsegpt"],
    ["magnitud", "magnitude"],
  ]) {
    assert.throws(
      () => findSolver(wrong),
      (error) =>
        error instanceof UsageError &&
        error.code === "E_METHOD" &&
        error.message.includes(`"${wrong}"`) &&
        error.message.includes([...SOLVERS.keys()].join(", ")) &&
        error.hint?.includes(`"${near}"`) === true,
    );
  }
  assert.throws(
    () => findSolver("aut", ["auto"]),
    (error) => error instanceof UsageError && error.hint?.includes('"auto"') === true,
  );
});

/** The table of options on a method's page: what it says the defaults are. */
function documentedDefaults(method: string): Record<string, unknown> {
  const page = readFileSync(repositoryPath(`docs/methods/${method}.md`), "utf8");
  const lines = page.split("\n");
  const head = lines.findIndex((line) => /^\| *option *\| *default/.test(line));
  assert.ok(head >= 0, `docs/methods/${method}.md has no table of options`);
  const rows = lines.slice(head + 2, lines.indexOf("", head));
  return Object.fromEntries(
    rows.flatMap((row) => {
      const [, option = "", text = ""] = row.split("|").map((cell) => cell.trim());
      const [, name = ""] = /^`(\w+)`/.exec(option) ?? [];
      const word = /^`?([A-Za-z]\w*)`?$/.exec(text)?.[1];
      if (word === "none") return [];
      const value =
        word === "true" || word === "false" ? word === "true" : (word ?? Number(/\d[\d.]*/.exec(text)?.[0]));
      return [[name, value]];
    }),
  );
}

test("options have the defaults that the method's page documents", () => {
  for (const [name, { schema }] of SOLVERS) {
    assert.deepEqual(schema.parse({}), documentedDefaults(name), name);
    assert.throws(() => schema.parse({ unknown: 1 }), name);
  }
  assert.throws(() => findSolver("admm").schema.parse({ iterations: 10 }), /maskIterations/);
});

test("unknown, mistyped and out-of-range options are refused", () => {
  const { schema } = findSolver("sparsegpt");
  for (const bad of [{ dampng: 0.1 }, { damping: 0 }, { damping: -1 }, { damping: "0.1" }, { damping: Infinity }]) {
    assert.throws(() => schema.parse(bad), JSON.stringify(bad));
  }
  for (const blockSize of [0, 3, 48, 127, 256, 1.5])
    assert.throws(() => schema.parse({ blockSize }), `blockSize ${blockSize}`);
  for (const blockSize of [1, 2, 4, 8, 16, 32, 64, 128]) {
    assert.deepEqual(schema.parse({ blockSize }), { damping: 0.01, blockSize, counting: "exact", order: "natural" });
  }
  assert.throws(() => findSolver("wanda").schema.parse({ damping: 0.1 }));
  assert.throws(() => findSolver("magnitude").schema.parse({ blockSize: 128 }));
});
