/**
 * Statistics of the dense model's activations, kept for the next run. With dense propagation they depend on the model and
 * the calibration alone, so a comparison collects each kind once; Gram matrices lie in files, 4·n² bytes for n inputs.
 */
import { mkdir, readFile, rm, writeFile } from "../files/output-files.js";
import { join } from "node:path";
import type { GroupStatistics } from "../calibration/statistics.js";
import type { Device, Matrix } from "../device/device.js";
import { InternalError } from "../errors.js";
import type { LayerStatistics, StatisticName } from "../solvers/solver.js";

/** Everything but the Gram matrix, which is in a file where there is one. */
interface Kept {
  readonly statistics: Omit<LayerStatistics, "gram">;
  readonly file: string | undefined;
}

/** Which statistics come out of the same pass with the same bits. */
function kindOf(needs: readonly StatisticName[]): string {
  const hasGram = needs.includes("gram"); // its diagonal is the column norms
  return needs
    .filter((name) => !(hasGram && name === "column-norms"))
    .toSorted()
    .join(" ");
}

/** Disposing of it deletes the files. */
export class StoredStatistics implements AsyncDisposable {
  readonly #directory: string;
  readonly #kept = new Map<string, Kept>();
  readonly #seconds = new Map<string, number>();
  readonly #complete = new Set<string>();
  #files = 0;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** Whether an earlier run has kept these statistics of all groups. */
  has(needs: readonly StatisticName[]): boolean {
    return needs.length === 0 || this.#complete.has(kindOf(needs));
  }

  /** What collecting them took. */
  secondsOf(needs: readonly StatisticName[]): number {
    return this.#seconds.get(kindOf(needs)) ?? 0;
  }

  addSeconds(needs: readonly StatisticName[], seconds: number): void {
    this.#seconds.set(kindOf(needs), this.secondsOf(needs) + seconds);
  }

  /** Called after the last group of a run that collected them. */
  complete(needs: readonly StatisticName[]): void {
    this.#complete.add(kindOf(needs));
  }

  async keep(
    group: string,
    needs: readonly StatisticName[],
    { gram, ...statistics }: LayerStatistics,
    device: Device,
  ): Promise<void> {
    let file: string | undefined;
    if (gram !== undefined) {
      await mkdir(this.#directory, { recursive: true });
      file = join(this.#directory, `gram-${this.#files++}.f32`);
      await writeFile(file, new Uint8Array((await device.download({ matrix: gram })).buffer));
    }
    this.#kept.set(`${kindOf(needs)}: ${group}`, { statistics, file });
  }

  /** The statistics of one group as if they had just been collected. */
  open(group: string, needs: readonly StatisticName[], width: number, device: Device): GroupStatistics {
    const kept = this.#kept.get(`${kindOf(needs)}: ${group}`);
    if (kept === undefined) throw new InternalError("E_STATISTICS", `${group}: no statistics were kept`);
    const { statistics, file } = kept;
    let gram: Matrix | undefined;
    return {
      tokens: statistics.tokenCount,
      add: () => undefined, // all tokens are in
      finish: async () => {
        if (file === undefined) return statistics;
        const { buffer, byteOffset } = await readFile(file);
        gram = device.uploadMatrix(new Float32Array(buffer, byteOffset, width * width), width, width, `${group} gram`);
        await device.synchronize();
        return { ...statistics, gram };
      },
      [Symbol.dispose]: () => gram?.[Symbol.dispose](),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#directory, { recursive: true, force: true });
  }
}
