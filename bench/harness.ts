/**
 * Shared by the benchmarks: medians, and the roofline that everything is compared with in the same run, because the
 * speed of a shared machine drifts by tens of percent within minutes.
 */
import { cpus } from "node:os";
import { createMatmulEngine } from "../src/onnx/matmul.js";

const ROOFLINE_SIZE = 2048;

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? NaN;
}

/** Seconds that `work` takes. */
export async function secondsOf(work: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work();
  return (performance.now() - started) / 1000;
}

/** Uniform in [-scale / 2, scale / 2): zeros or constants would flatter the hardware. */
export function randomValues(length: number, scale = 1): Float32Array {
  const values = new Float32Array(length);
  for (let i = 0; i < length; i++) values[i] = (Math.random() - 0.5) * scale;
  return values;
}

export interface Roofline extends AsyncDisposable {
  /** GFLOP/s of one 2048³ product, now. */
  measure(): Promise<number>;
}

/** ONNX Runtime's own matrix product on this machine. */
export async function openRoofline(): Promise<Roofline> {
  const engine = await createMatmulEngine();
  const n = ROOFLINE_SIZE;
  const [a, b] = [randomValues(n * n), randomValues(n * n)];
  const multiply = (): Promise<Float32Array> => engine.multiply(a, b, n, n, n, false, false);
  await multiply();
  return {
    measure: async () => (2 * n ** 3) / 1e9 / (await secondsOf(multiply)),
    [Symbol.asyncDispose]: () => engine[Symbol.asyncDispose](),
  };
}

/** Measure the roofline and each case in turn, `rounds` times; one warm-up round is not counted. */
export async function compareWithRoofline(
  cases: readonly { readonly name: string; readonly gigaflops: number; run(): Promise<unknown> }[],
  rounds: number,
): Promise<{ readonly name: string; readonly seconds: number; readonly rate: number; readonly fraction: number }[]> {
  await using roofline = await openRoofline();
  const rates: number[] = [];
  const times = cases.map(() => [] as number[]);
  for (let round = 0; round <= rounds; round++) {
    for (const [index, { run }] of cases.entries()) {
      const before = await roofline.measure();
      const seconds = await secondsOf(run);
      if (round === 0) continue;
      rates.push(before);
      times[index]?.push(seconds);
    }
  }
  const peak = median(rates);
  return cases.map(({ name, gigaflops }, index) => {
    const seconds = median(times[index] ?? []);
    return { name, seconds, rate: gigaflops / seconds, fraction: gigaflops / seconds / peak };
  });
}

export function machineLine(): string {
  return `${new Date().toISOString().slice(0, 10)}, ${cpus().length} × ${cpus()[0]?.model.trim() ?? "unknown CPU"}, Node ${process.version}`;
}
