/**
 * Accidents at any moment of any command that writes, and whether what is left is what was promised: the same command with
 * `--resume` gives the bytes that it would have given, or nothing is there and the command itself gives them; what failed said so
 * with a code and a sentence; nothing else is left, and nothing that was there is lost.
 */
import { withAccident, type Accident, type Step } from "./accidents.js"; // before anything that opens the door
import { createHash } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { allocationSchema } from "../../src/allocation/registry.js";
import { CLONE_MARKER } from "../../src/checkpoint/clone.js";
import type { ComparisonReport, RunConfig, TokenSource } from "../../src/contract.js";
import { compareMethods } from "../../src/driver/compare.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { exitCodeOf, firstError, InternalError, PruneError } from "../../src/errors.js";
import { generateCalibration } from "../../src/generation/generate-calibration.js";
import { elsa } from "../../src/training/elsa.js";
import { finetune } from "../../src/training/finetune.js";
import { createTestContext } from "./engine.js";
import { Disk, REMAINS, type Remains } from "./power-cut.js";
import { demoRun } from "./runs.js";
import { writeRandomIds, writeSyntheticLlama } from "./synthetic-model.js";

/** A command on one folder, `at`; what it makes is called "out" in there. */
interface Scene {
  /** What lies there before. */
  prepare?(at: string): Promise<void> | void;
  work(at: string, resume: boolean): Promise<unknown>;
  /** Whether `--resume` is what a user would try. */
  isBegun(at: string): boolean;
  /** Whether the output is there, whole. */
  isFinished(at: string): boolean;
  /** What must be equal, of the folder or of what the command gave. */
  outcome(at: string, given: unknown): string;
  /** Names in the folder in the end. */
  readonly left: readonly string[];
  /** Whether what was there before is there, or what takes its place can be gone on with. */
  isKept?(at: string): boolean;
}

export const SCENES = [
  "run",
  "resume",
  "replace",
  "allocate",
  "search",
  "gradients",
  "train",
  "compare",
  "generate",
] as const;
export type SceneName = (typeof SCENES)[number];

export interface Trial {
  /** Which of how many. */
  readonly met: Step | undefined;
  /** What is wrong with the end; undefined: nothing. */
  readonly problem: string | undefined;
}

export class Torture {
  readonly #scratch: string;
  readonly #scene: Scene;
  readonly #before: string;
  #expected = "";
  #cases = 0;
  /** Of a command that nothing happens to. */
  steps: readonly Step[] = [];

  private constructor(scratch: string, scene: Scene) {
    this.#scratch = scratch;
    this.#scene = scene;
    this.#before = join(scratch, "before");
  }

