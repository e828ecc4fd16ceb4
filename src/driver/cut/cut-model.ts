/**
 * `prune cut`: a part of a model written as a checkpoint of its own, by a plan. Everything is decided and checked before a byte is
 * written; then shard after shard is written and noted in a journal, so that an interrupted cut goes on with the next.
 */
import { basename, join } from "node:path";
import { changedShards, indexMetadata, isSingleFile, type Checkpoint } from "../../checkpoint/checkpoint.js";
import { OutputDirectory } from "../../checkpoint/output-directory.js";
import {
  planShards,
  shardBytes,
  writeShard,
  type PartialShard,
  type PartialTensor,
} from "../../checkpoint/part-shards.js";
import { ShardFile } from "../../checkpoint/shard-file.js";
import { INDEX_FILE } from "../../checkpoint/sharded-index.js";
import { throwIfStopped, type EngineContext } from "../../context.js";
import type { CutConfig, CutPlan, CutReport } from "../../contract.js";
import { ConfigError, InternalError } from "../../errors.js";
import { syncDirectory } from "../../files/durable.js";
import { open, stat, writeFile } from "../../files/output-files.js";
import { isRecord } from "../../is-record.js";
import { parseJson } from "../../json.js";
import type { Architecture } from "../../model/architecture.js";
import { parseModelConfig } from "../../model/config.js";
import { editConfig, editOf, patchConfig, renumberTensors, type ConfigPatch } from "../../model/config-edit.js";
import { cutTensors } from "../../model/cut-tensors.js";
import { FAMILIES, findFamily } from "../../model/families/registry.js";
import { describeCheckpoint, openModel, type Model } from "../../model/open-model.js";
import { hashOf, Journal, JOURNAL_NAME } from "../journal.js";
import { expectUntouched } from "../source-check.js";
import { keptBy, PLAN_NAME, readPlan } from "./plan.js";
import { sizesOf } from "./sizes.js";

/** New values of tensors in their stored type and the part's shape, by the model's names. */
export type Replacements = ReadonlyMap<string, Uint8Array>;

export interface PreparedCut {
  readonly model: Model;
  readonly plan: CutPlan;
  readonly replacements: Replacements;
  readonly patches: readonly ConfigPatch[];
  readonly configText: string;
  readonly architecture: Architecture;
  readonly shards: readonly PartialShard[];
}

/** Where a cut goes. */
export interface CutTarget {
  readonly out: string | undefined;
  readonly force: boolean;
  readonly resume: boolean;
}

/** @throws UsageError, CheckpointError, ConfigError before anything is written; InterruptedError, ResourceError: `resume` */
export async function cutModel(config: CutConfig, context: EngineContext): Promise<CutReport> {
  const started = performance.now();
  const { plan, directory } = await readPlan(config.plan);
  await using model = await openModel(config.model, { family: config.family, isAnyDtype: true });
  const prepared = await prepareCut(model, plan, await readReplacements(plan, directory));
  return await writeCut(prepared, config, context, started); // before the model is closed
}

async function readReplacements({ replace = {} }: CutPlan, directory: string): Promise<Replacements> {
  const replacements = new Map<string, Uint8Array>();
  for (const [name, { file, tensor = name }] of Object.entries(replace)) {
    const refuse = (problem: string): ConfigError =>
      new ConfigError("E_PLAN_REPLACE", `replace: ${name}: ${problem}.`, { details: { tensor: name, file } });
    if (file !== basename(file)) throw refuse(`"${file}" is no file beside the plan`);
    const shard = await ShardFile.open(directory, file, "r");
    try {
      const found = shard.header.tensors.find((entry) => entry.name === tensor);
      if (found === undefined) throw refuse(`${file} has no tensor ${tensor}`);
      const bytes = new Uint8Array(found.end - found.begin);
      await shard.read(bytes, shard.header.dataOffset + found.begin);
      replacements.set(name, bytes);
    } finally {
      await shard.close();
    }
  }
  return replacements;
}

/** What a plan makes of a model; nothing is written. */
export async function prepareCut(model: Model, plan: CutPlan, replacements: Replacements): Promise<PreparedCut> {
  const { architecture, checkpoint, config } = model;
  const family = findFamily(architecture.family);
  const edit = editOf(family, FAMILIES);
  const kept = await keptBy(plan, model);
  const [experts] = kept.experts.values();
  const [channels] = kept.channels.values();
  const renumbered = renumberTensors(architecture, kept.blocks, checkpoint);
  const derived = editConfig(
    { family, edit, config, architecture, tensors: checkpoint },
    {
      blocks: kept.blocks,
      ...(experts === undefined ? {} : { experts: experts.length }),
      ...(channels === undefined ? {} : { width: channels.length }),
    },
    renumbered,
  );
  const patches = [...derived, ...askedPatches(plan, derived, config.text)];
  const configText = patchConfig(config.text, patches);
  const next = describeCheckpoint(family, parseModelConfig(configText, "config.json"), renumbered);
  const tensors = cutTensors(architecture, next, kept, checkpoint);
  const shards = planShards(checkpoint, withReplacements(tensors, replacements));
  return { model, plan, replacements, patches, configText, architecture: next, shards };
}

