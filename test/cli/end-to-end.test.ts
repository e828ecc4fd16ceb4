/** The program as its users run it, on the embedded demo model. */
import assert from "node:assert/strict";
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync, truncateSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { DEMO_MODEL, runPrune, type Finished } from "../helpers/cli.js";
import {
  DEVICES_DOCUMENT,
  ERROR_DOCUMENT,
  EVALUATION_DOCUMENT,
  INSPECTION_DOCUMENT,
  parseDocument,
  PLAN_DOCUMENT,
  RUN_DOCUMENT,
} from "../helpers/documents.js";

const folder = mkdtempSync(join(tmpdir(), "prune-end-to-end-"));
after(() => rmSync(folder, { recursive: true }));

const OUT = join(folder, "demo-half");
const BLOCKS = 6;
/** Linears of the demo model: 7 per block. */
const LINEARS = 7 * BLOCKS;
/** A small run on the CPU: the same on every machine. */
const SMALL = ["--device", "cpu", "--nsamples", "4", "--seqlen", "64"];
const EVALUATION = ["--text", join(DEMO_MODEL, "evaluation.txt"), "--seqlen", "64", "--max-windows", "4"];

let run: Finished;
before(async () => {
  run = await runPrune(["--sparsity", "0.5", "--out", OUT, ...SMALL, "--json", "--log-format", "json"]);
});

function messages(stderr: string): string[] {
  return stderr
    .split("\n")
    .filter((line) => line.startsWith("{"))
    .map((line) => (JSON.parse(line) as { msg: string }).msg);
}

test("a run ends with 0 and exactly one document on stdout", () => {
  assert.equal(run.code, 0, run.stderr);
  const document = parseDocument(RUN_DOCUMENT, run.stdout);
  assert.equal(document.out, OUT);
  assert.equal(document.method, "wanda");
  assert.equal(document.layers.length, LINEARS);
  assert.deepEqual(document.sparsity, { target: 0.5, achieved: 0.5 });
  for (const { name, zeros, elements } of document.layers) assert.equal(zeros, elements / 2, name);
});

test("limits that are kept change nothing; one that is not ends with 3, its report on stdout all the same", async () => {
  const compared = ["eval", OUT, ...EVALUATION, "--max-windows", "1", "--reference", DEMO_MODEL];
  const [kept, broken] = await Promise.all([
    runPrune([...compared, "--json", "--max-ppl", "1e6", "--max-ppl-ratio", "50", "--max-kl", "9"]),
    runPrune([...compared, "--json", "--max-ppl", "1e6", "--max-ppl-ratio", "1.0001"]),
  ]);
  assert.equal(kept.code, 0, kept.stderr);
  const { limits, perplexity } = parseDocument(EVALUATION_DOCUMENT, kept.stdout);
  assert.deepEqual(
    limits?.map(({ name, most, isKept }) => [name, most, isKept]),
    [
      ["perplexity", 1e6, true],
      ["perplexityRatio", 50, true],
      ["klDivergence", 9, true],
    ],
  );
  assert.equal(limits[0]?.value, perplexity);
  assert.equal(broken.code, 3, broken.stderr);
  const document = parseDocument(EVALUATION_DOCUMENT, broken.stdout);
  assert.deepEqual(
    document.limits?.map(({ isKept }) => isKept),
    [true, false],
  );
  assert.match(broken.stderr, /does not keep --max-ppl-ratio 1\.0001: it is \d/);
  assert.doesNotMatch(broken.stderr, /--max-ppl 1/);
});

test("without a terminal stderr has JSON lines only: the demo model is named, and every block has one line", () => {
  const lines = run.stderr.trim().split("\n");
  assert.equal(lines.length, messages(run.stderr).length, run.stderr);
  assert.ok(
    messages(run.stderr).some((message) => message.startsWith("no --model given: taking the embedded demo model")),
  );
  for (let block = 1; block <= BLOCKS; block++) {
    const ofBlock = messages(run.stderr).filter((message) =>
      message.startsWith(`block ${block}/${BLOCKS}: 50.0% zeros`),
    );
    assert.equal(ofBlock.length, 1, run.stderr);
  }
});

test("the process ends within 2 seconds of its last line", () => {
  assert.ok(run.lingeredMs < 2000, `${run.lingeredMs} ms`);
});

test("the output holds every file of the model, and nothing partial is left", () => {
  assert.deepEqual(
    readdirSync(DEMO_MODEL).filter((name) => !readdirSync(OUT).includes(name)),
    [],
  );
  assert.equal(existsSync(`${OUT}.partial`), false);
});

