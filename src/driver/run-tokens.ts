/** Token ids that a run looks at: read, or sampled from the model itself. */
import {
  loadCalibration,
  loadTrainingTokens,
  type TokenSequences,
  type TrainingTokens,
} from "../calibration/corpus.js";
import { concatenateIds, hashIds } from "../calibration/ids.js";
import type { EngineContext } from "../context.js";
import type { RunConfig, TokenSource } from "../contract.js";
import { CalibrationError } from "../errors.js";
import { sampleRows } from "../generation/generate-calibration.js";
import { requirePositions } from "../model/architecture.js";
import type { Model } from "../model/open-model.js";
import { OWN_TEXT } from "../options/values.js";
import type { ModelTraining } from "./run.js";

/** What of a configuration decides the sequences. */
export type CalibratedWork = Pick<RunConfig, "calibration" | "nsamples" | "seqlen" | "seed" | "memoryBytes" | "model"> &
  Partial<Pick<RunConfig, "textField" | "method">>;

/** @throws CalibrationError as `loadCalibration`, ConfigError where the model has no such positions */
export async function loadCalibrationTokens(
  config: CalibratedWork,
  model: Model,
  context: EngineContext,
  encoded = new Map<string, Int32Array>(),
): Promise<TokenSequences> {
  const source = calibrationOf(config);
  const { nsamples, seqlen, seed, textField } = config;
  requirePositions(model.architecture, seqlen);
  if (source.set === OWN_TEXT) {
    const { rows, description } = await sampleRows(model, config, context);
    return { sequences: rows, description, sha256: hashIds(rows) };
  }
  const { vocabularySize: vocabSize } = model.architecture;
  const options = { modelDirectory: config.model, textField, nsamples, seqlen, seed, vocabSize, encoded };
  const loaded = await loadCalibration(source, options);
  const withoutField = loaded.counts?.withoutField ?? 0;
  if (withoutField > 0)
    context.logger.warn(`${withoutField} records of ${source.name ?? source.file} have no text and are left out`);
  return loaded;
}

/** What steps that train the whole model see: all of the calibration's text, or as much as they need of many documents. */
export async function loadTrainingText(
  config: RunConfig,
  model: Model,
  trainings: readonly ModelTraining[],
  {
    context,
    calibration,
    encoded,
  }: {
    readonly context: EngineContext;
    /** What the run calibrates on, where it does. */
    readonly calibration: TokenSequences | undefined;
    readonly encoded: Map<string, Int32Array>;
  },
): Promise<TrainingTokens> {
  const source = calibrationOf(config);
  const { seqlen, seed, textField } = config;
  requirePositions(model.architecture, seqlen);
  if (source.set === OWN_TEXT) {
    const { sequences, ...own } = calibration ?? (await loadCalibrationTokens(config, model, context));
    return { ...own, ids: concatenateIds(sequences), isContinuous: false };
  }
  const { vocabularySize: vocabSize } = model.architecture;
  const tokens = seqlen * Math.max(...trainings.map(({ options }) => mostSteps(options) * options.batchSize));
  const options = { modelDirectory: config.model, textField, seqlen, seed, vocabSize, tokens, encoded };
  return loadTrainingTokens(source, options);
}

function calibrationOf({ calibration, method = "this" }: CalibratedWork): TokenSource {
  if (calibration !== undefined) return calibration;
  throw new CalibrationError("E_CALIBRATION_MISSING", `${method} needs calibration data and none was given.`, {
    hint: "Pass --calibration FILE (text, documents, or token ids in .safetensors), or --calibration self.",
  });
}

/** More steps than any machine here takes in a second. */
const STEPS_PER_SECOND = 10;

function mostSteps(options: ModelTraining["options"]): number {
  return "minutes" in options && options.minutes !== undefined
    ? 60 * STEPS_PER_SECOND * options.minutes
    : options.steps;
}
