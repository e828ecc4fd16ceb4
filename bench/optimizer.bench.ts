/**
 * Steps of training on a matrix of the 1.1B shape, in bytes moved per second, beside the device's own plain copy of as
 * many bytes in the same run; and what packing states costs per element.
 *
 *     npm run bench optimizer
 *
 * Each case alternates with copies; medians and the best of several runs after a warm-up. Runs on every device that is
 * real: software adapters are left out.
 */
import { createCpuDevice } from "../src/device/cpu/cpu-device.js";
import type { Device, Matrix } from "../src/device/device.js";
import { createWebGpuDevice } from "../src/device/webgpu/adapter.js";
import { STATE_FORMATS } from "../src/training/formats/formats.js";
import { machineLine, median, randomValues, secondsOf } from "./harness.js";

const [ROWS, COLUMNS] = [2048, 5632];
const COUNT = ROWS * COLUMNS;
const RUNS = 15;
const ADAM = { gradientScale: 0.5, rate: 1e-6, decay: [0.9, 0.95], epsilon: 1e-8, step: 3 } as const;

interface Case {
  readonly name: string;
  /** Read and written, per entry. */
  readonly bytes: number;
  run(): unknown;
}

async function measure(device: Device): Promise<void> {
  const upload = (scale: number, label: string): Matrix =>
    device.uploadMatrix(randomValues(COUNT, scale), ROWS, COLUMNS, label);
  using values = upload(0.04, "x");
  using gradient = upload(1e-3, "g");
  using first = upload(1e-4, "m");
  using split = upload(0.04, "z");
  using dual = upload(0.01, "u");
  using second = device.uploadMatrix(
    randomValues(COUNT, 1e-3).map((value) => value ** 2),
    ROWS,
    COLUMNS,
    "v",
  );
  const words = Uint32Array.from({ length: COUNT / 32 }, (_, i) => Math.imul(i, 0x9e3779b1));
  using mask = device.uploadMask(words, ROWS, COLUMNS, "mask");
  const adam = { values, gradient, first, second, ...ADAM };
  const pull = { split, dual, strength: 0.01 };
  const cases: readonly Case[] = [
    { name: "adamStep", bytes: 28, run: () => device.adamStep(adam) },
    { name: "adamStep with a mask", bytes: 28, run: () => device.adamStep({ ...adam, mask }) },
    { name: "adamStep with a pull", bytes: 36, run: () => device.adamStep({ ...adam, pull }) },
    { name: "adamStep with a pull and a mask", bytes: 36, run: () => device.adamStep({ ...adam, pull, mask }) },
    { name: "addInto", bytes: 12, run: () => device.addInto(split, gradient) },
    { name: "sumOfSquares", bytes: 4, run: () => device.sumOfSquares(gradient) },
    {
      name: "projectionScores of x and u",
      bytes: 12,
      run: () => device.projectionScores({ values, dual, out: gradient }),
    },
    {
      name: "projectionScores of x, u and v",
      bytes: 16,
      run: () => device.projectionScores({ values, dual, second, out: gradient }),
    },
    { name: "dualStep", bytes: 20, run: () => device.dualStep({ values, split, dual, mask }) },
  ];
  console.log(`\n${device.description}: [${ROWS}, ${COLUMNS}]`);
  console.log("| step | ms | best | GB/s | copy GB/s | of the copy |\n|---|---|---|---|---|---|");
  for (const { name, bytes, run } of cases) {
    const seconds: number[] = [];
    const copies: number[] = [];
    for (let round = -2; round < RUNS; round++) {
      const copy = await secondsOf(async () => {
        device.copy(values, gradient);
        device.copy(dual, gradient);
        await device.synchronize();
      });
      const step = await secondsOf(async () => {
        await run();
        await device.synchronize();
      });
      if (round < 0) continue;
      seconds.push(step);
      copies.push(copy);
    }
    const rate = (bytes * COUNT) / 1e9 / median(seconds);
    const copyRate = (2 * 8 * COUNT) / 1e9 / median(copies);
    const best = (1000 * Math.min(...seconds)).toFixed(1);
    const share = `${((100 * rate) / copyRate).toFixed(0)} %`;
    const columns = [name, (1000 * median(seconds)).toFixed(1), best, rate.toFixed(1), copyRate.toFixed(1), share];
    console.log(`| ${columns.join(" | ")} |`);
  }
}

async function measureFormats(): Promise<void> {
  const values = randomValues(COUNT, 0.04).map((value, i) => (Math.imul(i, 0x9e3779b1) < 0 ? 0 : value));
  const squares = values.map((value) => value ** 2);
  const back = new Float32Array(COUNT);
  console.log("\n| format | bytes per element | pack ns | best | unpack ns | best |\n|---|---|---|---|---|---|");
  for (const format of STATE_FORMATS) {
    const bytes = new Uint8Array(format.bytesFor(COUNT));
    const source = format.name.includes("unsigned") ? squares : values;
    const [packing, unpacking]: [number[], number[]] = [[], []];
    for (let round = -2; round < RUNS; round++) {
      const pack = await secondsOf(async () => format.pack(source, bytes));
      const unpack = await secondsOf(async () => format.unpack(bytes, back));
      if (round < 0) continue;
      packing.push((1e9 * pack) / COUNT);
      unpacking.push((1e9 * unpack) / COUNT);
    }
    const times = [packing, unpacking].flatMap((list) => [median(list).toFixed(2), Math.min(...list).toFixed(2)]);
    console.log(`| ${format.name} | ${(bytes.byteLength / COUNT).toFixed(3)} | ${times.join(" | ")} |`);
  }
}

console.log(`steps of training (${machineLine()})`);
{
  await using device = await createCpuDevice();
  await measure(device);
}
{
  await using device = await createWebGpuDevice();
  if (device !== undefined) await measure(device);
}
await measureFormats();
