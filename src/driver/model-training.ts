/**
 * Training of the whole model after its last block is pruned; how is the business of training/. What was trained lies in a
 * file of its own before any tensor of the output is overwritten, so that a run which is killed meanwhile goes on from there.
 */
import { syncDirectories } from "../files/durable.js";
import { mkdir, open, rm } from "../files/output-files.js";
import { dirname, join } from "node:path";
import { TrainingWindows } from "../calibration/training-windows.js";
import type { TrainingTokens } from "../calibration/corpus.js";
import { openCheckpoint, SINGLE_FILE } from "../checkpoint/checkpoint.js";
import type { TensorLayout } from "../checkpoint/header.js";
import { writeTensors } from "../checkpoint/write-tensors.js";
import { throwIfStopped } from "../context.js";
import type { ModelTrainingReport } from "../contract.js";
import { InterruptedError } from "../errors.js";
import { HiddenStates } from "../forward/hidden-states.js";
import { readBlockWeights } from "../forward/weights.js";
import { lookUp } from "../look-up.js";
import { DenseTeacher } from "../training/dense-teacher.js";
import type { StepGradient, StepProgress } from "../training/descent.js";
import { minimiseSparsely, STATES } from "../training/elsa.js";
import { EmbeddingGradient } from "../training/embedding-gradient.js";
import { finetuneModel } from "../training/finetune.js";
import { HeadGradient } from "../training/head-gradient.js";
import {
  accumulateGradients,
  BlockGradients,
  groupOfBlock,
  lossUnderMasks,
  stepStates,
} from "../training/model-gradients.js";
import { FULL_PRECISION, ParameterStore, type ParameterGroup } from "../training/parameter-store.js";
import { blockSpecs, type ParameterSpec } from "../training/parameters.js";
import type { ProjectedLinear } from "../training/projection.js";
import { SquareHead } from "../training/square-head.js";
import { endGroups, readEnds, tensorOfEnd, TextEnds, type EndTensors } from "../training/text-ends.js";
import { tell } from "./course.js";
import type { Journal } from "./journal.js";
import { trainingPart } from "./parts.js";
import type { Run } from "./prune-block.js";
import { isTaught, maskedRoles, projectedLinears, type ModelTraining } from "./run.js";
import { noteEnds } from "./source-check.js";
import { TrainingCourseLog } from "./training-course.js";
import { TrainingState } from "./training-state.js";

/** Folder in OUT.partial for everything of trainings. */
export const TRAINING_NAME = "training";

/** Shares of --memory: what is trained, what a step keeps in front of blocks, a teacher's states. */
export const STORE_SHARE = 0.5;
const STATES_SHARE = 0.25;
const TEACHER_SHARE = 0.125;
/** What is trained and the blocks of the teacher together. */
export const WEIGHTS_SHARE = STORE_SHARE + TEACHER_SHARE;

/** Run the trainings that an earlier run has not finished, each from what the one before left in the output. */
export async function trainModel(run: Run, journal: Journal, tokens: TrainingTokens): Promise<ModelTrainingReport[]> {
  const reports: ModelTrainingReport[] = [];
  for (const [index, training] of run.trainings.entries()) {
    const step = stepName(training, index);
    const finished = journal.finished("training", step)?.report;
    const part = trainingPart(index);
    if (finished !== undefined) run.course.leaveOut((each) => each === part);
    reports.push(finished ?? (await train(run, journal, tokens, training, { name: step, part })));
    const next = run.trainings[index + 1];
    if (next === undefined || journal.finished("training-step", stepName(next, index + 1)) === undefined)
      await writeTrained(run, { name: step, part });
  }
  return reports;
}

/** What a training is called in the journal and in OUT.partial, and as a part of the run. */
interface TrainingNames {
  readonly name: string;
  readonly part: string;
}

/** A training in the journal and in OUT.partial: one run may have the same twice. */
function stepName({ name }: ModelTraining, index: number): string {
  return `${index + 1}-${name}`;
}

/** Whether an earlier run trained to an end: then the output's blocks may be half overwritten. */
export function hasFinishedTraining({ trainings }: Pick<Run, "trainings">, journal: Journal): boolean {
  return trainings.some((each, index) => journal.finished("training", stepName(each, index)) !== undefined);
}

