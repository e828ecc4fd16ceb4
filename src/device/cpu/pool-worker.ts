/** A worker of the kernel pool: sleeps until the pool publishes items, takes its share, sleeps again. */
import { parentPort, workerData } from "node:worker_threads";
import { CONTROL, kernelTable, SPINS, STOP, takeItems, type PoolWorkerData } from "./kernel-pool.js";

const { module, memory, control: shared, thread } = workerData as PoolWorkerData;
const control = new Int32Array(shared);
const instance = new WebAssembly.Instance(module, {
  env: {
    memory,
    abort: () => {
      throw new Error("a WebAssembly kernel aborted");
    },
  },
});
const kernels = [...kernelTable(instance).values()];

function waitForEpoch(seen: number): number {
  for (let spin = 0; spin < SPINS; spin++) {
    const epoch = Atomics.load(control, CONTROL.epoch);
    if (epoch !== seen) return epoch;
  }
  Atomics.wait(control, CONTROL.epoch, seen);
  return Atomics.load(control, CONTROL.epoch);
}

let epoch = 0;
parentPort?.postMessage("ready");
for (;;) {
  epoch = waitForEpoch(epoch);
  if (Atomics.load(control, CONTROL.kernel) === STOP) break;
  takeItems(control, thread, kernels);
}
