/** The demo model cut to its first blocks: real weights and a real tokenizer for tests that run many commands. */
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openCheckpoint, SINGLE_FILE } from "../../src/checkpoint/checkpoint.js";
import { encodeHeader } from "../../src/checkpoint/header.js";
import { repositoryPath } from "./paths.js";

/** @param config keys that replace those of the demo model's config.json */
export async function writeShortDemo(
  directory: string,
  { blocks, config = {} }: { readonly blocks: number; readonly config?: object },
): Promise<void> {
  const demo = repositoryPath("models/demo");
  mkdirSync(directory, { recursive: true });
  for (const file of ["tokenizer.json", "tokenizer_config.json", "calibration.txt"])
    copyFileSync(join(demo, file), join(directory, file));
  const values = JSON.parse(readFileSync(join(demo, "config.json"), "utf8")) as object;
  writeFileSync(join(directory, "config.json"), JSON.stringify({ ...values, num_hidden_layers: blocks, ...config }));
  await using checkpoint = await openCheckpoint(demo);
  const isKept = ({ name }: { readonly name: string }): boolean =>
    Number(/layers\.(\d+)\./.exec(name)?.[1] ?? -1) < blocks;
  const kept = [...checkpoint.tensors.values()].filter(isKept);
  const { bytes, tensors } = encodeHeader(kept);
  const data = await Promise.all(tensors.map(({ name }) => checkpoint.readBytes(name)));
  writeFileSync(join(directory, SINGLE_FILE), Buffer.concat([bytes, ...data]));
}