  /** @param parent for everything it writes */
  static async of(name: SceneName, parent = tmpdir()): Promise<Torture> {
    const scratch = mkdtempSync(join(parent, "prune-torture-"));
    const torture = new Torture(scratch, await sceneOf(name, scratch));
    mkdirSync(torture.#before);
    await torture.#scene.prepare?.(torture.#before);
    const at = torture.#fresh();
    const { steps, result, error } = await withAccident(at, undefined, () =>
      torture.#scene.work(at, name === "resume"),
    );
    if (error !== undefined) throw error;
    torture.steps = steps;
    torture.#expected = torture.#scene.outcome(at, result);
    torture.#isResumed = name === "resume";
    return torture;
  }

  #isResumed = false;

  [Symbol.dispose](): void {
    rmSync(this.#scratch, { recursive: true, force: true });
  }

  /** Let something happen to the command, and look at what comes of it. */
  async suffer(accident: Accident): Promise<Trial> {
    const then = this.#fresh();
    const scene = this.#scene;
    const { met, result, error } = await withAccident(then, accident, () => scene.work(then, this.#isResumed));
    const at = this.#fresh(false);
    renameSync(then, at); // what the killed one still had going finds nothing
    if (met === undefined) return { met, problem: undefined };
    const isKilled = accident.kind === "kill";
    const finished = isKilled || error !== undefined ? undefined : { given: result };
    const failure = isKilled
      ? undefined
      : this.#problemOfFailure(at, accident.kind === "gone" || met.path.includes(".lock"), result, error);
    const problem = failure ?? (await this.#problemAfter(at, finished));
    rmSync(at, { recursive: true });
    return { met, problem };
  }

  /** What a power cut may have left after each step of a command that nothing else happens to: equal ones are looked at once. */
  async *cutPower(
    which: (step: number) => boolean = () => true,
    remains: readonly Remains[] = REMAINS,
  ): AsyncGenerator<Trial & { readonly after: number; readonly remains: Remains }> {
    const seen = new Set<string>();
    const start = this.#fresh();
    const disk = new Disk(start);
    for (let after = 0; after <= this.steps.length; after++) {
      const met = this.steps[after - 1];
      if (met !== undefined) disk.do(relocated(met, this.#firstCase, start));
      if (!which(after)) continue;
      for (const kind of remains) {
        const at = this.#fresh(false);
        const told = disk.leave(kind, at, after);
        if (!seen.has(told)) {
          seen.add(told);
          yield { after, remains: kind, met, problem: await this.#problemAfter(at, undefined) };
        }
        rmSync(at, { recursive: true });
      }
    }
    rmSync(start, { recursive: true });
  }

  /** Where the steps were written down. */
  get #firstCase(): string {
    return join(this.#scratch, "case-1");
  }

  #fresh(isPrepared = true): string {
    const at = join(this.#scratch, `case-${++this.#cases}`);
    mkdirSync(at);
    if (isPrepared) cpSync(this.#before, at, { recursive: true, preserveTimestamps: true });
    return at;
  }

  /** Of a command that was not killed. @param isLockMet whether its lock may be what could not be removed */
  #problemOfFailure(at: string, isLockMet: boolean, given: unknown, thrown: unknown): string | undefined {
    const error = firstError(thrown);
    if (error === undefined)
      return this.#scene.outcome(at, given) === this.#expected
        ? undefined
        : "it says that all is well, with other bytes";
    const code = exitCodeOf(error);
    if (!(error instanceof PruneError) || error instanceof InternalError || ![2, 4, 5].includes(code))
      return `it ended with ${code}: ${error instanceof Error ? (error.stack ?? "") : String(error)}`;
    if (error.hint === undefined) return `no hint: ${error.code} ${error.message}`;
    if (!isLockMet && existsSync(join(at, "out.lock")))
      return `out.lock is left behind by ${error.code} ${error.message}`;
    return undefined;
  }

  /** @param finished what a command gave that met an accident and went on */
  async #problemAfter(at: string, finished: { readonly given: unknown } | undefined): Promise<string | undefined> {
    const scene = this.#scene;
    if (scene.isKept?.(at) === false) return "what was there before is lost";
    buryOwners(at);
    let given = finished?.given;
    const isDone = finished !== undefined || scene.isFinished(at);
    if (isDone && scene.isFinished(at) && scene.outcome(at, given) !== this.#expected)
      return "the output has other bytes";
    if (!isDone || scene.isBegun(at) || !isSame(readdirSync(at), scene.left)) {
      try {
        given = await scene.work(at, isDone || scene.isBegun(at));
      } catch (error) {
        const isRefusal = error instanceof PruneError && /^E_(NOTHING_TO_RESUME|OUTPUT_EXISTS)$/.test(error.code);
        if (!isRefusal || !scene.isFinished(at))
          return `afterwards: ${error instanceof Error ? (error.stack ?? "") : String(error)}`;
      }
    }
    const left = readdirSync(at).sort();
    if (!isSame(left, scene.left)) return `left behind: ${left.join(", ")}`;
    return scene.outcome(at, given) === this.#expected ? undefined : "afterwards other bytes";
  }
}

const isSame = (some: readonly string[], others: readonly string[]): boolean =>
  some.toSorted().join("/") === others.toSorted().join("/");

function relocated(step: Step, from: string, to: string): Step {
  const moved = (path: string): string => to + path.slice(from.length);
  return step.type === "rename"
    ? { ...step, path: moved(step.path), to: moved(step.to) }
    : { ...step, path: moved(step.path) };
}

/** Claims of this process, which lives, are those of one that had its number before. */
function buryOwners(at: string): void {
  for (const name of readdirSync(at, { recursive: true }).map(String)) {
    if (!name.endsWith(".claim")) continue;
    const text = readFileSync(join(at, name), "utf8");
    if (text.endsWith("}")) writeFileSync(join(at, name), text.replace(/"started":"\d+"/, '"started":"1"'));
  }
}

function hashesOf(directory: string): string {
  if (!existsSync(directory)) return "nothing";
  if (statSync(directory).isFile()) return hashOf(directory);
  const files = readdirSync(directory, { recursive: true }).map(String).sort();
  const hashed = files.flatMap((name) => {
    const path = join(directory, name);
    if (statSync(path).isDirectory()) return `${name}/`;
    // A recipe names where its output is; it must be whole.
    const isRecipe = name === "recipe.yaml";
    return `${name} ${isRecipe ? /^out: .*case-\d+\/out\n/m.test(readFileSync(path, "utf8")) : hashOf(path)}`;
  });
  return hashed.join("\n");
}

function hashOf(file: string): string {
  return createHash("sha256").update(readFileSync(file)).digest("hex");
}

async function sceneOf(name: SceneName, scratch: string): Promise<Scene> {
  const model = join(scratch, "model");
  await writeSyntheticLlama(model, {
    ...{ hidden: 16, intermediate: 32, blocks: 2, shards: 2 },
    files: { "tokenizer/notes.txt": "carried along" },
  });
  const calibration = await writeRandomIds(model, { sequences: 4, tokens: 8 });
  // A sequence of hidden states takes 512 bytes: two are spilled.
  const size = { model, calibration, nsamples: 4, seqlen: 8, memoryBytes: 1024 };
  const pruning = (overrides: Partial<RunConfig> = {}): Scene => runScene({ ...size, method: "wanda", ...overrides });
  switch (name) {
    case "run":
      return pruning({ method: "sparsegpt" });
    case "resume":
      return { ...pruning(), prepare: (at) => stopInTheMiddle({ ...size, method: "wanda" }, at) };
    case "replace":
      return replacing(pruning({ force: true }));
    case "allocate":
      return pruning({ allocation: allocationSchema.parse({ rule: "owl", M: 2 }) });
    case "search": {
      const options = { rule: "evolutionary", generations: 1, offspring: 2, heldOut: 1, proxy: "method" };
      return pruning({ method: "sparsegpt", allocation: allocationSchema.parse(options) });
    }
    case "gradients":
      return pruning({ method: "gblm", methodOptions: {} });
    case "train":
      return pruning({
        method: "elsa",
        methodOptions: { ...elsa.schema.parse({ steps: 2, batchSize: 1, interval: 1, lr: 1e-3, train: "all" }) },
        then: [
          { method: "finetune", methodOptions: { ...finetune.schema.parse({ steps: 1, batchSize: 1, train: "all" }) } },
        ],
      });
    case "compare":
      return compareScene({ ...size, measureLoss: true, propagation: "dense" }, calibration);
    case "generate":
      return generateScene(model);
  }
}

function runScene(overrides: Partial<RunConfig>): Scene {
  const isWhole = (at: string): boolean => existsSync(join(at, "out")) && !existsSync(join(at, "out", CLONE_MARKER));
  return {
    work: (at, resume) => pruneModel(demoRun(join(at, "out"), { ...overrides, resume }), createTestContext()),
    isBegun: (at) => existsSync(join(at, "out.partial")) || existsSync(join(at, "out", CLONE_MARKER)),
    isFinished: isWhole,
    outcome: (at) => hashesOf(join(at, "out")),
    left: ["out"],
  };
}

/** A run that was killed once its first block was written. */
async function stopInTheMiddle(overrides: Partial<RunConfig>, at: string): Promise<void> {
  const config = demoRun(join(at, "out"), overrides);
  let isStopping = false;
  const context = createTestContext({ stop: { requested: () => (isStopping ? "SIGINT" : undefined) } });
  const emit = ({ type }: { readonly type: string }): void => void (isStopping ||= type === "block");
  await pruneModel(config, { ...context, emit }).catch(() => undefined);
}

/** `--force` over an output that is there. */
function replacing(scene: Scene): Scene {
  const file = (at: string): string => join(at, "out", "old.txt");
  const isOld = (at: string): boolean => existsSync(file(at)) && readFileSync(file(at), "utf8") === "precious";
  return {
    ...scene,
    prepare: (at) => {
      mkdirSync(join(at, "out"));
      writeFileSync(file(at), "precious");
    },
    isFinished: (at) => !isOld(at) && scene.isFinished(at),
    isKept: (at) => isOld(at) || scene.isFinished(at) || scene.isBegun(at),
  };
}

function compareScene(overrides: Partial<RunConfig>, text: TokenSource): Scene {
  return {
    work: (at, resume) =>
      compareMethods(
        {
          run: demoRun("", overrides),
          methods: ["magnitude", "sparsegpt"].map((method) => ({ label: method, method, methodOptions: {}, then: [] })),
          targets: [{ pattern: demoRun("").pattern, sparsity: 0.5 }],
          allocations: [{ label: "uniform", allocation: demoRun("").allocation }],
          ...{ text, seqlen: 8, maxWindows: 2, workDirectory: join(at, "out"), resume },
        },
        createTestContext(),
      ),
    isBegun: (at) => existsSync(join(at, "out")),
    isFinished: () => false, // its report is all there is
    outcome: (_at, given) => {
      const { dense, rows } = given as ComparisonReport;
      const facts = rows.map(({ method, perplexity, loss, layers }) => [
        method,
        perplexity,
        loss,
        layers.map(({ zeros }) => zeros),
      ]);
      return JSON.stringify([dense, facts]);
    },
    left: [],
  };
}

function generateScene(model: string): Scene {
  const size = { nsamples: 2, seqlen: 8, seed: 0, greedyTokens: 1, batchSize: 2, memoryBytes: 2 ** 24 };
  const sampling = { temperature: undefined, topK: undefined, topP: undefined, prompts: undefined };
  return {
    work: (at) =>
      generateCalibration(
        { model, force: false, ...size, ...sampling, out: join(at, "out.safetensors") },
        createTestContext(),
      ),
    isBegun: () => false,
    isFinished: (at) => existsSync(join(at, "out.safetensors")),
    outcome: (at) => hashesOf(join(at, "out.safetensors")),
    left: ["out.safetensors"],
  };
}
