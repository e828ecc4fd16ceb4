/** How memory grows over the blocks of a run. */
import type { TokenSource } from "../../src/contract.js";
import { pruneModel } from "../../src/driver/prune-model.js";
import { createTestContext } from "./engine.js";
import { demoRun } from "./runs.js";

export interface GrowthOptions {
  readonly model: string;
  readonly source: TokenSource;
  readonly method: string;
  readonly out: string;
  /** Blocks before memory is expected to be what it stays. */
  readonly warmUp: number;
  /** Bytes in use now. */
  readonly measure: () => number;
}

export interface Growth {
  /** Slope of the line of least squares through what was measured after each block behind the warm-up. */
  readonly bytesPerBlock: number;
  /** After the warm-up, and after the last block. */
  readonly first: number;
  readonly last: number;
}

export async function measureGrowth({ model, source, method, out, warmUp, measure }: GrowthOptions): Promise<Growth> {
  const bytes: number[] = [];
  const context = createTestContext();
  const calibration = method === "magnitude" ? undefined : source;
  await pruneModel(demoRun(out, { model, method, calibration, nsamples: 8, seqlen: 16 }), {
    ...context,
    emit: ({ type }) => {
      if (type === "block") bytes.push(measure());
    },
  });
  const measured = bytes.slice(warmUp);
  return { bytesPerBlock: slopeOf(measured), first: measured[0] ?? 0, last: measured.at(-1) ?? 0 };
}

function slopeOf(values: readonly number[]): number {
  const middle = (values.length - 1) / 2;
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  let [products, squares] = [0, 0];
  for (const [x, value] of values.entries()) {
    products += (x - middle) * (value - mean);
    squares += (x - middle) ** 2;
  }
  return products / squares;
}
