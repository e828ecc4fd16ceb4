/**
 * Every command of the README is run. The names it uses (a model, a calibration file, a text) are given to the demo
 * model and its texts in a scratch directory; the commands themselves are taken literally.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { EXIT_CODES } from "../../src/errors.js";
import { writeShortDemo } from "../helpers/demo-model.js";
import { repositoryPath } from "../helpers/paths.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";

/** Run by the person who reads, or by the very test run we are in. */
const NOT_RUN_HERE = ["npm run demo", "npm ci && npm run build && npm link", "npm test"];

const readme = readFileSync(repositoryPath("README.md"), "utf8");

function commandsOf(markdown: string): string[] {
  const blocks = [...markdown.matchAll(/```sh\n([\s\S]*?)```/g)].map((match) => match[1] ?? "");
  return blocks.flatMap((block) => block.split("\n")).filter((line) => line !== "" && !line.startsWith("#"));
}

/** argv of a command line with double quotes and nothing else that a shell would touch. */
function argvOf(line: string): string[] {
  assert.doesNotMatch(line, /[|;&$`'\\]/, `${line}: more shell than this test understands`);
  return [...line.matchAll(/"([^"]*)"|(\S+)/g)].map((match) => match[1] ?? match[2] ?? "");
}

test("every command of the README works as written", { timeout: 300_000 }, async (t) => {
  const directory = temporaryDirectory(t);
  // A short context makes default sequences short, and two blocks are enough: a dozen commands with 128 of them are quick.
  const config = { max_position_embeddings: 16 };
  await writeShortDemo(join(directory, "Llama-3.2-1B"), { blocks: 2, config });
  const calibration = readFileSync(repositoryPath("models/demo/calibration.txt"), "utf8");
  const documents = calibration.match(/[\s\S]{1,600}/g) ?? [];
  writeFileSync(
    join(directory, "c4.jsonl.gz"),
    gzipSync(documents.map((text) => `${JSON.stringify({ text })}\n`).join("")),
  );
  writeFileSync(join(directory, "notes.txt"), calibration);
  writeFileSync(join(directory, "recipe.yaml"), "version: 1\nmethod: wanda\nsparsity: 0.7\nallocation: owl\n");
  const evaluation = readFileSync(repositoryPath("models/demo/evaluation.txt"), "utf8");
  writeFileSync(join(directory, "wiki.test.txt"), evaluation.slice(0, 8_000)); // enough for windows, quick to evaluate

  const cache = join(directory, "hub");
  const cached = (repository: string, file: string): string => {
    const path = join(cache, repository, "snapshots", "0123abc", file);
    mkdirSync(dirname(path), { recursive: true });
    return path;
  };
  copyFileSync(join(directory, "c4.jsonl.gz"), cached("datasets--allenai--c4", "en/c4-train.00000-of-01024.json.gz"));
  copyFileSync(
    repositoryPath("test/fixtures/text/wikitext.parquet"),
    cached("datasets--Salesforce--wikitext", "wikitext-2-raw-v1/test-00000-of-00001.parquet"),
  );
  // The model of the Hub is in its cache.
  const snapshot = `models--meta-llama--Llama-3.2-1B/snapshots/${"0".repeat(40)}`;
  cpSync(join(directory, "Llama-3.2-1B"), join(cache, snapshot), { recursive: true });
  mkdirSync(join(cache, snapshot, "../../refs"));
  writeFileSync(join(cache, snapshot, "../../refs/main"), "0".repeat(40));
  const env = { ...process.env, HF_HUB_CACHE: cache, HF_HUB_OFFLINE: "1" };

  const commands = commandsOf(readme).filter((line) => !NOT_RUN_HERE.includes(line));
  assert.ok(commands.length >= 8, "the README lost its commands");
  for (const line of commands) {
    const [program, ...args] = argvOf(line);
    assert.equal(program, "prune", line);
    const words = [repositoryPath("bin/prune.js"), ...args];
    const { status, stdout, stderr } = spawnSync(process.execPath, words, { cwd: directory, encoding: "utf8", env });
    assert.equal(status, 0, `${line}\n${stderr}`);
    assert.notEqual(stdout, "", line);
    if (args.includes("--json")) assert.equal((JSON.parse(stdout) as { schema: string }).schema, "prune.eval/v1");
    if (!args.includes("--out")) continue;
    const out = join(directory, args[args.indexOf("--out") + 1] ?? "");
    assert.ok(existsSync(out.endsWith(".safetensors") ? out : join(out, "model.safetensors")), line);
  }
});

test("the README's npm commands are the package's", () => {
  const { scripts } = JSON.parse(readFileSync(repositoryPath("package.json"), "utf8")) as {
    scripts: Record<string, string>;
  };
  for (const name of ["demo", "test", "build", "bench"]) assert.ok(scripts[name] !== undefined, name);
});

test("the README's table of exit codes is the program's", () => {
  const documented = [...readme.matchAll(/^\| (\d+(?:, \d+)?) \|/gm)].flatMap((match) =>
    (match[1] ?? "").split(", ").map(Number),
  );
  assert.deepEqual(documented, Object.values(EXIT_CODES));
});
