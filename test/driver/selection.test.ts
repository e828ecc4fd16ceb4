/** Patterns of module paths: what they match, what they mean when they match nothing. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { compilePathPattern, selectionProblem, selectLinears } from "../../src/driver/selection.js";
import { UsageError } from "../../src/errors.js";
import { openModel } from "../../src/model/open-model.js";
import { UNSTRUCTURED } from "../../src/sparsity/pattern.js";
import { repositoryPath } from "../helpers/paths.js";

const Q = "model.layers.0.self_attn.q_proj";
const MATCHES: readonly [string, string, boolean][] = [
  ["*.q_proj", Q, true],
  ["*q_pro", Q, false],
  ["q_proj", Q, false],
  ["model.layers.?.self_attn.*", Q, true],
  ["*.{q,k}_proj", Q, true],
  ["*.{v,k}_proj", Q, false],
  ["model.layers.[0-2].*", Q, true],
  ["model.layers.{0..11}.*", "model.layers.10.mlp.up_proj", true],
  ["model.layers.{0..9}.*", "model.layers.10.mlp.up_proj", false],
  ["!*.q_proj", Q, false],
  ["!*.q_proj", "model.layers.0.self_attn.k_proj", true],
  ["re:.*\\.(q|k)_proj", Q, true],
  ["re:q_proj", Q, false],
  ["model.layers.0.self_attn.q_proj", Q, true],
  ["model_layers_0_self_attn_q_proj", Q, false],
];

test("globs and regular expressions match whole paths", () => {
  for (const [pattern, path, expected] of MATCHES)
    assert.equal(compilePathPattern(pattern).test(path), expected, `${pattern} on ${path}`);
  for (const pattern of ["re:(", "*.{q,k", "model.layers.[0"])
    assert.throws(() => compilePathPattern(pattern), UsageError, pattern);
});

test("what is never pruned needs no pattern; what matches nothing is told with what was meant", async () => {
  await using model = await openModel(repositoryPath("models/demo"));
  const select = (...ignore: string[]) => selectLinears(model.architecture, ignore, new Set(), ["model.norm"]);
  const habits = select("lm_head", "model.norm", "re:.*lm_head");
  assert.deepEqual(habits.needlessPatterns, ["lm_head", "model.norm", "re:.*lm_head"]);
  assert.equal(selectionProblem(habits, UNSTRUCTURED), undefined);
  for (const [said, meant] of [
    ["down_proj", "*.down_proj"],
    ["*.donw_proj", "*.down_proj"],
    ["mlp.up_proj", "*.mlp.up_proj"],
  ] as const)
    assert.match(
      selectionProblem(select(said), UNSTRUCTURED)?.message ?? "",
      new RegExp(`did you mean "${meant.replaceAll("*", "\\*")}"`),
    );
  assert.doesNotMatch(selectionProblem(select("nothing"), UNSTRUCTURED)?.message ?? "", /did you mean/);
  assert.equal(select("*.q_proj").ignored.length, 6);
});
