/** plan.json of a cut: reading it, whether it is of this model, and what of the model stays by it. */
import { createHash } from "node:crypto";
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { elementsOf } from "../../array.js";
import type { CutPlan } from "../../contract.js";
import { ConfigError, UsageError, type PruneError } from "../../errors.js";
import { readFile, statSync } from "../../files/request-files.js";
import { parseJson } from "../../json.js";
import type { BlockSpec } from "../../model/architecture.js";
import { channelGroup, type Kept } from "../../model/cut-tensors.js";
import type { Model } from "../../model/open-model.js";
import { Problems } from "../../problems.js";

export const PLAN_NAME = "plan.json";

/** A list of every channel of the widest models takes some tens of MB. */
const LARGEST_BYTES = 2 ** 28;

const numbers = z.array(z.number().int().nonnegative());
const byBlock = z.record(z.string().regex(/^\d+$/, "is not the number of a block"), numbers);

const planSchema = z.strictObject({
  schema: z.literal("prune.cut-plan/v1"),
  model: z.strictObject({ family: z.string(), fingerprint: z.string() }),
  made: z.record(z.string(), z.unknown()).optional(),
  drop: z.strictObject({ blocks: numbers, allowEnds: z.boolean().optional() }).optional(),
  keep: z.strictObject({ experts: byBlock.optional(), channels: byBlock.optional() }).optional(),
  replace: z.record(z.string(), z.strictObject({ file: z.string(), tensor: z.string().optional() })).optional(),
  config: z
    .array(z.strictObject({ path: z.array(z.string()).min(1), from: z.unknown().optional(), to: z.unknown() }))
    .optional(),
});

