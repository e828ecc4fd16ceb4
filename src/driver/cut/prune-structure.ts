/** `prune blocks`, `prune experts`, `prune width`: look at the model, decide what goes, and cut by the plan that this makes. */
import { inTemporaryDirectory, makeTemporaryDirectory, rm } from "../../files/temporary-files.js";
import { contextOfPart, throwIfStopped, type EngineContext } from "../../context.js";
import type { CutPlan, ExpertReport, ScoringConfig, StructureReport } from "../../contract.js";
import { ConfigError, PruneError } from "../../errors.js";
import { BlockRunner } from "../../forward/block-runner.js";
import type { Architecture, BlockSpec, RoutedExperts } from "../../model/architecture.js";
import { channelGroup } from "../../model/cut-tensors.js";
import { editConfig, editOf, renumberTensors } from "../../model/config-edit.js";
import { FAMILIES, findFamily } from "../../model/families/registry.js";
import { openModel, type Model } from "../../model/open-model.js";
import { openDevice, sayDevice } from "../devices.js";
import { loadCalibrationTokens } from "../run-tokens.js";
import type { MeasuringPlace } from "../dense-reference.js";
import { prepareCut, writeCut, type Replacements } from "./cut-model.js";
import { emptyPlan, keptExpertsProblem } from "./plan.js";
import { scoreBlocks } from "./score-blocks.js";
import { chooseExperts, collectExperts, droppedAt, outlierThreshold, scoreOf } from "./score-experts.js";
import { narrowModel } from "./score-width.js";

const SCRATCH_PURPOSE = "what of the hidden states does not fit in memory";

/** Of the whole, which ends with the writing. */
const SCORING_SHARE = 0.9;

/** Ratios beyond which models rarely recover without training. */
const LARGE_RATIO = 0.25;

interface Decided {
  readonly verbs: Pick<CutPlan, "drop" | "keep">;
  readonly replacements?: Replacements;
  readonly details: Pick<StructureReport, "rounds" | "experts" | "widths">;
}

interface Scoring<Of extends ScoringConfig["task"]["of"]> {
  readonly config: ScoringConfig;
  readonly task: Extract<ScoringConfig["task"], { of: Of }>;
  readonly place: MeasuringPlace;
  readonly sequences: readonly Int32Array[];
  readonly context: EngineContext;
}

