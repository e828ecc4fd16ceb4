/** The `--json` documents as promised: fields may be added, these stay. */
import assert from "node:assert/strict";
import { z } from "zod";

const count = z.int().nonnegative();
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

export const RUN_DOCUMENT = z.looseObject({
  schema: z.literal("prune.run/v1"),
  out: z.string(),
  method: z.string(),
  pattern: z.string(),
  sparsity: z.looseObject({ target: z.number(), achieved: z.number() }),
  seconds: z.number().nonnegative(),
  peakRssBytes: count.positive(),
  layers: z.array(
    z.looseObject({
      name: z.string(),
      zeros: count,
      elements: count,
      loss: z.number().nullable(),
      seconds: z.number().nonnegative(),
    }),
  ),
});

export const PLAN_DOCUMENT = z.looseObject({
  schema: z.literal("prune.plan/v1"),
  out: z.string(),
  linears: count,
  zerosToMake: count,
  bytesToRead: count,
  bytesToWrite: count,
  diskBytes: count,
  peakMemoryBytes: z.number().positive(),
  estimatedSeconds: z.number().nonnegative(),
});

export const EVALUATION_DOCUMENT = z.looseObject({
  schema: z.literal("prune.eval/v1"),
  perplexity: z.number().positive(),
  nll: z.number(),
  tokens: count,
  windows: count,
  seqlen: count,
  textSha256: sha256,
  limits: z
    .array(z.strictObject({ name: z.string(), most: z.number(), value: z.number().nullable(), isKept: z.boolean() }))
    .optional(),
});

export const GENERATION_DOCUMENT = z.looseObject({
  schema: z.literal("prune.generate-calibration/v1"),
  out: z.string(),
  sequences: count,
  tokens: count,
  seqlen: count,
  sha256,
  sampling: z.looseObject({
    seed: count,
    temperature: z.number().positive(),
    topK: count,
    topP: z.number().positive(),
    greedyTokens: count,
    endTokens: z.array(count),
  }),
  ended: count,
  passes: count,
  generatedTokens: count,
  seconds: z.number().nonnegative(),
});

export const INSPECTION_DOCUMENT = z.looseObject({
  schema: z.literal("prune.inspect/v1"),
  zeros: count,
  elements: count,
  sparsity: z.number(),
  tensors: z.array(
    z.looseObject({
      name: z.string(),
      dtype: z.string(),
      shape: z.array(count),
      zeros: count,
      patterns: z.array(z.string()),
    }),
  ),
});

export const DEVICES_DOCUMENT = z.looseObject({
  schema: z.literal("prune.devices/v1"),
  adapters: z.array(z.looseObject({})),
  auto: z.looseObject({ device: z.enum(["cpu", "webgpu"]), reason: z.string() }),
  cpu: z.looseObject({ model: z.string(), threads: count }),
  onnxruntime: z.looseObject({ version: z.string(), providers: z.array(z.string()) }),
});

export const ERROR_DOCUMENT = z.looseObject({
  schema: z.literal("prune.error/v1"),
  code: z.string().regex(/^E_[A-Z0-9_]+$/),
  message: z.string().min(1),
  hint: z.string().nullable(),
  details: z.looseObject({}),
});

/** Exactly one document on stdout, valid by its schema. */
export function parseDocument<Schema extends z.ZodType>(schema: Schema, stdout: string): z.output<Schema> {
  assert.ok(stdout.endsWith("\n"), "stdout ends with a line end");
  return schema.parse(JSON.parse(stdout));
}
