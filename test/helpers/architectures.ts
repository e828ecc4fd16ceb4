/** The stored forwards of test/fixtures/architectures: which there are, and opening one under another of its configs. */
import assert from "node:assert/strict";
import { cpSync, existsSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { copyFile } from "node:fs/promises";
import { join } from "node:path";
import type { TestContext } from "node:test";
import type { Architecture, BlockSpec } from "../../src/model/architecture.js";
import { familyOf } from "../../src/model/families/registry.js";
import { repositoryPath } from "./paths.js";
import { temporaryDirectory } from "./checkpoints.js";

export interface Fixture {
  readonly folder: string;
  readonly directory: string;
  readonly configs: readonly string[];
  /** Why it cannot be tested, for the test runner; false where it can. */
  readonly skip: string | false;
}

export function fixturePath(folder: string, file = ""): string {
  return repositoryPath(join("test/fixtures/architectures", folder, file));
}

/** All folders that hold a checkpoint. */
export function fixtures(): Fixture[] {
  const folders = readdirSync(fixturePath("")).filter((folder) => existsSync(fixturePath(folder, "config.json")));
  return folders.map((folder) => {
    const { model_type: modelType } = readJson<{ model_type: string }>(fixturePath(folder, "config.json"));
    return {
      folder,
      directory: fixturePath(folder),
      configs: ["config.json", "config.v5.json"].filter((config) => existsSync(fixturePath(folder, config))),
      skip: familyOf(modelType) === undefined ? `no family for model_type "${modelType}" yet` : false,
    };
  });
}

export function readJson<Shape>(file: string): Shape {
  return JSON.parse(readFileSync(file, "utf8")) as Shape;
}

/** The module that a linear is stored in, by the name its golden input has: parts of fused ones share it. */
export function storedModule(block: BlockSpec, role: string, linear: string): string {
  return role.endsWith(".weight") ? `${block.name}.${role.slice(0, -".weight".length)}` : linear;
}

/** The block whose inputs are stored, and that tests look at where one is enough: the second, where there are two. */
export function sampleBlock({ blocks }: Architecture): BlockSpec {
  const block = blocks[1] ?? blocks[0];
  assert.ok(block);
  return block;
}

/** A copy of the checkpoint alone, with one of its configs as config.json. */
export async function copyFixture(t: TestContext, { folder }: Fixture, config: string): Promise<string> {
  const directory = temporaryDirectory(t);
  cpSync(fixturePath(folder), directory, { recursive: true });
  await copyFile(fixturePath(folder, config), join(directory, "config.json"));
  for (const extra of ["golden.safetensors", "groups.json", "config.v5.json", "fused"])
    rmSync(join(directory, extra), { recursive: true, force: true });
  return directory;
}

/** How far a forward may be from the library's, as max |x - reference| over the reference's root mean square. */
export const TOLERANCE = 1e-4;

/**
 * Inputs whose stored values are themselves further than TOLERANCE from the same block in float64, with what is allowed
 * instead. A delta net's head that reads next to nothing is normed, and its roundings with it: here the stored values are
 * 1.2e-4 from the interpreter's and ours 1e-5.
 */
const ROUGH: ReadonlyMap<string, number> = new Map([["qwen3_5_text model.layers.0.linear_attn.out_proj", 1.5e-4]]);

/** Of a linear's input. */
export function toleranceOf(folder: string, linear: string): number {
  return ROUGH.get(`${folder} ${linear}`) ?? TOLERANCE;
}
