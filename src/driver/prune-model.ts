/**
 * A run from its beginning to its end: the allocation, block after block, the report. What a run works with is opened in
 * session.ts, what happens to a block is in prune-block.ts; nothing here is numerical.
 */
import { saveMask } from "../checkpoint/mask-file.js";
import { writeFile } from "../files/output-files.js";
import { join } from "node:path";
import { throwIfStopped, type EngineContext } from "../context.js";
import type { BlockTrainingReport, LayerReport, ModelTrainingReport, RunConfig, RunReport } from "../contract.js";
import type { Logger } from "../logging.js";
import { tensorsHolding } from "../model/architecture.js";
import { formatRecipe } from "../report/run-recipe.js";
import { boundsOf, dependsOnMethod, needsActivations } from "../allocation/registry.js";
import { formatPattern } from "../sparsity/pattern.js";
import { allocateSparsity } from "./allocation/allocate.js";
import { hasFinishedTraining, trainModel } from "./model-training.js";
import { NO_MEMORY, processBlock, recount, replayBlock, type BlockMemory, type Run } from "./prune-block.js";
import { tell } from "./course.js";
import { BLOCK_STEPS, blockPart, PARTS } from "./parts.js";
import { isRouted } from "./run.js";
import {
  methodOf,
  openSession,
  RECIPE_NAME,
  SEARCH_NAME,
  WORKING_FILES,
  type Session,
  type SharedWork,
} from "./session.js";
import { expectUntouched } from "./source-check.js";
import { warnOfStarvedExperts } from "./starved-experts.js";

const ALLOCATION = "sparsities";

const NOTHING_SHARED: SharedWork = {};

/**
 * Prune a checkpoint as configured; the result is in `config.out` when this resolves.
 * @throws CheckpointError, ConfigError, CalibrationError before anything is written where the input is unusable
 * @throws InterruptedError when a stop was requested; OUT.partial can be resumed
 * @throws NumericalError, ResourceError while working; OUT.partial can be resumed
 */
export async function pruneModel(
  config: RunConfig,
  context: EngineContext,
  shared: SharedWork = NOTHING_SHARED,
): Promise<RunReport> {
  const started = performance.now();
  await using session = await openSession(config, context, shared);
  const { journal, calibration, text } = session;
  const { model, device, solver, clock, output } = session.run;
  const { blocks } = model.architecture;
  const resumedBlocks = blocks.filter((block) => journal.finished("block", block.name) !== undefined).length;
  const { course } = session.run;
  const { fraction } = course;
  context.emit({ type: "start", blocks: blocks.length, device: device.kind, resumedBlocks, fraction });

  leaveOutFinished(session);
  await session.run.gradients?.prepare(journal);
  const allocation = await decideSparsities(session, shared);
  const run: Run = { ...session.run, sparsities: allocation.sparsities };
  // An allocation's pass has moved the states.
  if (run.stream !== undefined) await (solver.needs.length > 0 ? session.embed() : clock.aside(session.embed));
  const layers: LayerReport[] = [];
  const training: BlockTrainingReport[] = [];
  let memory: BlockMemory = NO_MEMORY;
  // Then the output's blocks may be half overwritten, and are no longer looked at.
  const isTrained = hasFinishedTraining(run, journal);
  for (const block of blocks) {
    const finished = journal.finished("block", block.name);
    if (finished === undefined) {
      const processed = await processBlock(run, journal, block, memory);
      layers.push(...processed.layers);
      training.push(...processed.training);
      memory = processed.memory;
    } else {
      if (!isTrained) memory = await replayBlock(run, journal, block, finished, memory);
      layers.push(...finished.layers);
      training.push(...(finished.training ?? []));
    }
    throwIfStopped(context, true);
  }
  const trained = text === undefined ? [] : await trainModel(run, journal, text);
  if (trained.length > 0) layers.splice(0, layers.length, ...(await recount(run, layers)));
  await expectUntouched(model.checkpoint);
  await writeFile(join(output.partialDirectory, RECIPE_NAME), formatRecipe(config), { flush: true });
  if (config.saveMask !== undefined) {
    const held = tensorsHolding(blocks, ({ name }) => run.selected.has(name));
    await saveMask(output.checkpoint, [...held], config.saveMask);
  }
  await output.finish({ remove: WORKING_FILES });
  warnOfStarvedExperts(context.logger, layers);
  session.completeShared();
  const elapsed = (performance.now() - started) / 1000;
  const seconds = elapsed - clock.measuringSeconds + allocation.savedSeconds + session.savedSeconds;
  return report(run, { layers, training, trained }, { seconds, resumedBlocks, calibration });
}

/** What an earlier run has done is no part of this one's course: the states have only to go past its blocks. */
function leaveOutFinished({ run, journal }: Session): void {
  const { course, config, model } = run;
  const done = new Set<string>();
  const isTrained = hasFinishedTraining(run, journal);
  for (const block of model.architecture.blocks) {
    if (journal.finished("block", block.name) === undefined) continue;
    const isRunAgain = config.propagation === "dense" && !isRouted(block); // statistics and states come out of one graph
    const kept = isTrained ? [] : [isRunAgain ? "statistics" : "forward", "dense forward", "end"];
    for (const step of BLOCK_STEPS) if (!kept.includes(step)) done.add(blockPart(block, step));
    for (const { linears } of block.groups) for (const { name } of linears) done.add(name);
  }
  course.leaveOut((name) => done.has(name));
}

