/** The patched clone: what it copies, where it refuses to write, interruptions, and full disks. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { chmod, lstat, mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { describe, test, type TestContext } from "node:test";
import fc from "fast-check";
import { PIECE_BYTES } from "../../src/checkpoint/buffer-pool.js";
import { openCheckpoint, type Checkpoint, type TensorInfo } from "../../src/checkpoint/checkpoint.js";
import { CLONE_MARKER } from "../../src/checkpoint/clone.js";
import { createOutput, type OutputCheckpoint } from "../../src/checkpoint/output.js";
import type { OutputOptions } from "../../src/checkpoint/output-directory.js";
import { ConfigError, PruneError, ResourceError, UsageError } from "../../src/errors.js";
import { mountSmallDisk, NO_DISK } from "../helpers/small-disk.js";
import { temporaryDirectory, writeCheckpoint, type TestTensor } from "../helpers/checkpoints.js";

const values = (count: number, offset = 0): Float32Array =>
  Float32Array.from({ length: count }, (_, i) => ((i * 5 + offset) % 200) / 16 - 6);

const TENSORS: Readonly<Record<string, TestTensor>> = {
  "layers.0.w.weight": { dtype: "BF16", shape: [4, 6], values: values(24) },
  "layers.1.w.weight": { dtype: "F16", shape: [4, 6], values: values(24, 3) },
  "layers.2.w.weight": { dtype: "F32", shape: [4, 6], values: values(24, 4) },
  mask: { dtype: "BOOL", shape: [5], values: Uint8Array.of(0, 1, 1, 0, 255) },
  scalar: { dtype: "F32", shape: [], values: Uint8Array.of(0, 0, 0, 0x80) }, // -0 must survive untouched
  packed: { dtype: "F4", shape: [3, 2], values: Uint8Array.of(1, 2, 3) },
  unheard: { dtype: "Q7_X", shape: [2], values: Uint8Array.of(9, 8, 7) },
};

interface Setup {
  readonly base: string;
  readonly model: string;
  readonly out: string;
  readonly source: Checkpoint;
}

async function setUp(t: TestContext, shards: number = 2, files: Readonly<Record<string, string>> = {}): Promise<Setup> {
  const base = temporaryDirectory(t);
  const model = join(base, "model");
  await writeCheckpoint(model, { tensors: TENSORS, shards, config: { model_type: "llama" }, files });
  const source = await openCheckpoint(model);
  t.after(() => source[Symbol.asyncDispose]());
  return { base, model, out: join(base, "out"), source };
}

function create({ source, out }: Setup, options: Partial<OutputOptions> = {}): Promise<OutputCheckpoint> {
  return createOutput({ source, out, force: false, resume: false, ...options });
}

/** Every file below a directory with its content. */
async function contents(directory: string): Promise<Record<string, Buffer>> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true });
  const files: Record<string, Buffer> = {};
  for (const entry of entries.filter((candidate) => candidate.isFile())) {
    const path = join(entry.parentPath, entry.name);
    files[path.slice(directory.length + 1)] = await readFile(path);
  }
  return files;
}

const isError =
  (
    Class: new (...parameters: ConstructorParameters<typeof PruneError>) => PruneError,
    code: string,
    message: RegExp,
    hint?: RegExp,
  ) =>
  (error: unknown): true => {
    assert.ok(error instanceof Class, String(error));
    assert.equal(error.code, code);
    assert.match(error.message, message);
    if (hint !== undefined) assert.match(error.hint ?? "", hint);
    return true;
  };

