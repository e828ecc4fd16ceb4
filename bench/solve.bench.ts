/**
 * Solver times on the CPU device beside ONNX Runtime's own matrix product in the same run.
 *
 *     npm run build && node dist/bench/solve.bench.js
 *
 * Medians of several runs after a warm-up, and processor seconds of all threads, which other work on the machine disturbs
 * less. Data are seeded normal numbers with correlated inputs. What is timed is what the released code's `fasterprune`
 * covers: from the Gram matrix on the device to the pruned weight on the device.
 */
import { availableParallelism } from "node:os";
import { createCpuDevice } from "../src/device/cpu/cpu-device.js";
import type { Device } from "../src/device/device.js";
import { createMatmulEngine } from "../src/onnx/matmul.js";
import { findSolver } from "../src/solvers/registry.js";
import { UNSTRUCTURED, parsePattern, type Pattern } from "../src/sparsity/pattern.js";
import type { LayerProblem } from "../src/solvers/solver.js";

const RUNS = 7;
/** For methods that take seconds. */
const SLOW_RUNS = 3;
const TOKENS = 4096;
const COLUMNS = 2048;

/** Seconds of the released PyTorch code on two cores, the better of one and two threads, by rows of the weight. */
const RELEASED = new Map([
  [2048, { wanda: 0.18, sparsegpt: 0.75, admm: 6.6 }],
  [5632, { wanda: 0.69, sparsegpt: 2.0, admm: 20 }],
]);

function random(count: number, scale: number): Float32Array {
  let state = 12345;
  const next = (): number => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  return Float32Array.from({ length: count }, () => scale * (next() + next() + next() + next() - 2) * Math.sqrt(3));
}

/** Seconds. */
interface Timing {
  readonly median: number;
  readonly min: number;
  /** Median of the processor time of all threads. */
  readonly processor: number;
}

const median = (values: readonly number[]): number => [...values].sort((x, y) => x - y)[values.length >> 1];

/** Median and minimum seconds of `work`, after `prepare`, which is not timed. */
async function time<T>(prepare: () => Promise<T>, work: (prepared: T) => Promise<void>, runs = RUNS): Promise<Timing> {
  const seconds: number[] = [];
  const processor: number[] = [];
  for (let run = -1; run < runs; run++) {
    const prepared = await prepare();
    const before = process.cpuUsage();
    const start = performance.now();
    await work(prepared);
    if (run < 0) continue;
    seconds.push((performance.now() - start) / 1000);
    const { user, system } = process.cpuUsage(before);
    processor.push((user + system) / 1e6);
  }
  return { median: median(seconds), min: Math.min(...seconds), processor: median(processor) };
}

async function productRate(threads: number): Promise<number> {
  await using engine = await createMatmulEngine({ threads });
  const n = 2048;
  const a = random(n * n, 1);
  const { median: seconds } = await time(
    () => Promise.resolve(undefined),
    async () => {
      await engine.multiply(a, a, n, n, n, false, false);
    },
  );
  return (2 * n ** 3) / seconds / 1e9;
}

function report(what: string, { median, min, processor }: Timing, released?: number): void {
  const ratio =
    released === undefined ? "" : `   ${(released / median).toFixed(1)} x the released code's ${released} s`;
  const processorPart = `processor ${processor.toFixed(3)} s`;
  console.log(`${what.padEnd(36)} median ${median.toFixed(4)} s   min ${min.toFixed(4)} s   ${processorPart}${ratio}`);
}

async function benchmark(device: Device, rows: number): Promise<void> {
  const weight = random(rows * COLUMNS, 0.02);
  const x = random(TOKENS * COLUMNS, 1);
  for (let t = 0; t < TOKENS; t++) {
    for (let c = 1; c < COLUMNS; c++) x[t * COLUMNS + c] += 0.6 * x[t * COLUMNS + c - 1];
  }
  using tokens = device.uploadMatrix(x, TOKENS, COLUMNS, "tokens");
  using gram = device.createMatrix(COLUMNS, COLUMNS, "gram");
  using sums = device.createMatrix(1, COLUMNS, "sums");
  const shape = `[${rows}, ${COLUMNS}]`;
  const released = RELEASED.get(rows);

  report(
    `gram of ${TOKENS} tokens`,
    await time(
      () => device.synchronize(),
      () => {
        device.accumulateGram({ matrix: tokens }, gram);
        return device.synchronize();
      },
    ),
  );
  report(
    `column norms of ${TOKENS} tokens`,
    await time(
      () => device.synchronize(),
      () => {
        device.accumulateSquareSums({ matrix: tokens }, sums);
        return device.synchronize();
      },
    ),
  );

  const squareSums = await device.downloadDiagonal(gram);
  const problem = (pattern: Pattern): LayerProblem => ({
    name: "bench",
    inFeatures: COLUMNS,
    outFeatures: rows,
    weight: device.uploadMatrix(weight, rows, COLUMNS, "weight"),
    statistics: { gram, squareSums, tokenCount: TOKENS, sequenceCount: 2 },
    pattern,
    sparsity: 0.5,
  });
  const solve = (method: "wanda" | "sparsegpt" | "admm" | "alps", pattern: Pattern, runs = RUNS): Promise<Timing> =>
    time(
      () => Promise.resolve(problem(pattern)),
      async (prepared) => {
        const solver = findSolver(method);
        const options = solver.schema.parse({});
        const solution = await solver.solve(prepared, options, { device });
        solution.weight[Symbol.dispose]();
        solution.keepMask[Symbol.dispose]();
      },
      runs,
    );
  report(`wanda 50 % ${shape}`, await solve("wanda", UNSTRUCTURED), released?.wanda);
  report(`wanda 2:4 ${shape}`, await solve("wanda", parsePattern("2:4")));
  report(`sparsegpt 50 % ${shape}`, await solve("sparsegpt", UNSTRUCTURED), released?.sparsegpt);
  report(`sparsegpt 2:4 ${shape}`, await solve("sparsegpt", parsePattern("2:4")));
  report(`admm 50 % ${shape}`, await solve("admm", UNSTRUCTURED, SLOW_RUNS), released?.admm);
  report(`admm 2:4 ${shape}`, await solve("admm", parsePattern("2:4"), SLOW_RUNS));
  report(`alps 50 % ${shape}`, await solve("alps", UNSTRUCTURED, SLOW_RUNS));
  report(`alps 2:4 ${shape}`, await solve("alps", parsePattern("2:4"), SLOW_RUNS));
}

const threads = Number(process.argv[2] ?? availableParallelism());
console.log(`${threads} threads; ONNX Runtime's product at 2048³: ${(await productRate(threads)).toFixed(0)} GFLOP/s`);
await using device = await createCpuDevice({ threads });
for (const rows of RELEASED.keys()) await benchmark(device, rows);
console.log(`ONNX Runtime's product at 2048³ at the end: ${(await productRate(threads)).toFixed(0)} GFLOP/s`);