/** Of every linear, from the journal, from a run that shares it, or found now; noted in both. */
async function decideSparsities(
  session: Session,
  shared: SharedWork,
): Promise<{ readonly sparsities: ReadonlyMap<string, number>; readonly savedSeconds: number }> {
  const { journal, run } = session;
  const started = performance.now();
  const key = allocationKey(run.config);
  const allocated = shared.allocations?.get(key);
  const noted = journal.finished("allocation", ALLOCATION);
  if ((noted ?? allocated) !== undefined)
    run.course.leaveOut((name) => name === PARTS.allocation || name === PARTS.search);
  const sparsities =
    (noted && new Map(Object.entries(noted.sparsities))) ?? allocated?.sparsities ?? (await findSparsities(session));
  if (noted === undefined)
    await journal.append("allocation", ALLOCATION, { sparsities: Object.fromEntries(sparsities) });
  shared.allocations?.set(key, allocated ?? { sparsities, seconds: (performance.now() - started) / 1000 });
  return { sparsities, savedSeconds: allocated?.seconds ?? 0 };
}

/** Runs of one model and calibration with the same key have the same sparsities. */
export function allocationKey({
  allocation,
  sparsity,
  method,
  methodOptions,
  then,
}: Pick<RunConfig, "allocation" | "sparsity" | "method" | "methodOptions" | "then">): string {
  const ofMethod = dependsOnMethod(allocation) ? [method, methodOptions, then] : [];
  return JSON.stringify([allocation, sparsity, ...ofMethod]);
}

/** Sparsity of every selected linear: overrides as they are, the allocation over the others. */
async function findSparsities(session: Session): Promise<ReadonlyMap<string, number>> {
  const { run, calibration, overrides, allocationStream } = session;
  const { config, context } = run;
  if (needsActivations(config.allocation)) await session.embed();
  const allocated = await allocateSparsity({
    ...run,
    stream: allocationStream,
    allocation: config.allocation,
    target: config.sparsity,
    selected: new Set([...run.selected].filter((name) => !overrides.has(name))),
    onBatch: (block, done, total) => {
      const share = (block.index + done / total) / run.model.architecture.blocks.length;
      tell(run, PARTS.allocation, share, `allocation, ${block.name}`);
      throwIfStopped(context, true);
    },
    search: calibration && {
      sequences: calibration.sequences,
      seed: config.seed,
      runner: run.runner,
      memoryBytes: config.memoryBytes,
      directory: join(run.output.partialDirectory, SEARCH_NAME),
      solver: methodOf(config), // candidates are put together from linears that no other one has touched
      context,
      onGeneration: ({ generation, generations, fitness }) => {
        const words = `allocation, generation ${generation} of ${generations}: KL ${fitness.toFixed(4)}`;
        tell(run, PARTS.search, generation / generations, words);
      },
    },
  });
  warnOfCaps(context.logger, config, allocated);
  return new Map([...allocated, ...overrides]);
}

/** A linear at the rule's largest sparsity is all but gone: worth a look before the run has taken its hours. */
function warnOfCaps(logger: Logger, { allocation, sparsity }: RunConfig, allocated: ReadonlyMap<string, number>): void {
  const { rule } = allocation;
  const largest = boundsOf(allocation)?.largest;
  if (largest === undefined || sparsity >= largest) return;
  const capped = [...allocated].flatMap(([name, value]) => (value >= largest ? [name] : []));
  if (capped.length === 0) return;
  logger.warn(
    `--allocation ${rule}: asked for more than ${largest} of ${capped.length} linears (${capped[0]}, …); they lose ${largest}, the others make up for it`,
    { rule, largest, capped },
  );
}

function report(
  run: Run,
  {
    layers,
    training,
    trained,
  }: Pick<RunReport, "layers"> & {
    readonly training: readonly BlockTrainingReport[];
    readonly trained: readonly ModelTrainingReport[];
  },
  facts: Pick<RunReport, "seconds" | "resumedBlocks"> & Pick<Session, "calibration">,
): RunReport {
  const { config, device } = run;
  const zeros = layers.reduce((sum, layer) => sum + layer.zeros, 0);
  const elements = layers.reduce((sum, layer) => sum + layer.elements, 0);
  const { calibration } = facts;
  return {
    schema: "prune.run/v1",
    out: config.out,
    model: config.model,
    method: config.method,
    pattern: formatPattern(config.pattern),
    sparsity: { target: config.sparsity, achieved: zeros / elements },
    seconds: facts.seconds,
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
    device: `${device.kind} (${device.description})`,
    calibration:
      calibration === undefined
        ? null
        : {
            sequences: calibration.sequences.length,
            seqlen: config.seqlen,
            sha256: calibration.sha256,
            description: calibration.description,
            ...(calibration.counts === undefined ? {} : { counts: calibration.counts }),
          },
    resumedBlocks: facts.resumedBlocks,
    ...(training.length === 0 ? {} : { training }),
    ...(trained.length === 0 ? {} : { trained }),
    layers,
  };
}
