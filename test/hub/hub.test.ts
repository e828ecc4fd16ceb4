/** Downloads from a server of the Hub's protocol on localhost: what arrives, what is asked for, and what goes wrong. */
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { InterruptedError, NetworkError } from "../../src/errors.js";
import { retryAfter } from "../../src/hub/client.js";
import { Hub, type HubFile, type HubListening, type Snapshot } from "../../src/hub/hub.js";
import { createMemoryLogger } from "../../src/logging.js";
import { temporaryDirectory } from "../helpers/checkpoints.js";
import { commitOf, HubServer, type ServedRepository } from "../helpers/hub-server.js";

const CONFIG = '{"model_type": "llama"}';
const WEIGHTS = Buffer.from(Array.from({ length: 300_000 }, (_, index) => (index * 37) & 255));
const REPOSITORY: ServedRepository = {
  name: "org/name",
  files: {
    "config.json": CONFIG,
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": "x".repeat(500),
    "folder/deep file.txt": "deep",
    "README.md": "card",
    empty: "",
  },
  refs: ["main", "v1.0", "refs/pr/3"],
};
const MAIN = { kind: "model", id: "org/name", revision: "main" } as const;
const PATIENCE = { attempts: 3, firstPause: 1, longestPause: 20, stall: 20_000 };

interface Place {
  readonly server: HubServer;
  readonly cache: string;
  readonly hub: (asked?: { token?: string; isOffline?: boolean } & HubListening) => Hub;
}

async function place(t: TestContext, ...repositories: readonly ServedRepository[]): Promise<Place> {
  const server = await HubServer.start(t, ...(repositories.length === 0 ? [REPOSITORY] : repositories));
  const cache = join(temporaryDirectory(t), "hub");
  return {
    server,
    cache,
    hub: ({ token, isOffline = false, ...listening } = {}) =>
      new Hub({ endpoint: server.endpoint, cache, token, isOffline }, { patience: PATIENCE, ...listening }),
  };
}

function fileOf({ files }: Snapshot, path: string): HubFile {
  const file = files.find((each) => each.path === path);
  assert.ok(file !== undefined, path);
  return file;
}

const weightsOf = (snapshot: Snapshot): HubFile[] => [fileOf(snapshot, "model.safetensors")];

async function failure(work: Promise<unknown>): Promise<NetworkError> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  assert.ok(error instanceof NetworkError, String(error));
  return error;
}

test("files land in the cache as other tools lay it out, and are asked for once", async (t) => {
  const { server, cache, hub } = await place(t);
  const snapshot = await hub().open(MAIN);
  assert.equal(snapshot.files.length, 6, "all pages of the listing, folders left out");
  const wanted = ["config.json", "model.safetensors", "folder/deep file.txt", "empty"].map((path) =>
    fileOf(snapshot, path),
  );
  const progress: number[] = [];
  const paths = await hub({ onProgress: ({ doneBytes }) => progress.push(doneBytes) }).download(snapshot, wanted);
  const contents = paths.map((path) => readFileSync(path));
  assert.deepEqual(contents, [Buffer.from(CONFIG), WEIGHTS, Buffer.from("deep"), Buffer.alloc(0)]);
  assert.equal(progress.at(-1), CONFIG.length + WEIGHTS.length + 4);

  const commit = commitOf(REPOSITORY);
  const folder = join(cache, "models--org--name");
  assert.equal(readFileSync(join(folder, "refs/main"), "utf8"), commit);
  assert.deepEqual(readdirSync(folder).sort(), ["blobs", "refs", "snapshots"]);
  assert.equal(
    readlinkSync(join(folder, "snapshots", commit, "folder/deep file.txt")),
    `../../../blobs/${fileOf(snapshot, "folder/deep file.txt").hash}`,
  );
  assert.equal(readlinkSync(paths[1] ?? ""), `../../blobs/${fileOf(snapshot, "model.safetensors").hash}`);
  assert.equal(readdirSync(join(folder, "blobs")).length, 4, "nothing unfinished is left");

  const before = server.heard.length;
  await hub().download(snapshot, wanted);
  assert.equal(server.heard.length, before, "what is there is not asked for again");
});