describe("clone", () => {
  test("an untouched clone is the input, bit for bit, with working files gone", async (t) => {
    const setup = await setUp(t, 2, {
      "tokenizer.json": "{}",
      "chat_templates/tool.jinja": "{{x}}",
      "modeling.py": "pass",
      LICENSE: "L",
    });
    await using output = await create(setup);
    assert.equal(output.partialDirectory, `${setup.out}.partial`);
    assert.equal(output.resumed, false);
    await writeFile(join(output.partialDirectory, "journal.jsonl"), "{}");
    await writeFile(join(output.partialDirectory, "kept.json"), "{}");
    await output.finish({ remove: ["journal.jsonl", "never-existed"] });
    const found = await contents(setup.out);
    assert.equal(found["kept.json"]?.toString(), "{}");
    delete found["kept.json"];
    assert.deepEqual(found, await contents(setup.model));
    assert.deepEqual((await readdir(setup.base)).sort(), ["model", "out"]);
  });

  test("weights in other files, training states and traces of tools are left out; everything else is copied", async (t) => {
    const dropped = [
      "pytorch_model.bin",
      "pytorch_model.bin.index.json",
      "consolidated.safetensors",
      "params.json",
      "model.fp16.safetensors",
      "model.fp16.safetensors.index.json",
      "model-Q4.gguf",
      "tf_model.h5",
      "optimizer.pt",
      "onnx/model.onnx",
      "original/consolidated.00.pth",
      "checkpoint-500/trainer_state.json",
      ".git/HEAD",
      ".cache/huggingface/x.lock",
      "shard.incomplete",
      "adapter_config.json",
      "speech-lora/adapter_config.json",
      CLONE_MARKER,
      "mine.log",
    ];
    const kept = [
      "tokenizer.model",
      "preprocessor_config.json",
      "1_Pooling/config.json",
      "README.md",
      ".gitattributes",
      "deep/er/x.txt",
      "vocab.txt",
    ];
    const setup = await setUp(t, 2, Object.fromEntries([...dropped, ...kept].map((path) => [path, path])));
    await using output = await create(setup, { own: { working: ["mine.log"], written: [] } });
    await output.finish({ remove: [] });
    const found = Object.keys(await contents(setup.out)).sort();
    const shards = [
      "config.json",
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
      "model.safetensors.index.json",
    ];
    assert.deepEqual(found, [...kept, ...shards].sort());
  });

  test("what the output has for itself is left out or kept under another name, and said", async (t) => {
    const long = "n".repeat(250);
    const files = {
      "recipe.yaml": "theirs",
      "source-recipe.yaml": "older",
      "search/a": "a",
      "adapter_config.json": "{}",
    };
    const setup = await setUp(t, 1, { ...files, [long]: "a name that leaves no room" });
    const said: string[] = [];
    const own = { working: ["search"], written: ["recipe.yaml"] };
    await using output = await create(setup, { own, warn: (message) => said.push(message) });
    await writeFile(join(output.partialDirectory, "recipe.yaml"), "ours");
    await output.finish({ remove: ["search"] });
    const found = await contents(setup.out);
    const names = [
      long,
      "config.json",
      "model.safetensors",
      "recipe.yaml",
      "source-2-recipe.yaml",
      "source-recipe.yaml",
    ];
    assert.deepEqual(Object.keys(found).sort(), names.sort());
    assert.equal(found["source-2-recipe.yaml"]?.toString(), "theirs");
    assert.deepEqual(
      said.map((message) =>
        /(\S+) is (kept as source-2-recipe\.yaml|not copied)/.exec(message)?.slice(1, 2)[0]?.split("/").at(-1),
      ),
      ["search", "recipe.yaml", "adapter_config.json"],
    );
  });

  test("a kill after the last rename leaves what a resume goes on with, or removes", async (t) => {
    const setup = await setUp(t, 1);
    const own = { working: ["journal.jsonl", "search"], written: [] };
    const partial = `${setup.out}.partial`;
    {
      await using output = await create(setup, { own });
      await output.writeTensor("layers.0.w.weight", values(24, 50));
      await output.flush();
    }
    for (const name of ["journal.jsonl", "search"]) await writeFile(join(partial, name), "{}");
    await rename(partial, setup.out); // killed here
    {
      await using output = await create(setup, { own, resume: true });
      assert.equal(output.resumed, true);
      assert.deepEqual(await output.checkpoint.readTensor("layers.0.w.weight"), values(24, 50));
    }
    await rename(partial, setup.out);
    await rm(join(setup.out, "journal.jsonl")); // and here
    const complete = isError(UsageError, "E_NOTHING_TO_RESUME", /out is complete/);
    await assert.rejects(create(setup, { own, resume: true }), complete);
    assert.deepEqual((await readdir(setup.out)).sort(), ["config.json", "model.safetensors"]);
  });

  test("an output has one owner, whatever --force says", async (t) => {
    const setup = await setUp(t);
    await using output = await create(setup);
    const others = [create(setup, { force: true }), create(setup, { resume: true })];
    const isLocked = isError(UsageError, "E_OUTPUT_LOCKED", /is being written/);
    await Promise.all(others.map((other) => assert.rejects(other, isLocked)));
    await output.finish({ remove: [] });
    await using _next = await create(setup, { force: true });
  });

  test("a name that leaves no room for .partial is refused, and a loop of links too", async (t) => {
    const setup = await setUp(t);
    const long = join(setup.base, "d".repeat(250));
    await assert.rejects(create(setup, { out: long }), isError(UsageError, "E_OUTPUT_NAME", /too long/, /\.partial/));
    await symlink("loop", join(setup.base, "loop"));
    const looped = join(setup.base, "loop", "out");
    await assert.rejects(create(setup, { out: looped }), isError(UsageError, "E_OUTPUT_PARENT", /lead in a loop/));
  });

  test("an index beside a single model.safetensors is not copied, because its shards are not", async (t) => {
    const setup = await setUp(t, 1, {
      "model.safetensors.index.json": '{"weight_map":{"old":"old.safetensors"}}',
      "old.safetensors": "x",
    });
    await using output = await create(setup);
    await output.finish({ remove: [] });
    assert.deepEqual(Object.keys(await contents(setup.out)).sort(), ["config.json", "model.safetensors"]);
  });

  test("symbolic links are followed, and a link to a folder around itself is not", async (t) => {
    const setup = await setUp(t);
    const snapshot = join(setup.base, "snapshot");
    await mkdir(snapshot);
    for (const name of await readdir(setup.model)) await symlink(join(setup.model, name), join(snapshot, name));
    await symlink(snapshot, join(snapshot, "self"));
    await using source = await openCheckpoint(snapshot);
    await using output = await create({ ...setup, source });
    await output.finish({ remove: [] });
    assert.deepEqual(await contents(setup.out), await contents(setup.model));
    assert.ok((await lstat(join(setup.out, "config.json"))).isFile());
  });

  test("a dangling link among the files is an error that names it, and nothing is written", async (t) => {
    const setup = await setUp(t);
    await symlink(join(setup.base, "gone"), join(setup.model, "tokenizer.json"));
    await assert.rejects(create(setup), isError(PruneError, "E_FILE_MISSING", /tokenizer\.json: no such file/));
    assert.deepEqual(await readdir(setup.base), ["model"]);
  });

  test("clones of read-only files can be written", async (t) => {
    const setup = await setUp(t);
    for (const name of await readdir(setup.model)) await chmod(join(setup.model, name), 0o444);
    await using output = await create(setup);
    for (const name of await readdir(output.partialDirectory)) {
      const { mode } = await stat(join(output.partialDirectory, name));
      assert.equal(mode & 0o600, 0o600, name);
    }
    await output.writeTensor("layers.0.w.weight", new Float32Array(24));
  });
});

