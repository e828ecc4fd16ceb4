/** The arrows of docs/architecture.md, read from the import lines: a folder imports only what the table allows. */
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { test } from "node:test";
import { repositoryPath } from "./helpers/paths.js";

/** Plain data, errors, logging and words: everyone may import these. */
const EVERYWHERE = [
  "array",
  "array-pool",
  "contract",
  "context",
  "errors",
  "files",
  "is-record",
  "json",
  "json-patch",
  "layout-hint",
  "logging",
  "look-up",
  "nearest-name",
  "problems",
  "shelf",
  "version",
];

const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  cli: ["index", "options", "report"],
  index: ["api", "options", "report"],
  api: ["hub", "driver", "evaluation", "generation", "inspection", "report", "config", "calibration", "options"],
  driver: [
    "training",
    "evaluation",
    "generation",
    "report",
    "options",
    "calibration",
    "training",
    "solvers",
    "forward",
    "model",
    "checkpoint",
    "device",
    "spectra",
    "allocation",
    "sparsity",
    "onnx",
  ],
  evaluation: ["calibration", "forward", "model", "onnx", "graph"],
  generation: ["calibration", "forward", "model", "checkpoint"],
  inspection: ["model", "checkpoint"],
  report: ["options", "methods", "solvers", "allocation", "forward", "model", "device", "graph", "sparsity"],
  config: ["options", "methods", "training", "solvers", "allocation", "sparsity"],
  options: ["methods", "solvers", "allocation", "sparsity"],
  calibration: ["solvers", "forward", "model", "checkpoint", "device"],
  solvers: ["device", "sparsity"],
  methods: ["solvers", "training"],
  training: ["calibration", "solvers", "forward", "model", "checkpoint", "device", "graph", "sparsity"],
  forward: ["model", "checkpoint", "onnx", "graph"],
  model: ["checkpoint", "graph"],
  checkpoint: [],
  hub: [],
  device: ["onnx", "sparsity"],
  spectra: ["onnx"],
  allocation: [],
  sparsity: [],
  onnx: ["graph"],
  graph: [],
  contract: ["options", "allocation", "sparsity", "training"],
};

/** Native addons, each behind one folder. */
const ADDONS: Readonly<Record<string, string>> = {
  "onnxruntime-node": "src/onnx",
  webgpu: "src/device/webgpu",
  "@anush008/tokenizers": "src/calibration",
};

function sources(): string[] {
  const files = readdirSync(repositoryPath("src"), { recursive: true }).map(String);
  return files.filter((file) => file.endsWith(".ts") && !file.includes("assembly")).map((file) => join("src", file));
}

function importsOf(file: string): string[] {
  const text = readFileSync(repositoryPath(file), "utf8");
  return [...text.matchAll(/(?:from|import)\s*\(?\s*"([^"]+)"/g)].map((match) => match[1] ?? "");
}

/** src/model/rotary.ts → model; src/errors.ts → errors */
function roomOf(path: string): string {
  return (path.split("/")[1] ?? "").replace(/\.[jt]s$/, "");
}

test("imports follow the arrows of the architecture", () => {
  const wrong = sources().flatMap((file) =>
    importsOf(file)
      .filter((name) => name.startsWith("."))
      .map((name) => normalize(join(dirname(file), name)))
      .filter((target) => {
        const [from, to] = [roomOf(file), roomOf(target)];
        return from !== to && !EVERYWHERE.includes(to) && MAY_IMPORT[from]?.includes(to) !== true;
      })
      .map((target) => `${file} imports ${target}`),
  );
  assert.deepEqual(wrong, []);
});

test("solvers do not import each other", () => {
  // A method is a file that the registry imports; what methods share lies in the other files of the folder.
  const siblings = (file: string): string[] => importsOf(file).filter((name) => name.startsWith("./"));
  const others = ["./solver.js"];
  const methods = siblings("src/solvers/registry.ts").filter((name) => !others.includes(name));
  assert.ok(methods.length >= 8, methods.join(", "));
  const shared = sources().filter((file) => file.startsWith("src/solvers/") && !file.endsWith("/registry.ts"));
  for (const file of shared) {
    const wrong = siblings(file).filter((name) => methods.includes(name) || name === "./registry.js");
    assert.deepEqual(wrong, [], file);
  }
});

test("each native addon is imported in one folder", () => {
  for (const [addon, folder] of Object.entries(ADDONS)) {
    const importers = sources().filter((file) => importsOf(file).includes(addon));
    assert.ok(importers.length > 0, addon);
    for (const file of importers) assert.ok(file.startsWith(`${folder}/`), `${file} imports ${addon}`);
  }
});

test("node:fs is behind one door", () => {
  const importers = sources().filter((file) => importsOf(file).some((name) => /^(node:)?fs(\/promises)?$/.test(name)));
  assert.deepEqual(importers, ["src/files/door.ts"]);
});

test("every room of the source has a rule here and a row in docs/architecture.md", () => {
  const document = readFileSync(repositoryPath("docs/architecture.md"), "utf8");
  const rooms = new Set(
    sources()
      .map(roomOf)
      .filter((room) => !EVERYWHERE.includes(room) && room !== "index"),
  );
  for (const room of rooms) {
    assert.ok(MAY_IMPORT[room] !== undefined, room);
    assert.match(document, new RegExp(`\`src/${room}/\``), room);
  }
});
