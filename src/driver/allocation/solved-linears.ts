/**
 * Linears of the dense model as a method prunes them, at whatever sparsities a search asks for. Statistics come from one pass
 * over the dense model; they and every solve of a method that works hard lie in files, since later candidates ask again.
 */
import { mkdir, readFile, rm, writeFile } from "../../files/output-files.js";
import { join } from "node:path";
import type { Device } from "../../device/device.js";
import type { BlockSpec, InputGroup, LinearSpec } from "../../model/architecture.js";
import { UNSTRUCTURED } from "../../sparsity/pattern.js";
import { visitStatistics, type DensePass, type SelectedBlock } from "./dense-pass.js";
import { MAGNITUDE, NO_STATISTICS, solveLinear, type BoundSolver } from "../solve-linear.js";
import { isStarved } from "../starved-experts.js";
import { StoredStatistics } from "../stored-statistics.js";

/** Disposing of it deletes the files. */
export class SolvedLinears implements AsyncDisposable {
  readonly #device: Device;
  readonly #solver: BoundSolver;
  readonly #directory: string;
  readonly #statistics: StoredStatistics;
  /** By linear and sparsity: the number of the file that holds the weight. */
  readonly #solved = new Map<string, number>();

  private constructor(device: Device, solver: BoundSolver, directory: string) {
    this.#device = device;
    this.#solver = solver;
    this.#directory = directory;
    this.#statistics = new StoredStatistics(join(directory, "statistics"));
  }

  /** Collect what the method looks at; the pass's states are left behind the last block. */
  static async collect(
    pass: DensePass,
    blocks: readonly SelectedBlock[],
    solver: BoundSolver,
    directory: string,
  ): Promise<SolvedLinears> {
    const linears = new SolvedLinears(pass.device, solver, directory);
    await mkdir(directory, { recursive: true });
    if (solver.needs.length === 0) return linears;
    try {
      await visitStatistics(pass, blocks, solver.needs, async (block, groups) => {
        for (const { group, statistics } of groups) {
          const finished = await statistics.finish();
          await linears.#statistics.keep(nameOf(block, group), solver.needs, finished, pass.device);
        }
      });
      return linears;
    } catch (error) {
      await linears[Symbol.asyncDispose]();
      throw error;
    }
  }

  /**
   * The weight [outFeatures, inFeatures] that the method makes of a dense one. An expert that saw fewer tokens than it has
   * inputs is pruned by magnitude.
   */
  async solve(
    block: BlockSpec,
    group: InputGroup,
    linear: LinearSpec,
    dense: Float32Array,
    sparsity: number,
  ): Promise<Float32Array> {
    if (!this.#solver.needs.includes("gram")) return this.#prune(block, group, linear, dense, sparsity);
    const key = `${linear.name} ${sparsity}`;
    const known = this.#solved.get(key);
    if (known !== undefined) {
      const { buffer, byteOffset } = await readFile(this.#fileOf(known));
      return new Float32Array(buffer, byteOffset, linear.outFeatures * linear.inFeatures);
    }
    const solved = await this.#prune(block, group, linear, dense, sparsity);
    const number = this.#solved.size;
    await writeFile(this.#fileOf(number), new Uint8Array(solved.buffer, solved.byteOffset, solved.byteLength));
    this.#solved.set(key, number);
    return solved;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#directory, { recursive: true, force: true });
  }

  #fileOf(number: number): string {
    return join(this.#directory, `solved-${number}.f32`);
  }

  async #prune(
    block: BlockSpec,
    group: InputGroup,
    linear: LinearSpec,
    dense: Float32Array,
    sparsity: number,
  ): Promise<Float32Array> {
    const device = this.#device;
    const { needs } = this.#solver;
    using kept =
      needs.length === 0 ? undefined : this.#statistics.open(nameOf(block, group), needs, linear.inFeatures, device);
    const statistics = (await kept?.finish()) ?? NO_STATISTICS;
    const solver = isStarved(group, kept?.tokens) ? MAGNITUDE : this.#solver;
    const problem = { linear, weight: dense, statistics, pattern: UNSTRUCTURED, sparsity };
    const { weight } = await solveLinear(device, solver, problem);
    return weight;
  }
}

function nameOf(block: BlockSpec, group: InputGroup): string {
  return `${block.name} ${group.name}`;
}
