/**
 * The graphs that stored architectures write, all in which something new meets: the interpreter against ONNX Runtime, how many nodes a mixture takes,
 * and that nobody but the encoder speaks ONNX.
 */
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { decompose } from "../../src/graph/decompose.js";
import type { Graph, Node } from "../../src/graph/graph.js";
import { buildNormGraph, buildTileGraph } from "../../src/forward/head.js";
import { buildPrologueGraph } from "../../src/forward/embedding.js";
import { buildBlockGraph, type BlockRequest } from "../../src/forward/block-graph.js";
import { buildDivergenceGraph } from "../../src/evaluation/divergence.js";
import type { BlockSpec } from "../../src/model/architecture.js";
import { openModel, type Model } from "../../src/model/open-model.js";
import { ConfigObject } from "../../src/model/config.js";
import { MIXTRAL } from "../../src/model/families/mixtral.js";
import { OnnxExecutor } from "../../src/onnx/executor.js";
import { fixturePath, readJson } from "../helpers/architectures.js";
import { blockFeeds } from "../helpers/block-feeds.js";
import { blockKinds, fixturesByBlockJoins, fixturesByJoins } from "../helpers/graph-joins.js";
import { assertAlike, isPrimitive, rounded, runOn } from "../helpers/graphs.js";
import { repositoryPath } from "../helpers/paths.js";
import { interpret, tensor } from "../reference/graph-interpreter.js";

/** As families.test.ts. */
const TOLERANCE = 1e-4;

function requestOf(block: BlockSpec, isRoutingBypassed: boolean): BlockRequest {
  const groups = block.groups.map(({ name }) => name);
  return { hidden: true, taps: { kind: "inputs", groups, hasMoments: true, isRoutingBypassed } };
}

for (const { fixture, own } of await fixturesByBlockJoins()) {
  const title = `${fixture.folder}: a block's graph means the same to the interpreter, decomposed, and to ONNX Runtime`;
  test(title, async () => {
    await using model = await openModel(fixture.directory);
    await using executor = new OnnxExecutor({ threads: 1 });
    const kinds = blockKinds(model);
    for (const block of own.map((kind) => kinds[kind] as BlockSpec)) {
      const feeds = await blockFeeds(model, block);
      const isRouted = block.groups.some((group) => group.isRouted === true);
      for (const isBypassed of isRouted ? [false, true] : [false]) {
        const graph = buildBlockGraph(model.architecture, block, requestOf(block, isBypassed));
        const expected = interpret(graph, feeds);
        assertAlike(interpret(decompose(graph, isPrimitive), feeds), expected, 1e-6, "decomposition");
        assertAlike(await runOn(executor, graph, feeds), expected, TOLERANCE, "ONNX Runtime");
      }
    }
  });
}

/** What stands before and after the blocks. */
function endsOf({ architecture }: Model): Graph[] {
  const { prologue } = architecture;
  return [
    buildNormGraph(architecture),
    buildTileGraph(architecture, "losses"),
    buildTileGraph(architecture, "logits"),
    buildDivergenceGraph(architecture, architecture, false),
    ...(prologue === undefined ? [] : [buildPrologueGraph(architecture, prologue)]),
  ];
}

for (const { fixture, own } of await fixturesByJoins(endsOf)) {
  test(`${fixture.folder}: head, prologue and divergence mean the same to both`, async () => {
    await using model = await openModel(fixture.directory);
    await using executor = new OnnxExecutor({ threads: 1 });
    const ends = endsOf(model);
    for (const graph of own.map((end) => ends[end] as Graph)) {
      const sizes: Readonly<Record<string, number>> = { tokens: 6, rows: 6 };
      const feeds = new Map(
        graph.inputs.map(({ name, value: { shape, dtype } }) => {
          const of = (index: number): number => (dtype === "i64" ? index % 5 : 0.8 * Math.sin(index * 0.61) + 0.1);
          return [
            name,
            tensor(
              shape.map((dim) => sizes[dim] ?? Number(dim)),
              of,
            ),
          ] as const;
        }),
      );
      const fed = rounded(feeds);
      assertAlike(await runOn(executor, graph, fed), interpret(graph, fed), TOLERANCE, graph.name);
    }
  });
}

function countOf(graph: Graph, operator: Node["operator"]): number {
  return graph.nodes.filter((node) => node.operator === operator).length;
}

test("a mixture of 128 experts is one node of its block's graph, taps and all", () => {
  const config = { ...readJson<object>(fixturePath("mixtral", "config.json")), num_local_experts: 128 };
  const values = new ConfigObject(config, "config.json");
  const architecture = MIXTRAL.describe(
    { values, modelType: "mixtral", text: JSON.stringify(config) },
    () => true,
    () => undefined,
  );
  const block = architecture.blocks[0] as BlockSpec;
  const whole = buildBlockGraph(architecture, block, requestOf(block, false));
  assert.equal(countOf(whole, "experts"), 1);
  assert.equal(countOf(whole, "router"), 1);
  const forward = buildBlockGraph(architecture, block, { hidden: true, taps: undefined });
  assert.ok(forward.nodes.length < 20, `${forward.nodes.length} nodes`);
  const [tapped] = buildBlockGraph(architecture, block, {
    hidden: false,
    taps: { kind: "column-norms", groups: ["expert-77-input"] },
  }).nodes.filter(({ operator }) => operator === "experts");
  assert.equal(tapped?.outputs.length, 2, "the sum and the one tap");
});

test("no family writes plumbing: a llama block is products, norms and what stands between them", async () => {
  await using model = await openModel(fixturePath("llama"));
  const graph = buildBlockGraph(model.architecture, model.architecture.blocks[0] as BlockSpec, {
    hidden: true,
    taps: undefined,
  });
  assert.deepEqual(
    graph.nodes.map(({ operator }) => operator),
    [
      ...["rmsNorm", "gemm", "gemm", "gemm", "rotary", "rotary", "attention", "gemm", "add"],
      ...["rmsNorm", "gemm", "gemm", "gatedActivation", "gemm", "add"],
    ],
  );
});

test("the names of ONNX's operators stand in its encoder alone", () => {
  const encoder = readFileSync(repositoryPath("src/onnx/encoder.ts"), "utf8");
  const rules = encoder.slice(encoder.indexOf("const MICROSOFT"), encoder.indexOf("export function encodeGraph"));
  const names = [...rules.matchAll(/"([A-Z][A-Za-z]+)"/g)].map((match) => match[1] as string);
  assert.ok(names.length > 40 && names.includes("Attention"), names.join(", "));
  const files = readdirSync(repositoryPath("src"), { recursive: true }).map(String);
  const wrong = files
    .filter((file) => file.endsWith(".ts") && !file.startsWith("onnx/"))
    .filter((file) => file !== "calibration/tokenizer.ts") // a tokenizer.json has a "Split" of its own
    .flatMap((file) => {
      const text = readFileSync(repositoryPath(join("src", file)), "utf8");
      return [...names, "com.microsoft"].filter((name) => text.includes(`"${name}"`)).map((name) => `${file}: ${name}`);
    });
  assert.deepEqual(wrong, []);
});
