/**
 * How much each linear loses, decided before solving. What a rule needs to know of the *dense* model is collected by
 * streaming it block by block, like everything else: its weights, or its weights and their inputs. The rules themselves
 * are in src/allocation/.
 */
import { allocate, allocationProblems, type Allocation } from "../../allocation/registry.js";
import type { AllocationSource, Sparsities } from "../../allocation/rule.js";
import { ConfigError, InternalError, type PruneError } from "../../errors.js";
import type { BlockSpec } from "../../model/architecture.js";
import { SpectrumEngine } from "../../spectra/eigenvalues.js";
import { selectedBlocks, visitInputs, visitWeights, type DensePass } from "./dense-pass.js";
import { evolveSparsities, type EvolutionInput } from "./evolve.js";

export interface AllocationInput extends DensePass {
  readonly allocation: Allocation;
  readonly target: number;
  /** Linears to prune, by name. */
  readonly selected: ReadonlySet<string>;
  /** What only a search takes; undefined where there are no tokens. */
  readonly search: Omit<EvolutionInput, "options" | "target" | "model" | "linears" | "device" | "onBatch"> | undefined;
}

/** Sparsity of every selected linear, by name; the parameter-weighted mean is the target. */
export function allocateSparsity(input: AllocationInput): Promise<Sparsities> {
  return allocate(sourceOf(input), input.allocation, input.target);
}

/** The dense model as rules see it: every visit streams it once. */
function sourceOf(input: AllocationInput): AllocationSource {
  const blocks = selectedBlocks(input.model.architecture.blocks, input.selected);
  return {
    blocks: blocks.map(({ block, linears }) => ({ name: block.name, linears })),
    visitWeights: (visit) => visitWeights(input, blocks, visit),
    visitInputs: (visit) => visitInputs(input, blocks, visit),
    async visitSpectra(visit) {
      await using spectra = new SpectrumEngine();
      await visitWeights(input, blocks, async (values, linear) => {
        visit(await spectra.squaredSingularValues(values, linear.outFeatures, linear.inFeatures), linear);
      });
    },
    async search(options, target) {
      if (input.search === undefined)
        throw new InternalError("E_ALLOCATION", "a search for an allocation needs sequences, and there are none");
      const linears = blocks.flatMap((entry) => entry.linears);
      const { sparsities } = await evolveSparsities({ ...input, ...input.search, options, target, linears });
      return sparsities;
    },
  };
}

/** What of the configured allocation cannot be done with this model; needs no weights. */
export function allocationProblem(
  { allocation, sparsity }: { readonly allocation: Allocation; readonly sparsity: number },
  blocks: readonly BlockSpec[],
  selected: ReadonlySet<string>,
): PruneError | undefined {
  const problems = allocationProblems(allocation, sparsity, selectedBlocks(blocks, selected).length);
  if (problems.length === 0) return undefined;
  return new ConfigError("E_ALLOCATION", `${problems.join("; ")}.`, {
    hint: "docs/allocation.md says what each rule can spread.",
    details: { problems, allocation },
  });
}
