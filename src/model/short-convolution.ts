/**
 * A short convolution between two gates in place of attention, as LFM2 has it: one projection makes both gates and what
 * goes through. The kernel is a tensor of the branch but nothing to prune.
 */
import type { Branch } from "./branch.js";
import { partsInTurn, project, projectionLinears, projectionShapes, splitLast, type Projection } from "./pieces.js";

export interface ShortConvolutionSpec {
  readonly hiddenSize: number;
  /** Tokens that it sees, the own one included. */
  readonly kernel: number;
  /** Of both projections and of the convolution. */
  readonly hasBias: boolean;
}

export function shortConvolutionBranch(spec: ShortConvolutionSpec): Branch {
  const { hiddenSize, kernel, hasBias } = spec;
  const parts = partsInTurn(1, { before: hiddenSize, after: hiddenSize, states: hiddenSize });
  const at = (name: string, outFeatures: number): Projection => ({
    path: `conv.${name}`,
    inFeatures: hiddenSize,
    outFeatures,
    hasBias,
  });
  const input: Projection = { ...at("in_proj", 3 * hiddenSize), parts };
  const output = at("out_proj", hiddenSize);
  return {
    key: JSON.stringify(spec),
    tensors: [
      ...projectionShapes(input),
      ["conv.conv.weight", [hiddenSize, 1, kernel]],
      ...(hasBias ? [["conv.conv.bias", [hiddenSize]] as const] : []),
      ...projectionShapes(output),
    ],
    reads: projectionLinears(input),
    groups: [{ name: "convolution-output", stage: 1, inFeatures: hiddenSize, linears: projectionLinears(output) }],
    isRecurrent: true,
    build(context, states) {
      const { graph, tensor } = context;
      const sizes = [hiddenSize, hiddenSize, hiddenSize] as const;
      const [before, after, value] = splitLast(graph, project(context, input, states), sizes);
      const bias = hasBias ? tensor("conv.conv.bias") : undefined;
      const entering = graph.apply("multiply", [before, value]);
      const gated = graph.apply("multiply", [after, context.convolve(entering, tensor("conv.conv.weight"), bias)]);
      context.tap("convolution-output", gated);
      return project(context, output, gated);
    },
  };
}
