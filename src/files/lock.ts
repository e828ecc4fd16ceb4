/**
 * Who may write an output: one process at a time, from before its first byte to after its last. A process puts a claim into
 * the folder OUT.lock and then looks at the claims of others, so of two that come at once at least one sees the other; among
 * those that still look, the one with the lowest name goes on. Claims are never taken over, only put beside: a dead owner's
 * is removed by whoever finds it. Needs nothing of the file system but that a name which was made is seen by a later look
 * into its folder.
 */
import { randomUUID } from "node:crypto";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { UsageError } from "../errors.js";
import { isRecord } from "../is-record.js";
import { fileErrorCode } from "./file-errors.js";
import { mkdir, readdir, readFile, readlink, rename, rm, rmdir, writeFile } from "./lock-files.js";

/** A process, told from one that got its number later, or has it on another machine. */
export interface Owner {
  readonly pid: number;
  /** Since the boot, in the kernel's ticks; empty where the system does not say. */
  readonly started: string;
  /** Of the machine's current boot; empty where the system does not say. */
  readonly boot: string;
  /** In which process numbers count: containers have their own. */
  readonly namespace: string;
  readonly host: string;
  /** Of the installed system; empty where it has none. */
  readonly machine: string;
  /** ISO date. */
  readonly since: string;
}

const UNFINISHED = ".tmp";
const CLAIM = ".claim";
const HELD = ".held";
const LOOK_AGAIN_MS = 20;
/** As long as it takes a process that lives to see another's claim and give way, many times over. */
const PATIENCE_MS = 5000;

/** Held until disposed of. */
export class OutputLock implements AsyncDisposable {
  readonly #folder: string;
  readonly #name: string;

  private constructor(folder: string, name: string) {
    this.#folder = folder;
    this.#name = name;
  }