async function train(
  run: Run,
  journal: Journal,
  tokens: TrainingTokens,
  training: ModelTraining,
  { name, part }: TrainingNames,
): Promise<ModelTrainingReport> {
  const { model, device, runner, output, config, context } = run;
  const { architecture } = model;
  const { options } = training;
  const { batchSize, distillation, squareHead: headWeight } = options;
  const hasTeacher = isTaught(training);
  const directory = join(output.partialDirectory, TRAINING_NAME, name);
  const windows = new TrainingWindows(tokens, config.seqlen, config.seed);
  const areEndsTrained = options.train === "all";
  if (areEndsTrained) await noteEnds(model, journal);
  const onBlock = (): void => throwIfStopped(context, true);
  const place = { sequences: batchSize, tokens: config.seqlen };
  await mkdir(directory, { recursive: true });
  await syncDirectories({ open }, dirname(directory), output.partialDirectory);
  await using store = await ParameterStore.create({
    device,
    groups: [...blockGroups(run, training), ...(areEndsTrained ? endGroups(output.checkpoint, architecture) : [])],
    formats: training.name === "elsa" ? STATES[training.options.state] : FULL_PRECISION,
    memoryBytes: STORE_SHARE * config.memoryBytes,
    directory: join(directory, "state"),
  });
  await using gradients = new BlockGradients(runner, architecture);
  await using embedding = await EmbeddingGradient.compile(runner.executor, model);
  await using head = await HeadGradient.compile(runner.executor, architecture, {
    ...{ isProjectionTrained: areEndsTrained, isDistilled: distillation > 0 },
  });
  await using states = await stepStates(architecture, {
    ...{ ...place, memoryBytes: STATES_SHARE * config.memoryBytes, scratchFile: join(directory, "states.bin") },
  });
  await using taught = await HiddenStates.create({
    ...{ ...place, sequences: hasTeacher ? batchSize : 0, width: architecture.state.width },
    ...{ memoryBytes: TEACHER_SHARE * config.memoryBytes, scratchFile: join(directory, "taught.bin") },
  });
  const ofEveryBlock = headWeight > 0 ? batchSize * architecture.blocks.length : 0;
  await using blocksTaught = await HiddenStates.create({
    ...{ ...place, sequences: ofEveryBlock, width: architecture.state.width },
    ...{ memoryBytes: TEACHER_SHARE * config.memoryBytes, scratchFile: join(directory, "blocks-taught.bin") },
  });
  const squareHead =
    headWeight > 0 ? new SquareHead(headWeight, batchSize, blocksTaught, architecture.state) : undefined;
  const { bytes, fileBytes, elements } = store.size;
  const denseEnds = hasTeacher ? await readEnds(model.checkpoint, architecture) : undefined;
  const teacher =
    denseEnds &&
    new DenseTeacher({
      ...{ model, runner, embedding, states: taught, onBlock, ends: denseEnds, squareHead },
      memoryBytes: Math.max(0, WEIGHTS_SHARE * config.memoryBytes - (bytes - fileBytes)),
    });
  const areEndsDense = !run.trainings.some((each) => each.options.train === "all"); // then they need not be there twice
  const fixedEnds = async (): Promise<EndTensors> =>
    (areEndsDense ? denseEnds : undefined) ?? (await readEnds(output.checkpoint, architecture));
  const ends = new TextEnds({
    ...{ architecture, embedding, head, store, teacher, distillation },
    fixed: areEndsTrained ? undefined : await fixedEnds(),
  });
  const step = { architecture, runner, gradients, store, ends, term: squareHead, sequences: batchSize, states };
  const gradient = async (number: number): Promise<StepGradient> => {
    const sequences = windows.ofStep(number, batchSize);
    ends.choose(sequences);
    await teacher?.listen(sequences);
    return accumulateGradients({ ...step, onBlock });
  };
  const steps = await stepsOf(training, journal, name, gradient);
  const state = new TrainingState({ store, journal, name, directory: join(directory, "kept") });
  const earlier = await state.restore();
  const log = new TrainingCourseLog(steps, earlier?.course);
  const begun = earlier?.step ?? 0;
  run.course.shorten(part, begun / steps);
  let taken = begun;
  const descent = {
    ...{ store, taken, gradient },
    async onStep(progress: StepProgress) {
      // No stop is heeded in here: the step has changed the state, and only its end says so.
      const isMeasured = progress.projected !== undefined && log.isPointDue(progress);
      const isPoint = log.add(progress, isMeasured ? await lossUnderMasks(step) : undefined);
      taken = progress.step;
      log.warn(context.logger);
      const fraction = run.course.reach(part, (taken - begun) / (steps - begun));
      const { loss } = progress;
      context.emit({
        ...{ type: "training", name: training.name, step: taken, steps, loss, course: log.said, isPoint, fraction },
      });
      if (state.isDue) await state.keep(taken, log.course);
    },
  };
  const linearsAt = linearsOf(run);
  try {
    if (training.name === "finetune")
      await finetuneModel(
        {
          ...descent,
          device,
          hiddenSize: architecture.hiddenSize,
          linearsOf: (...at) => linearsAt(...at).map(({ linear }) => linear),
        },
        { ...training.options, steps },
      );
    else
      await minimiseSparsely({ ...descent, device, pattern: config.pattern, linearsOf: linearsAt }, training.options);
  } catch (error) {
    // The step that was cut off has changed nothing yet.
    if (error instanceof InterruptedError && taken > 0) await state.keep(taken, log.course);
    throw error;
  }
  log.warnAtEnd(context.logger);
  const passes = (steps * batchSize) / windows.count;
  const report = {
    ...{ name: training.name, steps, ...log.ends, windows: windows.count, passes },
    ...{ bytesPerParameter: bytes / elements, fileBytes, curve: log.course.curve },
  };
  await keep(run, name, store);
  await journal.append("training", name, { report });
  await rm(directory, { recursive: true, force: true }); // its copies; what was trained lies beside it
  return report;
}

