/** What a store keeps between steps, wherever it lies. */
import assert from "node:assert/strict";
import { existsSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { createCpuDevice } from "../../src/device/cpu/cpu-device.js";
import { InternalError } from "../../src/errors.js";
import { STATES } from "../../src/training/elsa.js";
import { FULL_PRECISION, ParameterStore, type FieldFormats } from "../../src/training/parameter-store.js";
import {
  PARAMETER_FIELDS,
  type Parameter,
  type ParameterField,
  type ParameterSpec,
} from "../../src/training/parameters.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { describeOnDevices } from "../helpers/devices.js";
import { normals } from "../reference/random.js";
import type { Device } from "../../src/device/device.js";

const [ROWS, COLUMNS] = [5, 40];
const NAMES = ["a", "b", "c"];

function specsOf(seed: number): ParameterSpec[] {
  return [
    { name: "w", shape: [ROWS, COLUMNS], values: normals(ROWS * COLUMNS, seed), isMasked: false, isSplit: true },
    { name: "norm", shape: [COLUMNS], values: normals(COLUMNS, seed + 50), isMasked: false },
  ];
}

function openStore(device: Device, directory: string, memoryBytes: number, formats: FieldFormats = FULL_PRECISION) {
  const groups = NAMES.map((name, seed) => ({ name, load: () => Promise.resolve(specsOf(seed)) }));
  return ParameterStore.create({ device, directory, memoryBytes, formats, groups });
}

const fieldsOf = (parameter: Parameter): ParameterField[] => PARAMETER_FIELDS.filter((field) => parameter.has(field));

/** Give every field of every parameter numbers of its own. */
async function fill(store: ParameterStore): Promise<void> {
  for (const [g, name] of store.names.entries())
    await store.use(name, { writes: PARAMETER_FIELDS }, async (parameters) => {
      for (const [p, parameter] of [...parameters].entries())
        for (const [f, field] of fieldsOf(parameter).entries())
          await parameter.receive(field, (numbers) => {
            const values = normals(numbers.length, 1000 * g + 100 * p + f);
            // Second moments have no signs; bits of a mask beyond its columns are never read.
            numbers.set(field === "second" ? values.map(Math.abs) : values);
            if (field === "mask") numbers.set(new Uint32Array(numbers.length).map((_, i) => 7 * g + i));
            return Promise.resolve();
          });
    });
}

async function contents(store: ParameterStore): Promise<Map<string, unknown>> {
  const all = new Map<string, unknown>();
  for (const name of store.names)
    await store.use(name, { reads: PARAMETER_FIELDS }, async (parameters) => {
      for (const parameter of parameters)
        for (const field of fieldsOf(parameter))
          all.set(`${name} ${parameter.name} ${field}`, (await parameter.give(field)).slice());
    });
  return all;
}

await describeOnDevices((device) => {
  test("every field comes back from memory, from files, and from a copy", async (t) => {
    const directory = temporaryDirectory(t);
    await using resident = await openStore(device(), join(directory, "unused"), 2 ** 20);
    await fill(resident);
    const expected = await contents(resident);
    assert.equal(expected.size, NAMES.length * (7 + 4));
    assert.equal(resident.size.fileBytes, 0);
    assert.ok(!existsSync(join(directory, "unused")));

    await using inFiles = await openStore(device(), join(directory, "files"), 0);
    await fill(inFiles);
    assert.deepEqual(await contents(inFiles), expected);
    assert.equal(inFiles.size.fileBytes, inFiles.size.bytes);

    const { bytes } = resident.size;
    await using mixed = await openStore(device(), join(directory, "mixed"), (2 / 3) * bytes + 1);
    assert.deepEqual(readdirSync(join(directory, "mixed")), ["c.bin"], "the first two fit");
    for (const [index, source] of [resident, inFiles].entries()) {
      const copy = join(directory, `copy-${index}`);
      await source.snapshot(copy);
      await mixed.restore(copy);
      const found = await contents(mixed);
      for (const [key, values] of expected)
        if (!key.endsWith("gradient")) assert.deepEqual(found.get(key), values, key);
    }
  });

  test("packed states lie in memory while there is room, and are the same there and in files", async (t) => {
    const directory = temporaryDirectory(t);
    await using packed = await openStore(device(), join(directory, "unused"), 2 ** 20, STATES["elsa-l"]);
    await using inFiles = await openStore(device(), join(directory, "files"), 0, STATES["elsa-l"]);
    for (const store of [packed, inFiles]) await fill(store);
    const found = await contents(packed);
    assert.deepEqual(await contents(inFiles), found);
    await using full = await openStore(device(), join(directory, "full"), 2 ** 20);
    await fill(full);
    for (const [key, values] of await contents(full)) {
      const isExact = /values|gradient|mask$/.test(key);
      if (isExact) assert.deepEqual(found.get(key), values, key);
      else assert.notDeepEqual(found.get(key), values, key);
    }
    assert.equal(packed.size.fileBytes, 0);
  });
});

test("starting values are there, twins and moments begin at 0, and only what is written is kept", async (t) => {
  await using device = await createCpuDevice();
  await using store = await openStore(device, temporaryDirectory(t), 0);
  const found = await contents(store);
  for (const [g, name] of NAMES.entries()) {
    assert.deepEqual(found.get(`${name} w values`), specsOf(g)[0]?.values);
    for (const field of ["first", "second", "split", "dual"])
      assert.deepEqual(found.get(`${name} w ${field}`), new Float32Array(ROWS * COLUMNS));
  }
  await store.use("b", { reads: ["values"], writes: ["first"] }, ([parameter]) => {
    (parameter as Parameter).values.host.fill(7);
    return Promise.resolve();
  });
  assert.deepEqual((await contents(store)).get("b w values"), specsOf(1)[0]?.values);
});

test("two groups that share matrices are not worked on at once", async (t) => {
  await using device = await createCpuDevice();
  await using store = await openStore(device, temporaryDirectory(t), 0);
  const both = store.use("a", {}, () => store.use("b", {}, () => Promise.resolve()));
  await assert.rejects(
    both,
    (error: unknown) => error instanceof InternalError && /b: its matrices/.test(error.message),
  );
  await store.use("b", {}, () => Promise.resolve());
});

test("one set of matrices serves all groups in files, and is all that the device holds", async (t) => {
  await using device = await createCpuDevice();
  const directory = temporaryDirectory(t);
  await using store = await openStore(device, directory, 0);
  for (const name of store.names) await store.use(name, {}, () => Promise.resolve());
  const held = [...device.liveBytes().values()].reduce((sum, bytes) => sum + bytes, 0);
  assert.ok(held <= store.size.bytes / NAMES.length + 64, `${held} of ${store.size.bytes}`);
  for (const name of NAMES)
    assert.equal(statSync(join(directory, `${name}.bin`)).size, store.size.bytes / NAMES.length);
});