describe("writing", () => {
  test("a written tensor changes its own bytes and no others", async (t) => {
    const setup = await setUp(t);
    const before = await contents(setup.model);
    await using output = await create(setup);
    for (const name of ["layers.0.w.weight", "layers.1.w.weight", "layers.2.w.weight"]) {
      const written = values(24, 11).map((value, i) => (i % 2 === 0 ? -0 : value));
      assert.deepEqual(await output.writeTensor(name, written), { overflowed: 0, underflowed: 0 });
      assert.deepEqual(
        await output.checkpoint.readTensor(name),
        written.map((value) => value + 0),
      ); // -0 became +0
    }
    await output.finish({ remove: [] });
    await using result = await openCheckpoint(setup.out);
    for (const [name, { file, offset, byteLength }] of result.tensors) {
      if (!name.startsWith("layers")) continue;
      const expected = before[file];
      assert.ok(expected !== undefined);
      const stored = await result.readBytes(name);
      assert.notDeepEqual(Buffer.from(stored), expected.subarray(offset, offset + byteLength));
      expected.set(stored, offset);
    }
    assert.deepEqual(await contents(setup.out), before);
  });

  test("a tensor of several pieces is written whole between its neighbours", async (t) => {
    const base = temporaryDirectory(t);
    const count = PIECE_BYTES / 2 + 5;
    const tensors = {
      a: { dtype: "BF16", shape: [3], values: values(3) },
      b: { dtype: "BF16", shape: [count], values: values(count) },
      c: { dtype: "BF16", shape: [3], values: values(3) },
    };
    await writeCheckpoint(join(base, "model"), { tensors });
    await using source = await openCheckpoint(join(base, "model"));
    await using output = await createOutput({ source, out: join(base, "out"), force: false, resume: false });
    const written = values(count, 77);
    await output.writeTensor("b", written);
    const found = await output.checkpoint.readTensor("b");
    assert.ok(Buffer.from(found.buffer).equals(Buffer.from(written.buffer)));
    assert.deepEqual(await output.checkpoint.readTensor("a"), tensors.a.values);
    assert.deepEqual(await output.checkpoint.readTensor("c"), tensors.c.values);
  });

  test("whatever is written to whichever tensor is read back, and the rest stays", async (t) => {
    const setup = await setUp(t);
    await using output = await create(setup);
    const expected = new Map(
      Object.entries(TENSORS)
        .filter(([name]) => name.startsWith("layers"))
        .map(([name, tensor]) => [name, tensor.values]),
    );
    await fc.assert(
      fc.asyncProperty(fc.constantFrom(...expected.keys()), fc.nat(1000), async (name, offset) => {
        expected.set(name, values(24, offset));
        await output.writeTensor(name, values(24, offset));
        for (const [other, wanted] of expected) assert.deepEqual(await output.checkpoint.readTensor(other), wanted);
      }),
      { numRuns: 30 },
    );
  });

  test("values that overflow or underflow in f16 are counted", async (t) => {
    const setup = await setUp(t);
    await using output = await create(setup);
    const written = new Float32Array(24);
    written.set([70000, -1e9, 1e-9, -1e-9, 65504, 6e-8]);
    assert.deepEqual(await output.writeTensor("layers.1.w.weight", written), { overflowed: 2, underflowed: 2 });
  });

  test("tensors that are missing, of another dtype or of another size are refused", async (t) => {
    const setup = await setUp(t);
    await using output = await create(setup);
    await assert.rejects(
      output.writeTensor("layers.9.w.weight", new Float32Array(24)),
      isError(PruneError, "E_TENSOR_MISSING", /layers\.9/),
    );
    await assert.rejects(
      output.writeTensor("mask", new Float32Array(5)),
      isError(PruneError, "E_TENSOR_DTYPE", /"BOOL"/),
    );
    await assert.rejects(output.writeTensor("layers.0.w.weight", new Float32Array(23)), RangeError);
  });
});

