/**
 * A training step of the whole model: the demo model, 8 sequences of 256 tokens, everything trained in f32, in turn with the
 * same step in PyTorch where Debian's python3-torch is there; and how the parts of ours share the time.
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { createCpuDevice } from "../src/device/cpu/cpu-device.js";
import { BlockRunner } from "../src/forward/block-runner.js";
import { readBlockWeights } from "../src/forward/weights.js";
import { lookUp } from "../src/look-up.js";
import { openModel } from "../src/model/open-model.js";
import { descend } from "../src/training/descent.js";
import { EmbeddingGradient } from "../src/training/embedding-gradient.js";
import { HeadGradient } from "../src/training/head-gradient.js";
import { accumulateGradients, BlockGradients, groupOfBlock, stepStates } from "../src/training/model-gradients.js";
import { FULL_PRECISION, ParameterStore } from "../src/training/parameter-store.js";
import { endGroups, TextEnds } from "../src/training/text-ends.js";
import { machineLine, median } from "./harness.js";

const [SEQUENCES, TOKENS] = [8, 256];
const ROUNDS = 9;
const MODEL = fileURLToPath(new URL("../../models/demo", import.meta.url));
const SCRIPT = fileURLToPath(new URL("../../bench/train_step.py", import.meta.url));
const PYTHON = "/usr/bin/python3";

/** Seconds of a step, by part. */
type Parts = Record<"forward" | "head" | "backward" | "update", number>;

interface Stepper extends AsyncDisposable {
  step(): Promise<number>;
}

async function openOurs(directory: string): Promise<Stepper & { readonly parts: readonly Parts[] }> {
  const model = await openModel(MODEL);
  const { architecture, checkpoint } = model;
  const device = await createCpuDevice();
  const runner = new BlockRunner(architecture);
  const blocks = architecture.blocks.map((block) => ({
    name: groupOfBlock(block),
    async load() {
      const weights = await readBlockWeights(checkpoint, block);
      return [...block.tensors].map(([name, { shape }]) => {
        return { name, shape, values: lookUp(weights, name), isMasked: false };
      });
    },
  }));
  const store = await ParameterStore.create({
    ...{ device, formats: FULL_PRECISION, memoryBytes: 2 ** 32, directory },
    groups: [...blocks, ...endGroups(checkpoint, architecture)],
  });
  const gradients = new BlockGradients(runner, architecture);
  const embedding = await EmbeddingGradient.compile(runner.executor, { architecture, checkpoint });
  const head = await HeadGradient.compile(runner.executor, architecture, {
    ...{ isProjectionTrained: true, isDistilled: false },
  });
  const states = await stepStates(architecture, {
    ...{ sequences: SEQUENCES, tokens: TOKENS, memoryBytes: 2 ** 30, scratchFile: join(directory, "states") },
  });
  const ends = new TextEnds({
    ...{ architecture, embedding, head, fixed: undefined, store, teacher: undefined, distillation: 0 },
  });
  const marks: number[] = [];
  const mark = (): void => void marks.push(performance.now());
  const parts: Parts[] = [];
  let taken = 0;
  return {
    parts,
    async step() {
      marks.length = 0;
      ends.choose(
        Array.from({ length: SEQUENCES }, () =>
          Int32Array.from({ length: TOKENS }, () => 3 + Math.floor(Math.random() * (architecture.vocabularySize - 3))),
        ),
      );
      mark();
      await descend(
        {
          ...{ store, taken },
          gradient: () =>
            accumulateGradients({
              ...{ architecture, runner, gradients, store, ends, sequences: SEQUENCES, states, onBlock: mark },
            }),
        },
        { steps: taken + 1, lr: 1e-6, warmup: 0, clip: 1 },
      );
      mark();
      taken++;
      // The head's time is up to the end of the first block on the way back, less what such a block takes.
      const count = architecture.blocks.length;
      const at = (index: number): number => (marks[index] as number) / 1000;
      const perBlock = (at(2 * count) - at(count + 1)) / (count - 1);
      const backward = perBlock * count;
      parts.push({
        forward: at(count) - at(0),
        head: at(count + 1) - at(count) - perBlock,
        backward,
        update: at(2 * count + 1) - at(2 * count),
      });
      return at(2 * count + 1) - at(0);
    },
    async [Symbol.asyncDispose]() {
      for (const each of [states, head, embedding, gradients, store, runner, device, model])
        await each[Symbol.asyncDispose]();
    },
  };
}

/** PyTorch's step, or undefined where it is not installed. */
function openTorch(): Stepper | undefined {
  if (!existsSync(PYTHON)) return undefined;
  const threads = String(availableParallelism());
  const child = spawn(PYTHON, [SCRIPT, MODEL, String(SEQUENCES), String(TOKENS), threads], {
    stdio: ["pipe", "pipe", "ignore"],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return {
    async step() {
      child.stdin.write("\n");
      const { value, done } = await lines.next();
      if (done === true) return NaN; // no torch
      return Number((value as string).split(" ")[0]);
    },
    [Symbol.asyncDispose]() {
      child.kill();
      return Promise.resolve();
    },
  };
}

const directory = await mkdtemp(join(tmpdir(), "prune-bench-"));
try {
  await using ours = await openOurs(directory);
  await using torch = openTorch();
  const [own, theirs]: [number[], number[]] = [[], []];
  for (let round = -2; round < ROUNDS; round++) {
    const [mine, other] = [await ours.step(), (await torch?.step()) ?? NaN];
    if (round < 0) continue;
    own.push(mine);
    theirs.push(other);
  }
  console.log(`a training step of the demo model, ${SEQUENCES} × ${TOKENS} tokens, f32 (${machineLine()})`);
  const line = (name: string, seconds: readonly number[]): void =>
    console.log(`${name}: median ${median(seconds).toFixed(3)} s, best ${Math.min(...seconds).toFixed(3)} s`);
  line("prune", own);
  for (const part of ["forward", "head", "backward", "update"] as const)
    line(
      `  ${part}`,
      ours.parts.slice(2).map((each) => each[part]),
    );
  if (theirs.every(Number.isFinite)) {
    line("PyTorch", theirs);
    console.log(`prune is ${(median(theirs) / median(own)).toFixed(2)} times as fast`);
  } else console.log("PyTorch: not installed");
} finally {
  await rm(directory, { recursive: true, force: true });
}