test("a revision is found by branch, tag, reference or commit; single files can be asked for by name", async (t) => {
  const { server, hub } = await place(t);
  for (const revision of ["main", "v1.0", "refs/pr/3", commitOf(REPOSITORY)])
    assert.equal((await hub().open({ ...MAIN, revision })).commit, commitOf(REPOSITORY), revision);
  const { files } = await hub().open(MAIN, ["config.json", "not-there.json"]);
  assert.deepEqual(
    files.map(({ path }) => path),
    ["config.json"],
  );
  assert.match(server.paths("hub").at(-1) ?? "", /paths-info/);
});

test("the token goes to the Hub and to nobody else", async (t) => {
  const { server, hub } = await place(t);
  const snapshot = await hub({ token: "secret-token" }).open(MAIN);
  await hub({ token: "secret-token" }).download(snapshot, weightsOf(snapshot));
  const tokens = (host: string): unknown[] => [
    ...new Set(server.heard.filter((each) => each.host === host).map(({ authorization }) => authorization)),
  ];
  assert.deepEqual(tokens("hub"), ["Bearer secret-token"]);
  assert.deepEqual(tokens("cdn"), [undefined]);
});

test("a transfer that breaks goes on from where it broke, in the same run and in the next", async (t) => {
  const { server, cache, hub } = await place(t);
  const snapshot = await hub().open(MAIN);
  const [weights] = weightsOf(snapshot);
  assert.ok(weights !== undefined);
  server.faults.push({ path: weights.hash, cutAfter: 100_000 });
  await hub().download(snapshot, [weights]);
  const ranges = server.heard.filter(({ host }) => host === "cdn").map(({ range }) => range);
  assert.equal(ranges[0], undefined);
  assert.match(ranges[1] ?? "", /^bytes=[1-9]\d*-$/);
  assert.deepEqual(readFileSync(join(snapshot.directory, weights.path)), WEIGHTS);

  // What another run left behind, half of it there.
  const blob = join(cache, "models--org--name/blobs", weights.hash);
  const other = await place(t);
  const elsewhere = join(other.cache, "models--org--name/blobs");
  mkdirSync(elsewhere, { recursive: true });
  writeFileSync(join(elsewhere, `${weights.hash}.prune.incomplete`), readFileSync(blob).subarray(0, 150_000));
  const again = await other.hub().open(MAIN);
  await other.hub().download(again, weightsOf(again));
  assert.deepEqual(
    other.server.heard.filter(({ host }) => host === "cdn").map(({ range }) => range),
    ["bytes=150000-"],
  );
  assert.deepEqual(readFileSync(join(again.directory, weights.path)), WEIGHTS);
});

test("what a server cannot go on with is fetched anew", async (t) => {
  const { server, cache, hub } = await place(t);
  const snapshot = await hub().open(MAIN);
  const config = fileOf(snapshot, "config.json");
  const blobs = join(cache, "models--org--name/blobs");
  mkdirSync(blobs, { recursive: true });
  writeFileSync(join(blobs, `${config.hash}.prune.incomplete`), CONFIG.slice(0, 5));
  server.faults.push({ path: "config.json", status: 416 });
  await hub().download(snapshot, [config]);
  assert.equal(readFileSync(join(snapshot.directory, "config.json"), "utf8"), CONFIG);
  const asked = server.heard.filter(({ path }) => path.endsWith("config.json")).map(({ range }) => range);
  assert.deepEqual(asked, ["bytes=5-", undefined]);
});

test("another content than the listed one is refused and not kept; what an earlier run left is doubted first", async (t) => {
  const { server, cache, hub } = await place(t);
  const snapshot = await hub().open(MAIN);
  const [weights] = weightsOf(snapshot);
  assert.ok(weights !== undefined);
  const changed = Buffer.from(WEIGHTS);
  changed[5] = 1;
  server.faults.push({ path: weights.hash, content: changed });
  const wrong = await failure(hub().download(snapshot, [weights]));
  assert.deepEqual([wrong.code, wrong.details["expected"]], ["E_HUB_HASH", weights.hash]);
  const blobs = join(cache, "models--org--name/blobs");
  assert.deepEqual(readdirSync(blobs), []);

  const config = fileOf(snapshot, "config.json");
  server.faults.push({ path: "config.json", content: Buffer.from(CONFIG.replace("llama", "lamma")) });
  assert.equal(
    (await failure(hub().download(snapshot, [config]))).code,
    "E_HUB_HASH",
    "git's own names are checked too",
  );
  server.faults.push({ path: "config.json", content: Buffer.from(`${CONFIG} and more`) });
  assert.equal((await failure(hub().download(snapshot, [config]))).code, "E_HUB_SIZE");

  writeFileSync(join(blobs, `${weights.hash}.prune.incomplete`), changed.subarray(0, 1000));
  await hub().download(snapshot, [weights]);
  assert.deepEqual(readFileSync(join(snapshot.directory, weights.path)), WEIGHTS);
});