describe("refusals leave everything as it was", () => {
  const refuses = async (
    setup: Setup,
    options: Partial<OutputOptions>,
    expected: (error: unknown) => true,
  ): Promise<void> => {
    const before = await readdir(setup.base, { recursive: true });
    await assert.rejects(create(setup, options), expected);
    assert.deepEqual(await readdir(setup.base, { recursive: true }), before);
  };

  test("an existing output is refused without force", async (t) => {
    const setup = await setUp(t);
    await mkdir(setup.out);
    await writeFile(join(setup.out, "precious"), "1");
    await refuses(setup, {}, isError(UsageError, "E_OUTPUT_EXISTS", /out exists/, /--force/));
    await refuses(setup, { resume: true }, isError(UsageError, "E_OUTPUT_EXISTS", /out exists/));
  });

  test("a file in the place of the output is refused even with force", async (t) => {
    const setup = await setUp(t);
    await writeFile(setup.out, "precious");
    await refuses(setup, { force: true }, isError(UsageError, "E_OUTPUT_EXISTS", /is a file/));
  });

  test("the working directory, the home directory and what contains them are not replaced even with force", async (t) => {
    const setup = await setUp(t);
    for (const out of new Set([process.cwd(), dirname(process.cwd()), homedir()])) {
      await refuses(
        setup,
        { out, force: true },
        isError(PruneError, "E_OUTPUT_EXISTS", /is or contains the (working|home) directory/),
      );
    }
  });

  test("an interrupted run's directory is refused without resume or force", async (t) => {
    const setup = await setUp(t);
    await mkdir(`${setup.out}.partial`);
    await refuses(setup, {}, isError(UsageError, "E_PARTIAL_EXISTS", /out\.partial exists/, /--resume.*--force/));
  });

  test("there must be something to resume", async (t) => {
    const setup = await setUp(t);
    await refuses(setup, { resume: true }, isError(UsageError, "E_NOTHING_TO_RESUME", /does not exist/));
    await refuses(setup, { resume: true, force: true }, isError(UsageError, "E_NOTHING_TO_RESUME", /does not exist/));
  });

  test("an output inside the input, equal to it or around it is refused, also through links", async (t) => {
    const setup = await setUp(t);
    await symlink(setup.model, join(setup.base, "alias"));
    await mkdir(join(setup.model, "sub"));
    const overlaps = (message: RegExp): ((error: unknown) => true) =>
      isError(ConfigError, "E_OUTPUT_OVERLAPS", message);
    await refuses(setup, { out: join(setup.model, "out") }, overlaps(/is inside the input/));
    await refuses(setup, { out: join(setup.model, "sub", "out") }, overlaps(/is inside the input/));
    await refuses(setup, { out: join(setup.base, "alias", "out") }, overlaps(/is inside the input/));
    await refuses(setup, { out: setup.model, force: true }, overlaps(/is the input itself/));
    await refuses(setup, { out: join(setup.base, "alias"), force: true }, overlaps(/is the input itself/));
    await refuses(setup, { out: setup.base, force: true }, overlaps(/contains the input's/));
  });

  test("an input that is the output's own OUT.partial is refused", async (t) => {
    const setup = await setUp(t);
    const model = join(setup.base, "x.partial");
    await writeCheckpoint(model, { tensors: TENSORS });
    await using source = await openCheckpoint(model);
    await refuses(
      { ...setup, source },
      { out: join(setup.base, "x"), force: true },
      isError(ConfigError, "E_OUTPUT_OVERLAPS", /./),
    );
  });

  test("an output that holds the files the input links to is refused", async (t) => {
    const setup = await setUp(t);
    const snapshot = join(setup.base, "snapshot");
    await mkdir(snapshot);
    for (const name of await readdir(setup.model)) await symlink(join(setup.model, name), join(snapshot, name));
    await using source = await openCheckpoint(snapshot);
    await refuses(
      { ...setup, source },
      { out: setup.model, force: true },
      isError(ConfigError, "E_OUTPUT_OVERLAPS", /contains the input's .*model/),
    );
  });

  test("a parent that does not exist or is a file is refused", async (t) => {
    const setup = await setUp(t);
    await refuses(
      setup,
      { out: join(setup.base, "no", "out") },
      isError(UsageError, "E_OUTPUT_PARENT", /no does not exist/),
    );
    await refuses(
      setup,
      { out: join(setup.model, "config.json", "out") },
      isError(UsageError, "E_OUTPUT_PARENT", /not/),
    );
  });

  test(
    "a parent that may not be written is refused",
    { skip: process.getuid?.() === 0 ? "root may write everywhere" : false },
    async (t) => {
      const setup = await setUp(t);
      const parent = join(setup.base, "locked");
      await mkdir(parent, { mode: 0o555 });
      await refuses(setup, { out: join(parent, "out") }, isError(UsageError, "E_OUTPUT_PARENT", /is not writable/));
    },
  );
});

describe("force and resume", () => {
  test("with force an existing output is there until the new one replaces it", async (t) => {
    const setup = await setUp(t);
    await mkdir(setup.out);
    await writeFile(join(setup.out, "old"), "1");
    await using output = await create(setup, { force: true });
    await output.flush();
    assert.deepEqual(await readdir(setup.out), ["old"]);
    await output.finish({ remove: [] });
    assert.deepEqual(await contents(setup.out), await contents(setup.model));
    assert.deepEqual((await readdir(setup.base)).sort(), ["model", "out"]);
  });

  test("an output that appears during the run is not overwritten, and the result can still be had by a resume", async (t) => {
    const setup = await setUp(t);
    {
      await using output = await create(setup);
      await mkdir(setup.out);
      await assert.rejects(
        output.finish({ remove: [] }),
        isError(UsageError, "E_OUTPUT_EXISTS", /created by something else/, /--resume/),
      );
    }
    await rm(setup.out, { recursive: true });
    await using again = await create(setup, { resume: true });
    assert.equal(again.resumed, true);
    await again.finish({ remove: [] });
    assert.deepEqual(await contents(setup.out), await contents(setup.model));
  });

  test("with force an interrupted run's directory is dropped and cloned anew", async (t) => {
    const setup = await setUp(t);
    {
      await using output = await create(setup);
      await output.writeTensor("layers.0.w.weight", new Float32Array(24));
      await writeFile(join(output.partialDirectory, "journal.jsonl"), "{}");
      await output.flush();
    }
    await using output = await create(setup, { force: true });
    assert.equal(output.resumed, false);
    assert.deepEqual(await output.checkpoint.readTensor("layers.0.w.weight"), values(24));
    await output.finish({ remove: [] });
    assert.deepEqual(await contents(setup.out), await contents(setup.model));
  });

  test("a resume finds what was flushed and the journal beside it", async (t) => {
    const setup = await setUp(t);
    {
      await using output = await create(setup);
      await output.writeTensor("layers.0.w.weight", values(24, 50));
      await writeFile(join(output.partialDirectory, "journal.jsonl"), "{}");
      await output.flush();
    }
    await using output = await create(setup, { resume: true });
    assert.equal(output.resumed, true);
    assert.deepEqual(await output.checkpoint.readTensor("layers.0.w.weight"), values(24, 50));
    assert.equal(await readFile(join(output.partialDirectory, "journal.jsonl"), "utf8"), "{}");
    assert.deepEqual(await output.checkpoint.readTensor("layers.1.w.weight"), TENSORS["layers.1.w.weight"]?.values);
  });

  test("a resume of an unfinished clone clones again from nothing", async (t) => {
    const setup = await setUp(t);
    const partial = `${setup.out}.partial`;
    await mkdir(partial);
    await writeFile(join(partial, "cloning.tmp"), "half");
    await writeFile(join(partial, "config.json"), "another");
    await using output = await create(setup, { resume: true });
    assert.equal(output.resumed, false);
    await output.finish({ remove: [] });
    assert.deepEqual(await contents(setup.out), await contents(setup.model));
  });

  test("a torn marker counts as none", async (t) => {
    const setup = await setUp(t);
    await mkdir(`${setup.out}.partial`);
    await writeFile(join(`${setup.out}.partial`, CLONE_MARKER), '{"headersSha');
    await using output = await create(setup, { resume: true });
    assert.equal(output.resumed, false);
    assert.deepEqual(await output.checkpoint.readTensor("layers.0.w.weight"), values(24));
  });

  test("a resume with another model than the clone's is refused", async (t) => {
    const setup = await setUp(t);
    {
      await using output = await create(setup);
      await output.flush();
    }
    await writeCheckpoint(join(setup.base, "other"), {
      tensors: { only: { dtype: "F32", shape: [1], values: values(1) } },
    });
    await using source = await openCheckpoint(join(setup.base, "other"));
    await assert.rejects(
      create({ ...setup, source }, { resume: true }),
      isError(ConfigError, "E_FINGERPRINT", /cloned from another checkpoint/),
    );
  });

  test("working files outside the output cannot be removed", async (t) => {
    const setup = await setUp(t);
    await using output = await create(setup);
    for (const name of ["../model", "", "..", "a/b"])
      await assert.rejects(output.finish({ remove: [name] }), /is not the name of a file/);
    assert.ok((await stat(setup.model)).isDirectory());
  });
});

describe("full disk", () => {
  test("room for what lies beside the clone is asked for too, also by a resume", async (t) => {
    const setup = await setUp(t);
    const message = /the output with 1000000000000000 bytes of working files needs \d+ bytes, but only \d+ are free/;
    const refused = isError(ResourceError, "E_DISK_FULL", message, /--memory/);
    await assert.rejects(create(setup, { scratchBytes: 1e15 }), refused);
    assert.deepEqual((await readdir(setup.base)).sort(), ["model"]);
    await using output = await create(setup);
    await output.flush();
    await output[Symbol.asyncDispose]();
    await assert.rejects(create(setup, { scratchBytes: 1e15, resume: true }), refused);
  });

  test("an output that will not fit is refused with needed and free bytes, and nothing is written", async (t) => {
    const disk = mountSmallDisk(t, 1 << 20);
    if (disk === undefined) return t.skip(NO_DISK);
    const setup = await setUp(t);
    await assert.rejects(create(setup, { out: join(disk, "out") }), (error: unknown) => {
      assert.ok(error instanceof ResourceError);
      assert.equal(error.code, "E_DISK_FULL");
      assert.match(error.message, /needs \d+ bytes, but only \d+ are free/);
      assert.ok(Number(error.details["freeBytes"]) <= 1 << 20);
      return true;
    });
    assert.deepEqual(await readdir(disk), []);
  });

  test("a disk that fills up during the run loses nothing, and a resume goes on", async (t) => {
    const disk = mountSmallDisk(t, 12 << 20);
    if (disk === undefined) return t.skip(NO_DISK);
    const model = join(temporaryDirectory(t), "model");
    const count = 1 << 20;
    const [done, next] = [values(2, 1), values(count, 9)];
    await writeCheckpoint(model, {
      tensors: {
        "block.0": { dtype: "F32", shape: [2], values: values(2) },
        "block.1": { dtype: "BF16", shape: [count], values: values(count) },
      },
    });
    await using source = await openCheckpoint(model);
    const out = join(disk, "out");
    {
      await using output = await createOutput({ source, out, force: false, resume: false });
      await output.writeTensor("block.0", done);
      await output.flush();
      makeSparse(join(output.partialDirectory, "model.safetensors"), output.checkpoint.info("block.1"));
      await writeFile(join(disk, "filler"), Buffer.alloc(12 << 20)).catch(() => undefined); // takes all that is free
      await assert.rejects(
        output.writeTensor("block.1", next),
        isError(ResourceError, "E_DISK_FULL", /model\.safetensors: no space is left/, /--resume/),
      );
    }
    await rm(join(disk, "filler"));
    await using output = await createOutput({ source, out, force: false, resume: true });
    assert.equal(output.resumed, true);
    assert.deepEqual(await output.checkpoint.readTensor("block.0"), done);
    await output.writeTensor("block.1", next);
    await output.finish({ remove: [] });
    await using result = await openCheckpoint(out);
    assert.deepEqual(await result.readTensor("block.0"), done);
    assert.ok(Buffer.from((await result.readTensor("block.1")).buffer).equals(Buffer.from(next.buffer)));
  });
});

/** Take a tensor's space away, so that writing to it needs space as it does on a file system with reflinks. */
function makeSparse(path: string, { offset, byteLength }: TensorInfo): void {
  const [first, last] = [Math.ceil(offset / 4096) * 4096, Math.floor((offset + byteLength) / 4096) * 4096];
  execFileSync("fallocate", ["--punch-hole", "--offset", String(first), "--length", String(last - first), path]);
}
