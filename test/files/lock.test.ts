/** One process at a time writes an output: living owners keep it, dead ones do not, and of several at once one gets it. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { describeProcess, OutputLock, stateOf, type Owner } from "../../src/files/lock.js";
import { UsageError } from "../../src/errors.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { repositoryPath } from "../helpers/paths.js";

const place = (t: TestContext): string => join(temporaryDirectory(t), "out");

const isLocked =
  (message: RegExp, hint: RegExp) =>
  (error: unknown): true => {
    assert.ok(error instanceof UsageError);
    assert.equal(error.code, "E_OUTPUT_LOCKED");
    assert.match(error.message, message);
    assert.match(String(error.hint), hint);
    return true;
  };

/** A claim that holds, as another process would have left it. */
function leaveClaim(out: string, content: object | string): void {
  mkdirSync(`${out}.lock`);
  writeFileSync(join(`${out}.lock`, "0.claim"), typeof content === "string" ? content : JSON.stringify(content));
  writeFileSync(join(`${out}.lock`, "0.held"), "");
}

test("what is held is refused, and free again afterwards with nothing left behind", async (t) => {
  const out = place(t);
  {
    await using _held = await OutputLock.take(out);
    await assert.rejects(
      OutputLock.take(out),
      isLocked(/--out: .*out is being written .*process \d+/, /--force does not/),
    );
    assert.equal(readdirSync(`${out}.lock`).length, 2, "the refused claim is gone");
  }
  assert.ok(!existsSync(`${out}.lock`));
  await using _again = await OutputLock.take(out);
});

test("a killed owner holds nothing", async (t) => {
  const out = place(t);
  const script = `import { OutputLock } from ${JSON.stringify(repositoryPath("dist/src/files/lock.js"))};
    await OutputLock.take(${JSON.stringify(out)}); console.log("held"); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  await assert.rejects(OutputLock.take(out), isLocked(new RegExp(`process ${child.pid}\\b`), /./));
  child.kill("SIGKILL");
  await once(child, "close");
  await using _taken = await OutputLock.take(out);
});

test("of several that come at once exactly one gets it, also where a dead one's claim is in the way", async (t) => {
  const own = await describeProcess();
  for (let round = 0; round < 10; round++) {
    const out = place(t);
    if (round % 2 === 1) leaveClaim(out, { ...own, started: "1" });
    const takes = await Promise.allSettled(Array.from({ length: 6 }, () => OutputLock.take(out)));
    const taken = takes.flatMap((take) => (take.status === "fulfilled" ? [take.value] : []));
    assert.equal(taken.length, 1, `round ${round}`);
    await taken[0]?.[Symbol.asyncDispose]();
    assert.ok(!existsSync(`${out}.lock`));
  }
});

test("owners are told from what took their number, their boot or their name", async () => {
  const own = { ...(await describeProcess()), machine: "m" };
  const cases: readonly (readonly [Partial<Owner>, Partial<Owner>, string])[] = [
    [{}, {}, "alive"],
    [{ started: "1" }, {}, process.platform === "linux" ? "dead" : "alive"],
    [{ pid: 2 ** 22 + 1 }, {}, "dead"],
    [{ boot: "other" }, {}, "dead"],
    [{ boot: "other", machine: "" }, { machine: "" }, "unknown"],
    [{ machine: "other" }, {}, "unknown"],
    [{ host: "elsewhere", pid: 2 ** 22 + 1 }, {}, "unknown"],
    [{ namespace: "pid:[1]", pid: 2 ** 22 + 1 }, {}, "unknown"],
  ];
  for (const [other, self, expected] of cases)
    assert.equal(await stateOf({ ...own, ...other }, { ...own, ...self }), expected, JSON.stringify(other));
});

test("an owner on another host is named, with the way out; torn claims hold nothing", async (t) => {
  const out = place(t);
  leaveClaim(out, { ...(await describeProcess()), host: "elsewhere" });
  await assert.rejects(OutputLock.take(out), isLocked(/on elsewhere.*cannot be known/, /remove .*out\.lock/));
  const torn = place(t);
  leaveClaim(torn, '{"pid": 12');
  await using _taken = await OutputLock.take(torn);
});
