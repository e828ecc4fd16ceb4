/**
 * Families describe models in canonical tensor names; checkpoints carry or lack the base prefix ("model.",
 * "transformer.", …) or bury the language model inside a multimodal one ("model.language_model.layers…",
 * "language_model.model.layers…"). This file finds how the two are related and renames an architecture. It looks at
 * names and shapes only and decides nothing about families.
 */
import type { Architecture, BlockSpec, BlockTensor, LinearSpec } from "./architecture.js";

/** What of a checkpoint is looked at: its tensors' shapes by name. */
export type TensorShapes = ReadonlyMap<string, { readonly shape: readonly number[] }>;

/** The stored name of a canonical one. */
export type Rename = (canonical: string) => string;

/**
 * Find the stored names of an architecture's tensors. The base model's prefix is looked for at every tensor that ends
 * like the first one of block 0; the prefix under which most tensors of that block have their shape wins, the
 * canonical one where none does better.
 */
export function findTensorNames(architecture: Architecture, tensors: TensorShapes): Rename {
  const [block] = architecture.blocks;
  if (block === undefined) return (name) => name;
  const base = commonModulePrefix(architecture.embedding, `${block.name}.`);
  const wanted = [...block.tensors.values()].filter(({ tensor }) => tensor.startsWith(base));
  const score = (stored: string): number =>
    wanted.filter(({ tensor, shape }) => hasShape(tensors, stored + tensor.slice(base.length), shape)).length;

  let best = base;
  let bestScore = score(base);
  if (bestScore === wanted.length) return (name) => name;
  for (const candidate of candidatePrefixes(base, wanted, tensors)) {
    const candidateScore = score(candidate);
    if (candidateScore > bestScore) [best, bestScore] = [candidate, candidateScore];
  }
  return (name) => storedName(name, base, best, tensors);
}

/** "model." of "model.embed_tokens.weight" and "model.layers.0.": whole modules only, possibly none. */
function commonModulePrefix(a: string, b: string): string {
  let length = 0;
  while (length < a.length && a[length] === b[length]) length++;
  return a.slice(0, a.lastIndexOf(".", length - 1) + 1);
}

/** How many of a block's tensors are searched for: a block of many experts has hundreds. */
const TENSORS_SEARCHED = 8;

/** Prefixes under which the checkpoint holds something that is named like one of the wanted tensors. */
function candidatePrefixes(base: string, wanted: readonly BlockTensor[], tensors: TensorShapes): Set<string> {
  const endings = wanted.slice(0, TENSORS_SEARCHED).map(({ tensor }) => tensor.slice(base.length));
  const prefixes = new Set<string>();
  for (const name of tensors.keys()) {
    for (const ending of endings) {
      if (name === ending || name.endsWith(`.${ending}`)) prefixes.add(name.slice(0, name.length - ending.length));
    }
  }
  return prefixes;
}

function hasShape(tensors: TensorShapes, name: string, shape: readonly number[]): boolean {
  const found = tensors.get(name)?.shape;
  return found?.length === shape.length && shape.every((size, axis) => found[axis] === size);
}

/** Base tensors move with the base; others (a head) lie beside it, above it, or where they always were. */
function storedName(name: string, base: string, stored: string, tensors: TensorShapes): string {
  if (base !== "" && name.startsWith(base)) return stored + name.slice(base.length);
  const parent = stored === base || stored.endsWith(`.${base}`) ? stored.slice(0, stored.length - base.length) : stored;
  const places = base === "" ? [`${stored}${name}`, name] : [`${parent}${name}`, name, `${stored}${name}`];
  return places.find((place) => tensors.has(place)) ?? (base === "" ? `${stored}${name}` : name);
}

/** The same architecture with every tensor and module path renamed; graphs and shape keys stay. */
export function renameTensors(architecture: Architecture, rename: Rename): Architecture {
  const renameAll = (tensors: ReadonlyMap<string, BlockTensor>): Map<string, BlockTensor> =>
    new Map([...tensors].map(([role, { tensor, shape }]) => [role, { tensor: rename(tensor), shape }]));
  const { prologue, head } = architecture;
  return {
    ...architecture,
    embedding: rename(architecture.embedding),
    sideTables: architecture.sideTables.map((table) => ({ ...table, tensor: rename(table.tensor) })),
    idleTensors: architecture.idleTensors.map(rename),
    ...(prologue === undefined ? {} : { prologue: { ...prologue, tensors: renameAll(prologue.tensors) } }),
    blocks: architecture.blocks.map((block): BlockSpec => {
      const name = rename(`${block.name}.`).slice(0, -1);
      const renameLinear = (linear: LinearSpec): LinearSpec => ({
        ...linear,
        name: name + linear.name.slice(block.name.length),
      });
      return {
        ...block,
        name,
        tensors: renameAll(block.tensors),
        groups: block.groups.map((group) => ({ ...group, linears: group.linears.map(renameLinear) })),
      };
    }),
    head: {
      ...head,
      tensors: renameAll(head.tensors),
      projection: rename(head.projection),
      ...(head.bias === undefined ? {} : { bias: rename(head.bias) }),
    },
  };
}