/** @throws UsageError, ConfigError, CheckpointError, CalibrationError before anything is written; as `cutModel` then */
export async function pruneStructure(config: ScoringConfig, context: EngineContext): Promise<StructureReport> {
  const started = performance.now();
  const { task } = config;
  await using model = await openModel(config.model, { family: config.family, logger: context.logger });
  editOf(findFamily(model.architecture.family), FAMILIES);
  requirePossible(model, task);
  const calibration =
    config.calibration === undefined
      ? undefined
      : await loadCalibrationTokens(config, model, contextOfPart(context, { from: 0, to: 0 }));
  const scratch = await makeTemporaryDirectory("cut", SCRATCH_PURPOSE);
  try {
    await using runner = new BlockRunner(model.architecture);
    const onBatch = (): void => throwIfStopped(context, false);
    const place = { model, runner, memoryBytes: config.memoryBytes, directory: scratch, onBatch };
    const sequences = calibration?.sequences ?? [];
    const scored = config.out === undefined ? 1 : SCORING_SHARE;
    const shared = { config, place, sequences, context: contextOfPart(context, { from: 0, to: scored }) };
    const decided =
      task.of === "blocks"
        ? await decideBlocks({ ...shared, task })
        : task.of === "experts"
          ? await decideExperts({ ...shared, task })
          : await decideWidth({ ...shared, task });
    const { of, ...made } = task;
    const plan: CutPlan = { ...(await emptyPlan(model)), made: { of, ...made }, ...decided.verbs };
    const prepared = await prepareCut(model, plan, decided.replacements ?? new Map());
    const report = await writeCut(prepared, config, contextOfPart(context, { from: scored, to: 1 }), started);
    return {
      ...report,
      schema: "prune.structure/v1",
      of,
      criterion: task.criterion,
      calibration:
        calibration === undefined
          ? null
          : { sequences: sequences.length, seqlen: config.seqlen, sha256: calibration.sha256 },
      ...decided.details,
    };
  } catch (error) {
    throw inTemporaryDirectory(error, scratch, SCRATCH_PURPOSE);
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

/** Whether so much can go, asked before any text is read. */
function requirePossible(model: Model, task: ScoringConfig["task"]): void {
  const { blocks, family } = model.architecture;
  const { of } = task;
  const refuse = (code: string, problem: string, hint: string): ConfigError =>
    new ConfigError(code, `${family}: ${problem}.`, { hint, details: { family } });
  if (of === "experts" && blocks.every(({ experts }) => experts === undefined))
    throw refuse(
      "E_NO_EXPERTS",
      "the model has no mixtures of experts",
      "`prune blocks` and `prune width` make it smaller.",
    );
  if (of === "width" && blocks.every((block) => channelGroup(block) === undefined))
    throw refuse(
      "E_NO_CHANNELS",
      "the model has no dense MLPs whose channels could go",
      "`prune experts` makes mixtures smaller.",
    );
  if (of === "blocks") blocksThatGo(blocks.length, task);
  if (of === "experts") expertsThatStay(model, task);
  if (of !== "width") return;
  for (const block of blocks) {
    const channels = channelGroup(block)?.inFeatures;
    if (channels !== undefined) channelsThatStay(channels, task);
  }
}

type Task<Of extends ScoringConfig["task"]["of"]> = Scoring<Of>["task"];

/** @throws ConfigError E_DROP */
function blocksThatGo(blocks: number, { drop, ratio = 0 }: Task<"blocks">): number {
  const count = drop ?? Math.round(ratio * blocks);
  if (count >= 1 && count <= blocks - 2) return count;
  throw new ConfigError("E_DROP", `${count} of ${blocks} blocks cannot go: the first and the last stay.`, {
    hint: `Drop 1 to ${blocks - 2}.`,
    details: { count, blocks },
  });
}

type Mixture = BlockSpec & { readonly experts: RoutedExperts };

/** The blocks that are mixtures, with how many experts the first has, in how many groups. There is one at least. */
function mixturesOf({ blocks }: Architecture): {
  readonly mixtures: readonly Mixture[];
  readonly count: number;
  readonly groups: number;
} {
  const mixtures = blocks.filter((block): block is Mixture => block.experts !== undefined);
  const { count, limit } = (mixtures[0] as Mixture).experts;
  return { mixtures, count, groups: limit?.groups ?? 1 };
}

/** Of every mixture. @throws ConfigError E_KEEP, E_PLAN_EXPERTS */
function expertsThatStay({ architecture }: Model, task: Task<"experts">): number {
  const { mixtures, count, groups } = mixturesOf(architecture);
  const keep = task.keep ?? count - droppedAt(task.ratio ?? 0, count, groups);
  if (keep >= count || keep % groups !== 0)
    throw new ConfigError("E_KEEP", `${keep} of ${count} experts in ${groups} groups cannot be what stays.`, {
      hint: `Keep fewer than ${count}, and a multiple of ${groups}.`,
      details: { keep, count, groups },
    });
  const isEven = (expert: number): boolean => expert % (count / groups) < keep / groups;
  for (const { name, experts } of mixtures) {
    const problem = keptExpertsProblem(
      name,
      experts,
      Array.from({ length: count }, (_, expert) => expert).filter(isEven),
    );
    if (problem !== undefined) throw problem;
  }
  return keep;
}

/** @throws ConfigError E_WIDTH */
function channelsThatStay(channels: number, { ratio, multiple }: Task<"width">): number {
  const keep = multiple * Math.round(((1 - ratio) * channels) / multiple);
  if (keep > 0 && keep < channels) return keep;
  throw new ConfigError(
    "E_WIDTH",
    `--ratio ${ratio}: ${keep} of ${channels} channels would stay, the nearest multiple of ${multiple}.`,
    {
      hint: "Give another --ratio, or a smaller --multiple: 64 suits most kernels.",
      details: { channels, ratio, multiple },
    },
  );
}

function warnOfRatio({ context }: Pick<Scoring<"blocks">, "context">, what: string, ratio: number): void {
  if (ratio > LARGE_RATIO)
    context.logger.warn(
      `${Math.round(100 * ratio)} % of the ${what} go: more than ${100 * LARGE_RATIO} % rarely do without training`,
    );
}

async function decideBlocks(scoring: Scoring<"blocks">): Promise<Decided> {
  const { place, sequences, task, context } = scoring;
  const { model } = place;
  const { blocks } = model.architecture;
  const count = blocksThatGo(blocks.length, task);
  warnOfRatio(scoring, "blocks", count / blocks.length);
  const canDrop = (dropped: readonly number[]): boolean => isSayable(model, dropped);
  const { criterion } = task;
  const { dropped, rounds } = await scoreBlocks({ place, sequences, criterion, count, canDrop, context });
  if (dropped.length < count)
    throw new ConfigError(
      "E_DROP",
      `only ${dropped.length} blocks can go so that config.json can still say what is left.`,
      {
        hint: "What a block computes goes by its place in this family: drop whole periods, or an even number.",
        details: { dropped, count },
      },
    );
  return { verbs: { drop: { blocks: dropped } }, details: { rounds } };
}

/** Whether the family's config can say the model without these blocks. */
function isSayable({ architecture, checkpoint, config }: Model, dropped: readonly number[]): boolean {
  const family = findFamily(architecture.family);
  const blocks = architecture.blocks.flatMap(({ index }) => (dropped.includes(index) ? [] : [index]));
  const source = { family, edit: editOf(family, FAMILIES), config, architecture, tensors: checkpoint };
  try {
    editConfig(source, { blocks }, renumberTensors(architecture, blocks, checkpoint));
    return true;
  } catch (error) {
    if (error instanceof PruneError) return false;
    throw error;
  }
}

async function decideExperts(scoring: Scoring<"experts">): Promise<Decided> {
  const { place, sequences, task, context } = scoring;
  const { mixtures, count, groups } = mixturesOf(place.model.architecture);
  const keep = expertsThatStay(place.model, task);
  warnOfRatio(scoring, "experts", 1 - keep / count);
  const table = await collectExperts(place, sequences, context);
  const threshold = outlierThreshold(table);
  const reports: ExpertReport[] = [];
  const kept = mixtures.map(({ index, name }) => {
    const sums = table.get(index) ?? [];
    const scores = sums.map((one) => scoreOf(task.criterion, one));
    const isProtected = sums.map(({ largest }) => largest > threshold);
    const chosen = chooseExperts(scores, isProtected, keep, groups);
    if (isProtected.some((is, expert) => is && !chosen.includes(expert)))
      context.logger.warn(`${name}: not all experts with outlying outputs can be kept`, { threshold });
    sums.forEach(({ tokens, largest }, expert) =>
      reports.push({
        ...{ block: index, expert, tokens, score: scores[expert] as number, largest },
        isProtected: isProtected[expert] === true,
        isKept: chosen.includes(expert),
      }),
    );
    return [String(index), chosen] as const;
  });
  const starved = reports.filter(({ tokens }) => tokens === 0).length;
  if (starved > 0)
    context.logger.warn(
      `no token of the calibration text was sent to ${starved} of ${reports.length} experts: that says something of the text`,
      { starved },
    );
  return { verbs: { keep: { experts: Object.fromEntries(kept) } }, details: { experts: reports } };
}

async function decideWidth(scoring: Scoring<"width">): Promise<Decided> {
  const { place, sequences, task, config, context } = scoring;
  const { ratio, criterion, isRefitted } = task;
  const keep = (channels: number): number => channelsThatStay(channels, task);
  warnOfRatio(scoring, "channels", ratio);
  await using device = await openDevice(config.device, context.logger);
  sayDevice(device, context.logger);
  const narrowed = await narrowModel(place, device, sequences, { criterion, keep, isRefitted }, context);
  return {
    verbs: { keep: { channels: Object.fromEntries(narrowed.blocks.map(({ block, kept }) => [String(block), kept])) } },
    replacements: narrowed.replacements,
    details: { widths: narrowed.blocks.map((one) => ({ ...one, kept: one.kept.length })) },
  };
}
