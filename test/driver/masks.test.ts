/** Masks as files: what a run saves, applied to other weights, and what is found where zeros were lost. */
import assert from "node:assert/strict";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test, type TestContext } from "node:test";
import { openCheckpoint, SINGLE_FILE } from "../../src/checkpoint/checkpoint.js";
import { clearPruned, MaskFile, saveMask } from "../../src/checkpoint/mask-file.js";
import { applyMask, expectZerosKept, GateError, inspect, prune, verifyZeros } from "../../src/index.js";
import { renderZeroChecks } from "../../src/report/render.js";
import { temporaryDirectory, writeCheckpoint } from "../helpers/checkpoints.js";
import { writeShortDemo } from "../helpers/demo-model.js";

const DOWN = "model.layers.0.mlp.down_proj.weight";
const OPTIONS = { method: "magnitude", pattern: "2:4", ignore: ["*.o_proj"], device: "cpu" } as const;

/** A bit per weight, as docs/masks.md unpacks them. */
function unpack(bytes: Uint8Array, rows: number, columns: number): number[] {
  const stride = bytes.length / rows;
  return Array.from({ length: rows * columns }, (_, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    return (bytes[row * stride + Math.floor(column / 8)] >> (column % 8)) & 1;
  });
}

test("rows that fill no byte are padded; -0 is a zero; what a mask clears is +0", async (t) => {
  const directory = temporaryDirectory(t);
  const values = Float32Array.from({ length: 33 }, (_, i) => (i % 3 === 0 ? 0 : i - 16));
  const stored = new Uint8Array(values.buffer.slice(0));
  new DataView(stored.buffer).setUint32(0, 0x80000000, true); // -0
  await writeCheckpoint(directory, { tensors: { w: { dtype: "F32", shape: [3, 11], values: stored } } });
  await using checkpoint = await openCheckpoint(directory);
  const file = join(directory, "mask.safetensors");
  await saveMask(checkpoint, ["w"], file);
  await using mask = await MaskFile.open(file);
  assert.deepEqual(mask.shapes.get("w"), [3, 2]);
  const bits = unpack(await mask.read("w"), 3, 11);
  assert.deepEqual(
    bits,
    [...values].map((value) => Number(value !== 0)),
  );
  const ones = new Float32Array(33).fill(1);
  assert.deepEqual(clearPruned(ones, { shape: [3, 11] }, await mask.read("w")), {
    cleared: bits.filter((bit) => bit === 0).length,
    pruned: bits.filter((bit) => bit === 0).length,
  });
  assert.deepEqual([...ones], bits);
  mask.expectFits(checkpoint);
});

test("a run's mask, applied to the dense weights, makes the same zeros and changes nothing else", async (t) => {
  const { model, out, mask, directory } = await pruned(t);
  const masked = join(directory, "masked");
  const report = await applyMask({ model, mask, out: masked });
  const { tensors } = await inspect({ model: out });
  const made = tensors.filter(({ zeros }) => zeros > 0);
  assert.deepEqual(
    [report.tensors.length, report.pruned],
    [made.length, made.reduce((sum, { zeros }) => sum + zeros, 0)],
  );
  assert.ok(!report.tensors.some(({ name }) => name.includes("o_proj")));
  // Magnitude pruning changes no kept weight.
  assert.ok(readFileSync(join(masked, SINGLE_FILE)).equals(readFileSync(join(out, SINGLE_FILE))));
  assert.equal(existsSync(`${masked}.partial`), false);
});