/** @throws UsageError E_PLAN_MISSING, E_PLAN listing every problem of the file with its place */
export async function readPlan(file: string): Promise<{ readonly plan: CutPlan; readonly directory: string }> {
  let value: unknown;
  const refuse = (problems: readonly string[], cause?: unknown): UsageError =>
    new UsageError("E_PLAN", `${file}: ${problems.join("; ")}.`, {
      hint: "docs/methods/structured.md says what a plan holds; `prune blocks`, `experts` and `width` make one.",
      details: { file, problems },
      cause,
    });
  const { size } = statSync(file);
  if (size > LARGEST_BYTES) throw refuse([`is no file of at most ${LARGEST_BYTES} bytes`]);
  const text = await readFile(file, "utf8");
  try {
    value = parseJson(text);
  } catch (cause) {
    throw refuse([`is not valid JSON (${(cause as Error).message})`], cause);
  }
  const parsed = planSchema.safeParse(value);
  if (!parsed.success)
    throw refuse(parsed.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`.replace(/^: /, "")));
  return { plan: parsed.data, directory: dirname(resolve(file)) };
}

/** Of each block the smallest tensor tells models of one layout apart. */
const LARGEST_SAMPLE = 1 << 16;

/** What tells a model from others: layout, config, and some values of every block. */
export async function fingerprintOf({ checkpoint, config, architecture }: Model): Promise<string> {
  const hash = createHash("sha256").update(checkpoint.headersSha256).update(config.text);
  for (const { tensors } of [...architecture.blocks, architecture.head]) {
    const stored = [...tensors.values()].filter(({ tensor }) => checkpoint.tensors.has(tensor));
    const [smallest] = stored.toSorted((a, b) => elementsOf(a.shape) - elementsOf(b.shape));
    if (smallest === undefined) continue;
    const { byteLength } = checkpoint.info(smallest.tensor);
    hash.update(await checkpoint.readBytes(smallest.tensor, 0, Math.min(byteLength, LARGEST_SAMPLE)));
  }
  return hash.digest("hex");
}

/** A plan of nothing but what it is of. */
export async function emptyPlan(model: Model): Promise<CutPlan> {
  const { family } = model.architecture;
  return { schema: "prune.cut-plan/v1", model: { family, fingerprint: await fingerprintOf(model) } };
}

/**
 * What stays of the model by the plan.
 * @throws ConfigError E_PLAN_MODEL for a plan of another model; E_PLAN_BLOCKS, E_PLAN_EXPERTS, E_PLAN_CHANNELS for what the
 *   model has not, or no config could say
 */
export async function keptBy(plan: CutPlan, model: Model): Promise<Kept> {
  if ((await fingerprintOf(model)) !== plan.model.fingerprint)
    throw new ConfigError("E_PLAN_MODEL", `the plan is of another model than ${model.directory}.`, {
      hint: "Make one from this model; numbers of blocks, experts and channels mean nothing in another.",
      details: { model: model.directory, family: model.architecture.family, plan: plan.model },
    });
  const problems = new Problems();
  const all = model.architecture.blocks;
  const dropped = new Set(plan.drop?.blocks ?? []);
  problems.add(...dropProblems(all, plan));
  const kept = all.filter(({ index }) => !dropped.has(index));
  const { experts, channels } = plan.keep ?? {};
  problems.add(
    ...listProblems("E_PLAN_EXPERTS", "experts", experts, kept, all, (block) => block.experts?.count),
    ...listProblems("E_PLAN_CHANNELS", "channels", channels, kept, all, (block) => channelGroup(block)?.inFeatures),
  );
  if (problems.found.length === 0)
    problems.add(...kept.flatMap((block) => expertsProblem(block, experts?.[String(block.index)]) ?? []).slice(0, 1));
  problems.throwAny();
  const byNumber = (lists: Readonly<Record<string, readonly number[]>> = {}): Map<number, readonly number[]> =>
    new Map(
      Object.entries(lists).flatMap(([block, list]) => (dropped.has(Number(block)) ? [] : [[Number(block), list]])),
    );
  return { blocks: kept.map(({ index }) => index), experts: byNumber(experts), channels: byNumber(channels) };
}

function isAscending(list: readonly number[]): boolean {
  return list.every((value, index) => index === 0 || value > (list[index - 1] as number));
}

function dropProblems(blocks: readonly BlockSpec[], { drop }: CutPlan): PruneError[] {
  if (drop === undefined) return [];
  const refuse = (problem: string, hint: string): PruneError =>
    new ConfigError("E_PLAN_BLOCKS", `drop.blocks: ${problem}.`, { hint, details: { blocks: drop.blocks } });
  const last = blocks.length - 1;
  if (!isAscending(drop.blocks) || (drop.blocks.at(-1) ?? 0) > last)
    return [refuse(`[${drop.blocks.join(", ")}] are not ascending numbers up to ${last}`, "Blocks count from 0.")];
  if (drop.blocks.length > last) return [refuse("no block would be left", "Drop fewer.")];
  const end = drop.blocks.find((block) => block === 0 || block === last);
  if (end === undefined || drop.allowEnds === true) return [];
  return [
    refuse(
      `block ${end} is the ${end === 0 ? "first" : "last"} one`,
      "Models do not survive the loss of the first or last block.",
    ),
  ];
}

/** One list for every block that has such a thing, all of one length. */
function listProblems(
  code: string,
  what: string,
  lists: Readonly<Record<string, readonly number[]>> | undefined,
  kept: readonly BlockSpec[],
  all: readonly BlockSpec[],
  countOf: (block: BlockSpec) => number | undefined,
): PruneError[] {
  if (lists === undefined) return [];
  const refuse = (problem: string, hint: string): PruneError =>
    new ConfigError(code, `keep.${what}: ${problem}.`, { hint, details: {} });
  const problems = Object.entries(lists).flatMap(([key, list]) => {
    const block = all[Number(key)];
    const count = block === undefined ? undefined : countOf(block);
    if (count === undefined) return [refuse(`block ${key} has no ${what}`, "Leave it out.")];
    if (list.length === 0 || !isAscending(list) || (list.at(-1) as number) >= count)
      return [refuse(`of block ${key} are not ascending numbers up to ${count - 1}`, `It has ${count} ${what}.`)];
    return [];
  });
  const concerned = kept.filter((block) => countOf(block) !== undefined);
  const missing = concerned.filter(({ index }) => lists[String(index)] === undefined);
  if (missing.length > 0)
    problems.push(
      refuse(
        `nothing is said of block ${missing[0]?.index}`,
        "Every block that has them must be named: config.json has one number for all.",
      ),
    );
  const lengths = new Set(concerned.flatMap(({ index }) => lists[String(index)]?.length ?? []));
  if (lengths.size > 1)
    problems.push(
      refuse(
        `${[...lengths].join(" and ")} of them in different blocks`,
        "No loader takes different numbers: keep as many in each block.",
      ),
    );
  return problems;
}

function expertsProblem({ name, experts }: BlockSpec, kept: readonly number[] | undefined): PruneError | undefined {
  if (experts === undefined || kept === undefined) return undefined;
  return keptExpertsProblem(name, experts, kept);
}

/** What keeps a router from choosing among these. */
export function keptExpertsProblem(
  name: string,
  { count, chosen, limit }: NonNullable<BlockSpec["experts"]>,
  kept: readonly number[],
): PruneError | undefined {
  const refuse = (problem: string, hint: string): PruneError =>
    new ConfigError("E_PLAN_EXPERTS", `${name}: ${problem}.`, { hint, details: { kept: kept.length, chosen, limit } });
  if (kept.length < chosen)
    return refuse(
      `${kept.length} experts would be left, and every token is sent to ${chosen}`,
      `Keep at least ${chosen}.`,
    );
  if (limit === undefined) return undefined;
  const size = count / limit.groups;
  const perGroup = Array.from(
    { length: limit.groups },
    (_, group) => kept.filter((expert) => Math.floor(expert / size) === group).length,
  );
  const [first = 0] = perGroup;
  if (perGroup.some((number) => number !== first))
    return refuse(
      `${perGroup.join(", ")} experts would be left of its ${limit.groups} groups`,
      "Keep as many of each group: routers choose groups of one size.",
    );
  if (chosen > first * limit.kept || first < 2)
    return refuse(
      `${first} experts would be left of each of its ${limit.groups} groups, of which ${limit.kept} are looked at for ${chosen}`,
      `Keep at least ${Math.max(2, Math.ceil(chosen / limit.kept))} of each group.`,
    );
  return undefined;
}
