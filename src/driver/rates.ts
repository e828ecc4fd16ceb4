/** From counted work to seconds: what a machine does of each kind in a second. plan.ts measures it, progress takes a usual one. */
import type { RunWork } from "./run-cost.js";

/** Bytes per second assumed for reading, cloning and patching. */
const DISK_RATE = 400e6;
/** How much slower than products the kernels of sweeps and row systems do their operations. */
const KERNEL_SLOWNESS = 5;
/** How many passes over an entry the host's own loops take the time of. */
const HOST_SLOWNESS = 5;

/** What a machine does a second. */
export interface Rates {
  /** Floating-point operations of products. */
  readonly products: number;
  /** Entries of a new array that a loop fills: memory that was never touched takes most of it. */
  readonly entries: number;
}

/** How long so much work takes. */
export function secondsOf({ products, kernels, entries, hostEntries, diskBytes }: RunWork, rates: Rates): number {
  return (
    (products + KERNEL_SLOWNESS * kernels) / rates.products +
    (entries + HOST_SLOWNESS * hostEntries) / rates.entries +
    diskBytes / DISK_RATE
  );
}

/** Of two cores; only how the kinds of work compare matters where shares are made of it. */
export const USUAL_RATES: Rates = { products: 60e9, entries: 400e6 };