test("verify finds a weight that came back, by mask, by pattern and against the other checkpoint", async (t) => {
  const { model, out, mask, directory } = await pruned(t);
  const checks = { mask, pattern: "2:4", against: out };
  const ignored = "model.layers.0.self_attn.o_proj.weight"; // dense, so that the pattern does not hold there
  const kept = await verifyZeros({ model: out, ...checks });
  assert.deepEqual([kept.mask?.lost, kept.against?.lost, kept.against?.added], [0, 0, 0]);
  assert.deepEqual(
    kept.pattern?.broken.map(({ name }) => name),
    [ignored],
  );
  const dense = (await verifyZeros({ model: out, against: model })).against;
  assert.ok(dense?.isKept && dense.added > 0 && dense.added === kept.mask?.zeros, "zeros that pruning made");

  expectZerosKept(await verifyZeros({ model: out, mask, against: out }));

  const tuned = join(directory, "tuned");
  cpSync(out, tuned, { recursive: true });
  await using checkpoint = await openCheckpoint(out);
  const { offset } = checkpoint.info(DOWN);
  const values = await checkpoint.readTensor(DOWN);
  const bytes = readFileSync(join(tuned, SINGLE_FILE));
  bytes.writeUInt16LE(0x3f80, offset + 2 * values.indexOf(0)); // 1 in BF16
  writeFileSync(join(tuned, SINGLE_FILE), bytes);
  const found = await verifyZeros({ model: tuned, ...checks });
  for (const check of [found.mask, found.against]) {
    assert.deepEqual([check?.isKept, check?.lost], [false, 1]);
    assert.deepEqual(
      check?.broken.map(({ name }) => name),
      [DOWN],
    );
  }
  assert.throws(
    () => expectZerosKept(found),
    (error) => error instanceof GateError && /--mask in 1 tensors/.test(error.message),
  );
  assert.match(
    renderZeroChecks(found),
    /mask +1 zeros lost in 1 tensors[^]*mask: model\.layers\.0\.mlp\.down_proj\.weight/,
  );
  await assert.rejects(verifyZeros({ model: tuned }), /--mask: missing; or --pattern, or --against/);
  assert.deepEqual(new Set(found.pattern?.broken.map(({ name }) => name)), new Set([ignored, DOWN]));
});

test("masks of another model, a place in the output, and another mask for a resume are refused", async (t) => {
  const { model, out, mask, directory } = await pruned(t);
  const other = join(directory, "other");
  await writeCheckpoint(other, {
    tensors: { "model.layers.0.mlp.down.weight": { dtype: "F32", shape: [2, 2], values: new Float32Array(4) } },
    config: {},
  });
  await assert.rejects(applyMask({ model: other, mask, out: join(directory, "x") }), /no tensor of/);
  await assert.rejects(
    applyMask({ model, mask: join(model, SINGLE_FILE), out: join(directory, "x") }),
    /is no file of masks/,
  );
  const run = { ...OPTIONS, model, out: join(directory, "y") };
  await assert.rejects(prune({ ...run, saveMask: join(run.out, "m.safetensors") }), /lies in the output/);
  await assert.rejects(prune({ ...run, saveMask: mask }), /exists; it is never overwritten/);
  await assert.rejects(prune({ ...run, saveMask: join(directory, "m.bin") }), /not named \.safetensors/);

  const stop = new AbortController();
  const masked = join(directory, "masked");
  stop.abort();
  await assert.rejects(applyMask({ model, mask, out: masked, signal: stop.signal }), /stopped/);
  await using checkpoint = await openCheckpoint(out);
  const second = join(directory, "second.safetensors");
  await saveMask(checkpoint, [DOWN], second);
  await assert.rejects(applyMask({ model, mask: second, out: masked, resume: true }), /another run|mask/);
  await applyMask({ model, mask, out: masked, resume: true });
  assert.ok(readFileSync(join(masked, SINGLE_FILE)).equals(readFileSync(join(out, SINGLE_FILE))));
});

const SHARED = mkdtempSync(join(tmpdir(), "prune-masks-"));
after(() => rmSync(SHARED, { recursive: true }));

interface Pruned {
  readonly directory: string;
  readonly model: string;
  readonly out: string;
  readonly mask: string;
}

let once: Promise<Pruned> | undefined;

/** One run for all tests, which leave it as it is; further files go into a directory of the test's own. */
async function pruned(t: TestContext): Promise<Pruned> {
  const shared = await (once ??= makePruned(SHARED));
  return { ...shared, directory: temporaryDirectory(t) };
}

async function makePruned(directory: string): Promise<Pruned> {
  const [model, out, mask] = ["model", "out", "mask.safetensors"].map((name) => join(directory, name));
  await writeShortDemo(model, { blocks: 1 });
  await prune({ ...OPTIONS, model, out, saveMask: mask });
  return { directory, model, out, mask };
}