  /**
   * @param out what is to be written; its parent exists
   * @param flag that names it
   * @throws UsageError E_OUTPUT_LOCKED where another process is at work on it, or may be
   */
  static async take(out: string, flag = "--out"): Promise<OutputLock> {
    const folder = `${out}.lock`;
    const own = await describeProcess();
    const lock = new OutputLock(folder, randomUUID().slice(0, 13));
    try {
      await lock.#claim(own);
      for (let waited = 0; ; waited += LOOK_AGAIN_MS) {
        const others = await lock.#others(own);
        const [first] = others;
        if (first === undefined) break;
        const stronger = others.find(({ isHeld }) => isHeld) ?? others.find(({ name }) => name < lock.#name);
        if (stronger !== undefined || waited >= PATIENCE_MS)
          throw refusal(`${flag}: ${out}`, folder, (stronger ?? first).owner, own);
        await sleep(LOOK_AGAIN_MS); // they see this one, and give way
      }
      await writeFile(join(folder, lock.#name + HELD), "");
    } catch (error) {
      await lock[Symbol.asyncDispose]();
      throw error;
    }
    return lock;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await remove(this.#folder, this.#name);
    await rmdir(this.#folder).catch(() => undefined); // another's claim is in it
  }

  /** The claim appears whole, so what cannot be read was torn by a crash of the machine. */
  async #claim(own: Owner): Promise<void> {
    const unfinished = join(this.#folder, this.#name + UNFINISHED);
    for (;;) {
      await mkdir(this.#folder, { recursive: true });
      try {
        await writeFile(unfinished, JSON.stringify(own));
        return await rename(unfinished, join(this.#folder, this.#name + CLAIM));
      } catch (error) {
        if (fileErrorCode(error) !== "ENOENT") throw error; // else its last user has just removed the folder
      }
    }
  }

  /** Claims of processes that live, or of which nobody here can know; those of dead ones are removed. */
  async #others(own: Owner): Promise<{ readonly name: string; readonly isHeld: boolean; readonly owner: Owner }[]> {
    const files = await readdir(this.#folder);
    // What a kill left of one; somebody who is just writing it writes it again.
    for (const file of files) if (file.endsWith(UNFINISHED)) await rm(join(this.#folder, file), { force: true });
    const living = [];
    for (const name of files.flatMap((file) => (file.endsWith(CLAIM) ? [file.slice(0, -CLAIM.length)] : []))) {
      if (name === this.#name) continue;
      const owner = await readOwner(join(this.#folder, name + CLAIM));
      if (owner === "gone") continue;
      if (owner === undefined || (await stateOf(owner, own)) === "dead") await remove(this.#folder, name);
      else living.push({ name, isHeld: files.includes(name + HELD), owner });
    }
    return living;
  }
}

/** The claim goes last: what is held without one is nobody's. */
async function remove(folder: string, name: string): Promise<void> {
  for (const ending of [UNFINISHED, HELD, CLAIM]) await rm(join(folder, name + ending), { force: true });
}

async function readOwner(file: string): Promise<Owner | "gone" | undefined> {
  try {
    const value: unknown = JSON.parse(await readFile(file, "utf8"));
    if (!isRecord(value) || !Number.isInteger(value["pid"]) || Number(value["pid"]) < 1) return undefined;
    return value as unknown as Owner;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    if (fileErrorCode(error) === "ENOENT") return "gone";
    throw error;
  }
}

/** Whether the owner of a claim lives, as far as a process `own` of this machine can know. */
export async function stateOf(owner: Owner, own: Owner): Promise<"alive" | "dead" | "unknown"> {
  const isSameMachine = owner.host === own.host && owner.machine === own.machine;
  if (!isSameMachine) return "unknown";
  // Hosts of one name that say nothing else of themselves may be two.
  if (owner.boot !== own.boot) return own.machine === "" ? "unknown" : "dead";
  if (owner.namespace !== own.namespace) return "unknown";
  if (!isRunning(owner.pid)) return "dead";
  const { state, started } = await processOf(owner.pid);
  if (state === "Z") return "dead"; // killed, and its parent has not heard of it yet
  return owner.started === "" || started === "" || started === owner.started ? "alive" : "dead";
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return fileErrorCode(error) !== "ESRCH"; // EPERM: it is another user's
  }
}

export async function describeProcess(): Promise<Owner> {
  return {
    pid: process.pid,
    started: (await processOf(process.pid)).started,
    boot: await textOf("/proc/sys/kernel/random/boot_id"),
    namespace: await readlink("/proc/self/ns/pid").catch(() => ""),
    host: hostname(),
    machine: await textOf("/etc/machine-id"),
    since: new Date().toISOString(),
  };
}

/** Fields 3 and 22 of its line; the second is the program's name in brackets, and may hold anything. */
async function processOf(pid: number): Promise<{ readonly state: string; readonly started: string }> {
  const line = await textOf(`/proc/${pid}/stat`);
  const fields = line.slice(line.lastIndexOf(")") + 2).split(" ");
  return { state: fields[0] ?? "", started: fields[19] ?? "" };
}

async function textOf(file: string): Promise<string> {
  return (await readFile(file, "utf8").catch(() => "")).trim();
}

function refusal(what: string, folder: string, owner: Owner, own: Owner): UsageError {
  const { pid, host, since, namespace, boot } = owner;
  const isHere = host === own.host && owner.machine === own.machine && boot === own.boot && namespace === own.namespace;
  const who = `process ${pid}${isHere ? "" : ` on ${host}`}, since ${since}`;
  const details = { lock: folder, owner };
  if (isHere)
    return new UsageError("E_OUTPUT_LOCKED", `${what} is being written by another run (${who}).`, {
      hint: "Wait for it, stop it, or choose another place; --force does not take an output from a run that is at work.",
      details,
    });
  return new UsageError(
    "E_OUTPUT_LOCKED",
    `${what} was taken by a run elsewhere (${who}), and whether it is still at work cannot be known from here.`,
    { hint: `Look there. If that run has ended, remove ${folder} and start this one again.`, details },
  );
}