/** What the plan changes in config.json by itself. */
function askedPatches({ config = [] }: CutPlan, derived: readonly ConfigPatch[], text: string): ConfigPatch[] {
  const taken = new Set(derived.map(({ path }) => path.join(".")));
  return config.map(({ path, from = null, to }) => {
    const found =
      path.reduce<unknown>((value, key) => (isRecord(value) ? value[key] : undefined), parseJson(text)) ?? null;
    const name = path.join(".");
    if (!taken.has(name) && JSON.stringify(found) === JSON.stringify(from)) return { path, from, to };
    const problem = taken.has(name)
      ? "follows from the rest of the plan"
      : `is ${JSON.stringify(found)}, not ${JSON.stringify(from)}`;
    throw new ConfigError("E_PLAN_CONFIG", `config: "${name}" of config.json ${problem}.`, {
      details: { path, found },
    });
  });
}

function withReplacements(tensors: readonly PartialTensor[], replacements: Replacements): PartialTensor[] {
  const names = new Set(tensors.map(({ source }) => source.name));
  for (const name of replacements.keys())
    if (!names.has(name))
      throw new ConfigError("E_PLAN_REPLACE", `replace: ${name} is no tensor that stays.`, {
        details: { tensor: name },
      });
  return tensors.map((tensor) => {
    const replaced = replacements.get(tensor.source.name);
    if (replaced === undefined) return tensor;
    if (replaced.byteLength === tensor.byteLength) return { ...tensor, replaced };
    throw new ConfigError(
      "E_PLAN_REPLACE",
      `replace: ${tensor.source.name} has ${replaced.byteLength} bytes; [${tensor.shape.join(", ")}] of ${tensor.source.dtype} takes ${tensor.byteLength}.`,
      { details: { tensor: tensor.source.name, shape: tensor.shape, dtype: tensor.source.dtype } },
    );
  });
}

/** Write what was prepared, where there is a place for it, and report. */
export async function writeCut(
  prepared: PreparedCut,
  target: CutTarget,
  context: EngineContext,
  started: number,
): Promise<CutReport> {
  const { model, plan, shards } = prepared;
  const { out } = target;
  const resumedShards = out === undefined ? 0 : await write(prepared, { ...target, out }, context);
  const { checkpoint } = model;
  const bytesBefore = { tensorBytes: sum([...checkpoint.tensors.values()].map(({ byteLength }) => byteLength)) };
  const sizes = await Promise.all((await checkpoint.stamps()).map(({ size }) => Number(size)));
  const bytesAfter = {
    tensorBytes: sum(shards.flatMap(({ tensors }) => tensors.map(({ byteLength }) => byteLength))),
    fileBytes: sum(shards.map(shardBytes)),
  };
  const stays = new Set(shards.flatMap(({ tensors }) => tensors.map(({ source }) => source.name)));
  const dropped = plan.drop?.blocks ?? [];
  const inside = model.architecture.blocks.filter(({ index }) => dropped.includes(index)).map(({ name }) => `${name}.`);
  const own = new Set(
    model.architecture.blocks.flatMap(({ tensors }) => [...tensors.values()].map(({ tensor }) => tensor)),
  );
  return {
    schema: "prune.cut/v1",
    model: model.directory,
    family: model.architecture.family,
    out: out ?? null,
    before: sizesOf(model.architecture, { ...bytesBefore, fileBytes: sum(sizes) }),
    after: sizesOf(prepared.architecture, bytesAfter),
    droppedBlocks: dropped,
    config: prepared.patches,
    leftOut: [...checkpoint.tensors.keys()].filter(
      (name) => !stays.has(name) && !own.has(name) && !inside.some((prefix) => name.startsWith(prefix)),
    ),
    resumedShards,
    seconds: (performance.now() - started) / 1000,
    plan,
  };
}