test("inspect counts the zeros that the run reported", async () => {
  const finished = await runPrune(["inspect", OUT, "--json"]);
  assert.equal(finished.code, 0, finished.stderr);
  const document = parseDocument(INSPECTION_DOCUMENT, finished.stdout);
  const layers = parseDocument(RUN_DOCUMENT, run.stdout).layers;
  assert.equal(
    document.zeros,
    layers.reduce((sum, { zeros }) => sum + zeros, 0),
  );
  assert.equal(
    document.elements,
    layers.reduce((sum, { elements }) => sum + elements, 0),
  );
  assert.equal(document.sparsity, 0.5);
});

test("eval prints a perplexity with its protocol, and pruning raised it", async () => {
  const perplexityOf = async (model: string): Promise<number> => {
    const finished = await runPrune(["eval", model, ...EVALUATION, "--json"]);
    assert.equal(finished.code, 0, finished.stderr);
    const document = parseDocument(EVALUATION_DOCUMENT, finished.stdout);
    assert.deepEqual([document.windows, document.seqlen, document.tokens], [4, 64, 4 * 63]);
    // exp of a mean in float64, printed and read back: the two fields agree to rounding
    assert.ok(Math.abs(Math.exp(document.nll) / document.perplexity - 1) < 1e-12);
    return document.perplexity;
  };
  const [dense, pruned] = [await perplexityOf(DEMO_MODEL), await perplexityOf(OUT)];
  assert.ok(pruned > dense, `${pruned} > ${dense}`);
});

test("a dry run says what would be done and writes nothing", async () => {
  const out = join(folder, "dry");
  const args = ["--sparsity", "0.5", "--out", out, ...SMALL, "--ignore", "re:.*q_proj", "lm_head", "--dry-run"];
  const finished = await runPrune([...args, "--json"]);
  assert.equal(finished.code, 0, finished.stderr);
  const document = parseDocument(PLAN_DOCUMENT, finished.stdout);
  assert.equal(document.linears, LINEARS - BLOCKS);
  assert.match(finished.stderr, /--ignore lm_head: never pruned/);
  assert.equal(existsSync(out), false);
  assert.equal(existsSync(`${out}.partial`), false);
  assert.match((await runPrune(args)).stdout, /would prune +36 linears/);
});

test("people get text: facts of the run, the perplexity with its protocol, the table of tensors, the devices", async () => {
  const out = join(folder, "magnitude");
  const pruned = await runPrune(["--method", "magnitude", "--pattern", "2:4", "--out", out, ...SMALL]);
  assert.equal(pruned.code, 0, pruned.stderr);
  for (const fact of [
    /^out +.*magnitude$/m,
    /^method +magnitude, pattern 2:4/m,
    /^sparsity +50\.0000%/m,
    /^peak memory +[\d.]+ MB$/m,
    /^mlp\.down_proj +6 /m,
  ]) {
    assert.match(pruned.stdout, fact);
  }
  const evaluated = await runPrune(["eval", out, ...EVALUATION]);
  assert.match(evaluated.stdout, /^perplexity +\d+\.\d{4}\nnll +.*\nprotocol +4 non-overlapping windows of 64 tokens/);
  const inspected = await runPrune(["inspect", out]);
  assert.match(inspected.stdout, /^model\.layers\.0\.mlp\.down_proj\.weight +BF16 +\[256, 704\].* 2:4/m);
  assert.match(inspected.stdout, /weights in prunable linears: 50\.0000%\n$/);
  const devices = await runPrune(["devices"]);
  assert.match(devices.stdout, /^auto takes +(cpu|webgpu): /);
});

test("devices prints its document", async () => {
  const finished = await runPrune(["devices", "--json"]);
  assert.equal(finished.code, 0, finished.stderr);
  assert.ok(parseDocument(DEVICES_DOCUMENT, finished.stdout).onnxruntime.providers.includes("cpu"));
});

test("--quiet leaves stderr empty, and the log file still has every line", async () => {
  const log = join(folder, "run.log");
  const finished = await runPrune([
    "--sparsity",
    "0.5",
    "--out",
    OUT,
    "--force",
    ...SMALL,
    "--quiet",
    "--log-file",
    log,
  ]);
  assert.equal(finished.code, 0, finished.stderr);
  assert.equal(finished.stderr, "");
  const lines = readFileSync(log, "utf8").trim().split("\n");
  const said = lines.map((line) => JSON.parse(line) as { msg: string; report?: { layers: readonly unknown[] } });
  assert.equal(said.filter(({ msg }) => msg.startsWith("block ")).length, BLOCKS, "progress");
  assert.equal(said.at(-1)?.report?.layers.length, LINEARS, "and what came of it");

  const refused = await runPrune(["--sparsity", "0.5", "--out", OUT, ...SMALL, "--log-file", log]);
  const last = JSON.parse(readFileSync(log, "utf8").trim().split("\n").at(-1) ?? "") as Record<string, unknown>;
  assert.deepEqual([refused.code, last["level"], last["code"]], [2, "error", "E_OUTPUT_EXISTS"]);
});

