/** Builds small checkpoints in temporary directories, for tests of everything that reads or writes one. */
import { mkdtempSync, rmSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { TestContext } from "node:test";
import { isFloatDtype, narrow } from "../../src/checkpoint/dtype.js";
import { encodeHeader } from "../../src/checkpoint/header.js";

/** A new directory that is removed after the test. */
export function temporaryDirectory(t: Pick<TestContext, "after">): string {
  const directory = mkdtempSync(join(tmpdir(), "prune-test-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

export interface TestTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** f32 values of a float dtype, rounded to it (-0 becomes +0); or the stored bytes of any dtype. */
  readonly values: Float32Array | Uint8Array;
}

export interface TestCheckpoint {
  readonly tensors: Readonly<Record<string, TestTensor>>;
  /** How many shards (tensors in turn), or the shard file of each tensor; by default a single model.safetensors. */
  readonly shards?: number | Readonly<Record<string, string>>;
  /** config.json; none is written without it. */
  readonly config?: object;
  /** Further files, by path relative to the directory. */
  readonly files?: Readonly<Record<string, string>>;
}

/** Write a checkpoint into a directory, which is created where it does not exist. */
export async function writeCheckpoint(directory: string, checkpoint: TestCheckpoint): Promise<void> {
  await mkdir(directory, { recursive: true });
  const shardOf = assignShards(Object.keys(checkpoint.tensors), checkpoint.shards);
  const isSharded = checkpoint.shards !== undefined && checkpoint.shards !== 1;
  for (const shard of new Set(shardOf.values())) {
    const tensors = Object.entries(checkpoint.tensors).filter(([name]) => shardOf.get(name) === shard);
    await writeFile(join(directory, shard), encodeSafetensors(Object.fromEntries(tensors)));
  }
  if (isSharded) {
    const sizes = Object.values(checkpoint.tensors).map((tensor) => storedBytes(tensor).byteLength);
    const index = {
      metadata: { total_size: sizes.reduce((a, b) => a + b, 0) },
      weight_map: Object.fromEntries(shardOf),
    };
    await writeFile(join(directory, "model.safetensors.index.json"), JSON.stringify(index, null, 2));
  }
  if (checkpoint.config !== undefined)
    await writeFile(join(directory, "config.json"), JSON.stringify(checkpoint.config, null, 2));
  for (const [path, text] of Object.entries(checkpoint.files ?? {})) {
    await mkdir(dirname(join(directory, path)), { recursive: true });
    await writeFile(join(directory, path), text);
  }
}

/** The bytes of one safetensors file. */
export function encodeSafetensors(tensors: Readonly<Record<string, TestTensor>>): Uint8Array {
  const stored = new Map(Object.entries(tensors).map(([name, tensor]) => [name, storedBytes(tensor)]));
  const header = encodeHeader(
    Object.entries(tensors).map(([name, { dtype, shape }]) => ({
      name,
      dtype,
      shape,
      byteLength: stored.get(name)?.byteLength ?? 0,
    })),
  );
  return Buffer.concat([header.bytes, ...header.tensors.map(({ name }) => stored.get(name) ?? new Uint8Array())]);
}

function storedBytes({ dtype, values }: TestTensor): Uint8Array {
  if (values instanceof Uint8Array) return values;
  if (!isFloatDtype(dtype)) throw new TypeError(`${dtype} needs stored bytes, not f32 values.`);
  const bytes = new Uint8Array(values.length * (dtype === "F32" ? 4 : 2));
  narrow(values, dtype, bytes);
  return bytes;
}

function assignShards(names: readonly string[], shards: TestCheckpoint["shards"]): ReadonlyMap<string, string> {
  if (typeof shards === "object") return new Map(Object.entries(shards));
  const count = shards ?? 1;
  const fileOf = (shard: number): string =>
    count === 1
      ? "model.safetensors"
      : `model-${String(shard + 1).padStart(5, "0")}-of-${String(count).padStart(5, "0")}.safetensors`;
  return new Map(names.map((name, i) => [name, fileOf(i % count)]));
}