async function write(
  prepared: PreparedCut,
  { out, force, resume }: CutTarget & { readonly out: string },
  context: EngineContext,
): Promise<number> {
  const { model, shards, plan } = prepared;
  const { checkpoint } = model;
  const directory = await OutputDirectory.open({
    source: checkpoint,
    out,
    force,
    resume,
    newShardBytes: sum(shards.map(shardBytes)),
    own: { working: [JOURNAL_NAME], written: [PLAN_NAME] },
    warn: (message) => context.logger.warn(message),
  });
  let isFinished = false;
  try {
    if (directory.resumed) await expectSameSource(directory, checkpoint);
    await directory.sealed();
    const planText = `${JSON.stringify(keptPlan(prepared), null, 2)}\n`;
    const fingerprint = {
      bytes: {
        model: plan.model.fingerprint, // which is the model's, or the plan was refused
        plan: hashOf(JSON.stringify(plan), ...prepared.replacements.values()),
      },
      place: {},
    };
    const journal = await Journal.open(directory.path, fingerprint, directory.resumed);
    let resumed = 0;
    try {
      const total = sum(shards.map(shardBytes));
      let done = 0;
      for (const shard of shards) {
        const path = join(directory.path, shard.name);
        const noted = journal.finished("shard", shard.name);
        if (noted !== undefined && (await stat(path)).size === noted.bytes) {
          resumed++;
          done += noted.bytes;
          continue;
        }
        await writeShard(path, checkpoint, shard, (bytes) => {
          done += bytes;
          context.emit({ type: "bytes", done, total, fraction: done / total });
          throwIfStopped(context, true);
        });
        await syncDirectory({ open }, directory.path); // its name, before the journal counts on it
        await journal.append("shard", shard.name, { bytes: shardBytes(shard) });
      }
      await writeIndex(prepared, directory.path);
      await writeFile(join(directory.path, "config.json"), prepared.configText, { flush: true });
      await writeFile(join(directory.path, PLAN_NAME), planText, { flush: true });
    } finally {
      await journal[Symbol.asyncDispose]();
    }
    await expectUntouched(checkpoint);
    await expectWhole(directory.path, prepared);
    await directory.finish([JOURNAL_NAME], () => Promise.resolve());
    isFinished = true;
    return resumed;
  } finally {
    if (!isFinished) {
      await directory.abandon();
      await directory.release();
    }
  }
}

/** What was written opens as a model, with all its tensors and no others. */
async function expectWhole(directory: string, { architecture }: PreparedCut): Promise<void> {
  await using written = await openModel(directory, { family: architecture.family, isAnyDtype: true });
  const { blocks } = written.architecture;
  if (blocks.length !== architecture.blocks.length)
    throw new InternalError("E_INTERNAL", `${directory}: ${blocks.length} blocks, not ${architecture.blocks.length}`);
}

/** @throws ConfigError E_FINGERPRINT where shards were written to since the interrupted cut began */
async function expectSameSource({ clonedFrom, path }: OutputDirectory, checkpoint: Checkpoint): Promise<void> {
  const changed = changedShards(clonedFrom, await checkpoint.stamps());
  if (changed.length === 0) return;
  throw new ConfigError(
    "E_FINGERPRINT",
    `--resume: ${changed.join(", ")} of ${checkpoint.directory} may not be what ${path} was made of.`,
    {
      hint: "The output would be a mix of two models. Start again with --force.",
      details: { model: checkpoint.directory, shards: changed },
    },
  );
}

/** The plan as it is kept in the output, whose own tensors are the values that it replaces others by. */
function keptPlan({ plan, shards, replacements }: PreparedCut): CutPlan {
  if (replacements.size === 0) return plan;
  const places = shards.flatMap(({ name: file, tensors }) =>
    tensors.flatMap(({ name, source, replaced }) =>
      replaced === undefined ? [] : [[source.name, { file, tensor: name }] as const],
    ),
  );
  return { ...plan, replace: Object.fromEntries(places) };
}

/** The index anew, with what the source's says besides; none for a single file. */
async function writeIndex(
  { model: { checkpoint }, shards, architecture }: PreparedCut,
  directory: string,
): Promise<void> {
  if (isSingleFile(checkpoint)) return;
  const said = await indexMetadata(checkpoint);
  const tensors = shards.flatMap((shard) => shard.tensors.map((tensor) => ({ shard: shard.name, ...tensor })));
  const sizes = sizesOf(architecture, { tensorBytes: sum(tensors.map(({ byteLength }) => byteLength)), fileBytes: 0 });
  const metadata = {
    ...said,
    total_size: sizes.tensorBytes,
    ...("total_parameters" in said ? { total_parameters: sizes.parameters } : {}),
  };
  const places = tensors.map(({ name, shard }) => [name, shard] as const).toSorted(([a], [b]) => (a < b ? -1 : 1));
  const text = JSON.stringify({ metadata, weight_map: Object.fromEntries(places) }, null, 2);
  await writeFile(join(directory, INDEX_FILE), `${text}\n`, { flush: true });
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