test("a busy server is asked again, after the time it asks for, and believed in the end", async (t) => {
  const { server, hub } = await place(t);
  const logger = createMemoryLogger();
  server.faults.push(
    { path: "/revision/", status: 429, headers: { "retry-after": "0" } },
    { path: "/tree/", status: 503 },
  );
  const snapshot = await hub({ logger }).open(MAIN);
  assert.equal(snapshot.files.length, 6);
  assert.equal(logger.lines.filter(({ level }) => level === "debug").length, 2);
  for (let attempt = 0; attempt < PATIENCE.attempts; attempt++)
    server.faults.push({ path: "config.json", status: 500 });
  const before = server.heard.length;
  const error = await failure(hub().download(snapshot, [fileOf(snapshot, "config.json")]));
  assert.deepEqual([error.code, error.details["status"]], ["E_HUB_STATUS", 500]);
  assert.equal(server.heard.length - before, PATIENCE.attempts);

  assert.equal(retryAfter("7"), 7000);
  assert.equal(retryAfter("Wed, 21 Oct 2015 07:28:30 GMT", Date.UTC(2015, 9, 21, 7, 28, 0)), 30_000);
  assert.equal(retryAfter("soon"), undefined);
  assert.equal(retryAfter(null), undefined);
});

test("a server that asks for a pause gets it", async (t) => {
  const { server, hub } = await place(t);
  server.faults.push({ path: "/revision/", status: 429, headers: { "retry-after": "1" } });
  const started = performance.now();
  await hub({ patience: { ...PATIENCE, longestPause: 60 } }).open(MAIN);
  const took = performance.now() - started;
  assert.ok(took >= 55, `${took} ms: the longest pause, which is shorter than the second that was asked for`);
});

test("a connection that stays silent is given up and taken up again", async (t) => {
  const { server, hub } = await place(t);
  const snapshot = await hub().open(MAIN);
  const [weights] = weightsOf(snapshot);
  server.faults.push({ path: weights?.hash ?? "", stallAfter: 1000 });
  await hub({ patience: { ...PATIENCE, attempts: 20, stall: 400 } }).download(snapshot, weightsOf(snapshot));
  assert.equal(statSync(join(snapshot.directory, "model.safetensors")).size, WEIGHTS.length);
});

const REFUSALS: readonly {
  readonly what: string;
  readonly access?: ServedRepository["access"];
  readonly token?: string;
  readonly asked?: Partial<typeof MAIN> | { readonly revision: string } | { readonly id: string };
  readonly code: string;
  readonly hint: RegExp;
}[] = [
  { what: "missing", asked: { id: "org/nothing" }, code: "E_HUB_MISSING", hint: /private.*HF_TOKEN/ },
  {
    what: "missing, with a token",
    asked: { id: "org/nothing" },
    token: "other-account",
    code: "E_HUB_MISSING",
    hint: /Compare/,
  },
  { what: "no such revision", asked: { revision: "v9" }, code: "E_HUB_REVISION", hint: /branches and tags/ },
  {
    what: "gated",
    access: { kind: "gated", token: "secret-token" },
    code: "E_HUB_GATED",
    hint: /Accept the conditions.*HF_TOKEN/,
  },
  {
    what: "gated, for another account",
    access: { kind: "gated", token: "secret-token" },
    token: "other-account",
    code: "E_HUB_GATED",
    hint: /Ask for it/,
  },
  { what: "private", access: { kind: "private", token: "secret-token" }, code: "E_HUB_MISSING", hint: /private/ },
  { what: "a wrong token", token: "made-up", code: "E_HUB_TOKEN", hint: /settings\/tokens/ },
];