/** What is refused before any work: nothing is written, the exit code says whose fault it is. */
const REFUSALS: readonly { what: string; args: () => readonly string[]; exit: number; code: string }[] = [
  {
    what: "an output that exists",
    args: () => ["--sparsity", "0.5", "--out", OUT, ...SMALL],
    exit: 2,
    code: "E_OUTPUT_EXISTS",
  },
  {
    what: "an output inside the model",
    args: () => ["--sparsity", "0.5", "--out", join(DEMO_MODEL, "out"), ...SMALL],
    exit: 2,
    code: "E_OUTPUT_OVERLAPS",
  },
  {
    what: "nothing to resume",
    args: () => ["--sparsity", "0.5", "--out", join(folder, "new"), "--resume", ...SMALL],
    exit: 2,
    code: "E_NOTHING_TO_RESUME",
  },
  {
    what: "a pattern that matches nothing",
    args: () => ["--sparsity", "0.5", "--out", join(folder, "new"), "--ignore", "no.such.layer", ...SMALL],
    exit: 2,
    code: "E_SELECTION",
  },
  {
    what: "a missing calibration file",
    args: () => ["--sparsity", "0.5", "--out", join(folder, "new"), "--calibration", "absent.txt"],
    exit: 4,
    code: "E_TEXT_MISSING",
  },
  {
    what: "a calibration text shorter than a window",
    args: () => ["--sparsity", "0.5", "--out", join(folder, "new"), "--device", "cpu", "--seqlen", "99999"],
    exit: 4,
    code: "E_TEXT_TOO_SHORT",
  },
  {
    what: "a truncated checkpoint",
    args: () => {
      const model = join(folder, "truncated");
      cpSync(DEMO_MODEL, model, { recursive: true });
      truncateSync(join(model, "model.safetensors"), 1_000_000);
      return ["--model", model, "--sparsity", "0.5", "--out", join(folder, "new"), ...SMALL];
    },
    exit: 4,
    code: "E_FILE_TRUNCATED",
  },
];

for (const { what, args, exit, code } of REFUSALS) {
  test(`${what} is refused with ${exit}`, async () => {
    const finished = await runPrune([...args(), "--json"]);
    const document = parseDocument(ERROR_DOCUMENT, finished.stdout);
    assert.equal(document.code, code);
    assert.equal(finished.code, exit, finished.stderr);
    assert.equal(existsSync(join(folder, "new")), false);
    assert.equal(existsSync(join(folder, "new.partial")), false);
    assert.ok(finished.lingeredMs < 2000, `${finished.lingeredMs} ms`);
  });
}

/** Long enough that a signal sent at the first block's line arrives before the end. */
const LONGER = ["--sparsity", "0.5", "--device", "cpu", "--nsamples", "32", "--seqlen", "128"];

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  test(`${signal} stops between steps with 75 and a partial output that --resume finishes`, async () => {
    const out = join(folder, `stopped-${signal}`);
    let isSent = false;
    const stopped = await runPrune([...LONGER, "--out", out, "--json"], {
      onStderr: (text, child) => {
        if (!isSent && text.includes(`block 1/${BLOCKS}`)) isSent = child.kill(signal);
      },
    });
    assert.equal(stopped.code, 75, stopped.stderr);
    assert.match(stopped.stderr, /stopping after this step; press Ctrl-C again to quit now/);
    assert.equal(parseDocument(ERROR_DOCUMENT, stopped.stdout).details["resumable"], true);
    assert.equal(existsSync(out), false);
    assert.equal(existsSync(`${out}.partial`), true);
    const resumed = await runPrune([...LONGER, "--out", out, "--resume", "--json"]);
    assert.equal(resumed.code, 0, resumed.stderr);
    const document = parseDocument(RUN_DOCUMENT, resumed.stdout);
    assert.ok(Number(document["resumedBlocks"]) >= 1);
    assert.equal(document.layers.length, LINEARS);
  });
}

test("a second Ctrl-C ends the process at once, by the signal itself", async () => {
  let sent = 0;
  const finished = await runPrune([...LONGER, "--out", join(folder, "killed")], {
    onStderr: (text, child) => {
      const isDue = sent === 0 ? text.includes(`block 1/${BLOCKS}`) : text.includes("press Ctrl-C again");
      if (isDue && sent < 2) sent += child.kill("SIGINT") ? 1 : 0;
    },
  });
  assert.equal(sent, 2);
  assert.equal(finished.signal, "SIGINT", "a shell shows 130");
});

test("a reader that goes away ends the program quietly", async () => {
  const finished = await runPrune(["inspect", OUT], { onStart: (child) => child.stdout?.destroy() });
  assert.equal(finished.code, 0);
  assert.equal(finished.stderr, "");
});