/** What a step takes beside its gradient, as a share of it. */
const UPDATE_SHARE = 0.06;

/** As many as asked for, or as fit into the time: found by the gradients of the first steps, and noted, so that a resumed run has as many. */
async function stepsOf(
  { options }: ModelTraining,
  journal: Journal,
  name: string,
  gradient: (step: number) => Promise<StepGradient>,
): Promise<number> {
  if (!("minutes" in options) || options.minutes === undefined) return options.steps;
  const planned = journal.finished("training-plan", name);
  if (planned !== undefined) return planned.steps;
  await gradient(1); // its programs are new
  const started = performance.now();
  await gradient(1);
  await gradient(2);
  const seconds = ((1 + UPDATE_SHARE) * (performance.now() - started)) / 2000;
  const steps = Math.max(1, Math.floor((60 * options.minutes) / seconds));
  await journal.append("training-plan", name, { steps });
  return steps;
}

/** What of blocks is trained: by finetune with zeros as they are, by Elsa with twins of what becomes sparse. */
function blockGroups({ model, output, selected }: Run, { name }: ModelTraining): ParameterGroup[] {
  return model.architecture.blocks.map((block) => ({
    name: groupOfBlock(block),
    async load(): Promise<readonly ParameterSpec[]> {
      const weights = await readBlockWeights(output.checkpoint, block);
      const pruned = maskedRoles(block, selected);
      return blockSpecs(block, weights, name === "finetune" ? { masked: pruned } : { split: pruned });
    },
  }));
}

/** The pruned linears of a tensor, with the sparsity that the allocation gave them. */
function linearsOf({ model, sparsities }: Run): (group: string, role: string) => readonly ProjectedLinear[] {
  const byGroup = new Map(
    model.architecture.blocks.map((block) => [groupOfBlock(block), projectedLinears(block, sparsities)]),
  );
  return (group, role) => byGroup.get(group)?.get(role) ?? [];
}

function trainedDirectory({ output }: Pick<Run, "output">, name: string): string {
  return join(output.partialDirectory, TRAINING_NAME, `${name}-trained`);
}

/** Write what was trained to the output. */
async function writeTrained(run: Run, { name, part }: TrainingNames): Promise<void> {
  const { output, context } = run;
  await using trained = await openCheckpoint(trainedDirectory(run, name));
  for (const tensor of trained.tensors.keys()) {
    tell(run, part, 1, `write ${tensor}`);
    const { overflowed } = await output.writeTensor(tensor, await trained.readTensor(tensor));
    if (overflowed > 0)
      context.logger.warn(`${tensor}: ${overflowed} weights exceed the range of the stored type`, {
        tensor,
        overflowed,
      });
  }
  await output.flush();
}

/** All trained tensors in f32, under their names in the checkpoint, on the disk when this resolves. */
async function keep(run: Run, name: string, store: ParameterStore): Promise<void> {
  const { architecture } = run.model;
  const directory = trainedDirectory(run, name);
  await rm(directory, { recursive: true, force: true });
  await mkdir(directory, { recursive: true });
  const tensorOf = (group: string, role: string): string => {
    const block = architecture.blocks.find((each) => groupOfBlock(each) === group);
    return block?.tensors.get(role)?.tensor ?? tensorOfEnd(architecture, group, role) ?? role;
  };
  const layouts: TensorLayout[] = [];
  const places = new Map<string, readonly [group: string, role: string]>();
  for (const group of store.names)
    await store.use(group, {}, (parameters) => {
      for (const { name: role, shape, values } of parameters) {
        const tensor = tensorOf(group, role);
        layouts.push({ name: tensor, dtype: "F32", shape, byteLength: values.host.byteLength });
        places.set(tensor, [group, role]);
      }
      return Promise.resolve();
    });
  await writeTensors(join(directory, SINGLE_FILE), layouts, async (tensor, write) => {
    const [group, role] = lookUp(places, tensor);
    await store.use(group, { reads: ["values"] }, (parameters) =>
      write(lookUp(parameters.feeds(), role).values as Float32Array),
    );
  });
  await syncDirectories({ open }, directory, run.output.partialDirectory);
}