for (const { what, access, token, asked, code, hint } of REFUSALS)
  test(`refused: ${what}`, async (t) => {
    const { hub } = await place(t, { ...REPOSITORY, ...(access === undefined ? {} : { access }) });
    const own = hub(token === undefined ? {} : { token });
    const error = await failure(
      own.open({ ...MAIN, ...asked }).then((snapshot) => own.download(snapshot, [fileOf(snapshot, "config.json")])),
    );
    assert.equal(error.code, code, error.message);
    assert.match(error.hint ?? "", hint);
    assert.doesNotMatch(JSON.stringify([error.message, error.hint, error.details]), /made-up|other-account|secret/);
  });

test("with access, gated and private models are models", async (t) => {
  for (const kind of ["gated", "private"] as const) {
    const { hub } = await place(t, { ...REPOSITORY, access: { kind, token: "secret-token" } });
    const own = hub({ token: "secret-token" });
    const snapshot = await own.open(MAIN);
    await own.download(snapshot, weightsOf(snapshot));
  }
});

test("offline, and without a connection, the cache answers", async (t) => {
  const { server, hub } = await place(t);
  const isOffline = { isOffline: true };
  assert.equal((await failure(hub(isOffline).open(MAIN))).code, "E_HUB_OFFLINE");
  const snapshot = await hub().open(MAIN);
  await hub().download(snapshot, [fileOf(snapshot, "config.json")]);
  const asked = server.heard.length;
  const cached = await hub(isOffline).open(MAIN);
  assert.deepEqual(
    [cached.isFromCache, cached.commit, cached.files.map(({ path }) => path)],
    [true, snapshot.commit, ["config.json"]],
  );
  await hub(isOffline).download(cached, cached.files);
  const error = await failure(hub(isOffline).download(cached, weightsOf(snapshot)));
  assert.deepEqual([error.code, error.details["missing"]], ["E_HUB_OFFLINE", ["model.safetensors"]]);
  assert.equal(server.heard.length, asked, "nothing is asked of the network");

  server.stop();
  const logger = createMemoryLogger();
  const found = await hub({ logger }).open(MAIN);
  assert.equal(found.isFromCache, true);
  assert.match(logger.lines.find(({ level }) => level === "warn")?.message ?? "", /refused.*cache/);
  const unreachable = await failure(hub().open({ ...MAIN, id: "org/other" }));
  assert.equal(unreachable.code, "E_HUB_UNREACHABLE");
});

test("a download that is stopped keeps what came", async (t) => {
  const { server, cache, hub } = await place(t);
  const snapshot = await hub().open(MAIN);
  const [weights] = weightsOf(snapshot);
  server.faults.push({ path: weights?.hash ?? "", stallAfter: 70_000 });
  const controller = new AbortController();
  const stopped = hub({
    signal: controller.signal,
    onProgress: ({ doneBytes }) => void (doneBytes >= 70_000 && controller.abort("SIGINT")),
  }).download(snapshot, weightsOf(snapshot));
  await assert.rejects(stopped, (error) => error instanceof InterruptedError && error.details["signal"] === "SIGINT");
  const [left] = readdirSync(join(cache, "models--org--name/blobs"));
  assert.equal(left, `${weights?.hash ?? ""}.prune.incomplete`);
  assert.equal(statSync(join(cache, "models--org--name/blobs", left ?? "")).size, 70_000);
});

test("two downloads of a model at once do not get into each other's way", async (t) => {
  const { server, hub } = await place(t);
  const snapshot = await hub().open(MAIN);
  await Promise.all([1, 2].map(() => hub().download(snapshot, weightsOf(snapshot))));
  assert.equal(server.paths("cdn").length, 1, "the second finds what the first has fetched");
});

test("paths and hashes that would lead elsewhere on this disk are refused", async (t) => {
  for (const path of ["../outside", "/absolute", "a/../../b", "a\\b", "c:d"]) {
    const { hub } = await place(t, { ...REPOSITORY, files: { [path]: "x" } });
    assert.equal((await failure(hub().open(MAIN))).code, "E_HUB_ANSWER", path);
  }
});
