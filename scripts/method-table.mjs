// `npm run table`: every method at every sparsity on the demo model, written between the markers of
// docs/methods/README.md. Flags go to `prune compare` (--calibration, --text, --methods, --resume …); --docs FILE writes
// into another file that has the markers. Without flags it calibrates and evaluates on the model's own texts.
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { installAndBuild, ROOT } from "./install.mjs";

const BEGIN = "<!-- table: begin, written by npm run table -->";
const END = "<!-- table: end -->";
/** Says nothing about a method. */
const LEFT_OUT = ["random"];
/** Worth a row beside the methods that choose a mask themselves. */
const COMBINATIONS = ["wanda+obs-update", "wanda+admm-update", "sparsegpt+cg-update", "admm+cg-update"];

/** Also shown with --reproduce model: without a weight update, with one, and the best. */
const REPRODUCING = ["wanda", "sparsegpt", "alps"];

const { docs, flags } = parseArguments(process.argv.slice(2));
installAndBuild();
const before = readFileSync(docs, "utf8");
const [start, end] = [before.indexOf(BEGIN), before.indexOf(END)];
if (start === -1 || end < start) fail(`${docs} lacks the lines "${BEGIN}" and "${END}".`);

const SPARSITIES = "0.5,0.6,0.7,0.8";
const report = compare("own", methods(), SPARSITIES);
// Not where the flags say what to compare. A search takes minutes: at one sparsity.
const further = flags.includes("--methods")
  ? []
  : [
      ...compare("model", REPRODUCING, SPARSITIES, "--reproduce", "model").rows,
      ...compare("auto", ["auto"], "0.7").rows,
    ];
const content = section({ ...report, rows: [...report.rows, ...further] });
writeFileSync(docs, `${before.slice(0, start)}${BEGIN}\n\n${content}\n\n${before.slice(end)}`);

/** @param part names the folder of finished cells, so that each part can be resumed */
function compare(part, names, sparsities, ...more) {
  return prune([
    "compare",
    ...["--methods", names.join(","), "--sparsities", sparsities, "--patterns", "unstructured,2:4"],
    ...["--nsamples", "32", "--max-windows", "64", "--work", join(ROOT, `dist/method-table-${part}`)],
    ...more,
    ...flags,
  ]);
}

/** Methods that choose a mask, cheapest first as the registry has them, each followed by its combinations. */
function methods() {
  const { methods: known } = prune(["methods"]);
  const names = known.filter(({ startsFromMask }) => !startsFromMask).map(({ name }) => name);
  return names
    .filter((name) => !LEFT_OUT.includes(name))
    .flatMap((name) => [name, ...COMBINATIONS.filter((steps) => steps.startsWith(`${name}+`))]);
}

function section({ calibration, text, dense, rows }) {
  const header = ["method", "pattern", "perplexity", "KL", "top-1", "loss", "seconds"];
  const lines = [header, header.map(() => "---"), ...byTarget(rows).map(cellsOf)];
  const table = lines.map((cells) => `| ${cells.join(" | ")} |`).join("\n");
  return `Calibrated on ${plain(calibration.description)}; evaluated on ${plain(text)}.
Dense perplexity ${dense.perplexity.toFixed(2)}. Measured on ${new Date().toISOString().slice(0, 10)}.

${table}`;
}

/** Rows of one target together, in the order of the methods. */
function byTarget(rows) {
  const targets = [...new Set(rows.map(amountOf))];
  return targets.flatMap((target) => rows.filter((row) => amountOf(row) === target));
}

function amountOf({ pattern, sparsity }) {
  return pattern === "unstructured" ? String(sparsity.target) : pattern;
}

function targetOf(row) {
  return row.allocation === "uniform" ? amountOf(row) : `${amountOf(row)}, ${row.allocation}`;
}

function cellsOf(row) {
  const { method, perplexity, klDivergence, top1Agreement, loss, seconds, reproduce } = row;
  const reproduces = reproduce === "model";
  return [
    method.replace(/\+(?=[a-z])/, ", then ") + (reproduces && method !== "auto" ? ", reproducing the model" : ""),
    targetOf(row),
    perplexity.toFixed(perplexity < 1000 ? 2 : 0),
    klDivergence.value.toFixed(3),
    `${(100 * top1Agreement.value).toFixed(1)} %`,
    reproduces ? "" : loss.toFixed(4), // it is not what they minimise
    seconds.toFixed(1),
  ];
}

/** A description without the folders of this machine. */
function plain(description) {
  const [file] = description.split(/[:#]/, 1);
  return description.replace(
    file,
    basename(dirname(file)) === "demo" ? `models/demo/${basename(file)}` : basename(file),
  );
}

/** Run one command and return its JSON document; progress goes to the terminal. */
function prune(args) {
  const { status, stdout } = spawnSync(process.execPath, [join(ROOT, "bin/prune.js"), ...args, "--json"], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    maxBuffer: 2 ** 28,
  });
  if (status !== 0) fail(`prune ${args[0]} ended with ${status}.`);
  return JSON.parse(stdout);
}

function parseArguments(args) {
  const at = args.indexOf("--docs");
  if (at === -1) return { docs: join(ROOT, "docs/methods/README.md"), flags: args };
  if (args[at + 1] === undefined) fail("--docs: give the file to write into.");
  return { docs: args[at + 1], flags: args.toSpliced(at, 2) };
}

function fail(message) {
  process.stderr.write(`error: ${message}\n`);
  process.exit(1);
}
