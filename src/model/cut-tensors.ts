/**
 * Which tensors a part of a model has, and of which entries of the model's own each consists: blocks are renumbered, kept
 * experts too, routers and stacks lose entries along one axis, MLPs rows and columns. Nothing is read or computed here.
 */
import type { TensorInfo } from "../checkpoint/checkpoint.js";
import { bytesPerElement, isFloatDtype } from "../checkpoint/dtype.js";
import { ConfigError, InternalError } from "../errors.js";
import { lookUp } from "../look-up.js";
import { elementsOf } from "../array.js";
import type { Architecture, BlockSpec, InputGroup, RoutedExperts } from "./architecture.js";
import { blockRenaming } from "./config-edit.js";
import { MLP_OUTPUT } from "./mlp.js";
import { wantedTensors, type TensorCatalogue } from "./open-model.js";

/** What of a model stays, entry by entry; all numbers are the model's own, ascending. */
export interface Kept {
  readonly blocks: readonly number[];
  /** Routed experts, by block; all where absent. */
  readonly experts: ReadonlyMap<number, readonly number[]>;
  /** Channels of a dense MLP, by block; all where absent. */
  readonly channels: ReadonlyMap<number, readonly number[]>;
}

/** A tensor of the part. */
export interface TensorCut {
  readonly name: string;
  readonly source: TensorInfo;
  readonly shape: readonly number[];
  readonly byteLength: number;
  /** Kept entries along each axis; all where undefined. */
  readonly kept: readonly (readonly number[] | undefined)[];
}

/** Along one axis. */
interface AxisCut {
  readonly axis: number;
  readonly kept: readonly number[];
}

interface BlockCut {
  readonly block: BlockSpec;
  readonly next: BlockSpec;
  /** By role. */
  readonly axes: ReadonlyMap<string, AxisCut>;
  /** Which kept expert has a module for itself, and what the module is called then; undefined: the expert goes. */
  readonly modules: ReadonlyMap<string, string | undefined>;
  /** Roles that cannot lose channels as stored bytes that nobody computes with. */
  readonly isOfFloats: ReadonlySet<string>;
}

/**
 * The tensors of a part, in the order of the model's.
 * @param next the family's description of the part
 * @throws ConfigError E_CUT_QUANTISED where entries lie in a way that is not known, E_CUT_TENSORS where what is left is not
 *   what the part's config says
 */
export function cutTensors(old: Architecture, next: Architecture, kept: Kept, catalogue: TensorCatalogue): TensorCut[] {
  const rename = blockRenaming(old.blocks, kept.blocks);
  const cuts = new Map(kept.blocks.map((index, at) => [index, blockCut(at, old.blocks[index], next.blocks[at], kept)]));
  const isChanged = kept.blocks.length < old.blocks.length || kept.experts.size > 0 || kept.channels.size > 0;
  const tensors = [...catalogue.tensors.values()].flatMap((source): TensorCut[] => {
    const name = rename(source.name);
    // Blocks that predict further tokens would have to be cut as well: loaders do without them.
    if (name === undefined || (isChanged && /^(?:model\.)?mtp\./.test(name))) return [];
    const block = old.blocks.find((candidate) => source.name.startsWith(`${candidate.name}.`));
    const cut = block === undefined ? undefined : cuts.get(block.index);
    if (cut === undefined) return [whole(name, source)];
    return ofBlock(cut, source) ?? [whole(name, source)];
  });
  expectTensors(next, tensors);
  return tensors;
}

function whole(name: string, source: TensorInfo): TensorCut {
  return { name, source, shape: source.shape, byteLength: source.byteLength, kept: [] };
}

function blockCut(at: number, block: BlockSpec | undefined, next: BlockSpec | undefined, kept: Kept): BlockCut {
  if (block === undefined || next === undefined) throw new InternalError("E_INTERNAL", `block ${at} is not there`);
  const experts = kept.experts.get(block.index);
  const channels = kept.channels.get(block.index);
  const axes = new Map<string, AxisCut>();
  const modules = new Map<string, string | undefined>();
  if (experts !== undefined && block.experts !== undefined && next.experts !== undefined) {
    for (const [role, axis] of block.experts.shared) axes.set(role, { axis, kept: experts });
    expertModules(block.experts, next.experts, experts).forEach((to, from) => modules.set(from, to));
  }
  const ofChannels = channels === undefined ? new Map<string, AxisCut>() : channelAxes(block, channels);
  ofChannels.forEach((cut, role) => axes.set(role, cut));
  return { block, next, axes, modules, isOfFloats: new Set(ofChannels.keys()) };
}

function moduleOf(role: string): string {
  return role.slice(0, role.lastIndexOf("."));
}

function expertModules(
  from: RoutedExperts,
  to: RoutedExperts,
  kept: readonly number[],
): Map<string, string | undefined> {
  const numbers = new Map(kept.map((expert, index) => [expert, index]));
  return new Map(
    from.own.flatMap((roles, expert) => {
      const number = numbers.get(expert);
      return roles.map((role, place) => {
        const renamed = number === undefined ? undefined : to.own[number]?.[place];
        return [moduleOf(role), renamed === undefined ? undefined : moduleOf(renamed)] as const;
      });
    }),
  );
}

/** A block's dense MLP, as the channels between its projections. */
export function channelGroup({ groups }: Pick<BlockSpec, "groups">): InputGroup | undefined {
  return groups.find(({ name, producers }) => name === MLP_OUTPUT && producers !== undefined);
}

/** Rows of what makes the channels and columns of what reads them. */
function channelAxes(block: BlockSpec, kept: readonly number[]): Map<string, AxisCut> {
  const group = channelGroup(block);
  if (group === undefined) throw new InternalError("E_INTERNAL", `${block.name} has no dense MLP`);
  const isKept = new Set(kept);
  const axes = new Map<string, AxisCut>();
  for (const { role, kind, inputAxis, outputs = [{ first: 0, count: group.inFeatures }] } of group.producers ?? []) {
    const axis = kind === "bias" || inputAxis === 1 ? 0 : 1;
    const size = lookUp(block.tensors, role).shape[axis] as number;
    const gone = new Set<number>();
    for (const { first, count, step = 1 } of outputs)
      for (let channel = 0; channel < count; channel++) if (!isKept.has(channel)) gone.add(first + channel * step);
    const known = axes.get(role)?.kept ?? Array.from({ length: size }, (_, index) => index);
    axes.set(role, { axis, kept: known.filter((index) => !gone.has(index)) });
  }
  for (const { role, inputAxis } of group.linears) axes.set(role, { axis: inputAxis, kept });
  return axes;
}

/** What becomes of a tensor of a kept block; undefined where it stays as it is. */
function ofBlock(cut: BlockCut, source: TensorInfo): TensorCut[] | undefined {
  const { block, next } = cut;
  const role = source.name.slice(block.name.length + 1);
  const module = moduleOf(role);
  if (cut.modules.has(module)) {
    const to = cut.modules.get(module);
    return to === undefined ? [] : [whole(`${next.name}.${to}${role.slice(module.length)}`, source)];
  }
  const axis = cut.axes.get(role) ?? cut.axes.get(role.replace(/_(?:blocks|scales)$/, ""));
  if (axis !== undefined) return [alongAxis(`${next.name}.${role}`, source, axis, cut.isOfFloats.has(role))];
  const owner = [...cut.axes.keys()].find((other) => isSidecar(role, other) && !block.tensors.has(role));
  if (owner === undefined) return undefined;
  const owned = lookUp(cut.axes, owner);
  if (cut.isOfFloats.has(owner) || owned.axis !== 0 || source.shape[0] !== block.tensors.get(owner)?.shape[0])
    throw unknownLayout(source, owner);
  return [alongAxis(`${next.name}.${role}`, source, owned, false)];
}

/** Whether a tensor belongs to another's stored form: scales, zero points, indices. */
function isSidecar(role: string, owner: string): boolean {
  return role.startsWith(`${owner}_`) || moduleOf(role) === owner || moduleOf(role) === moduleOf(owner);
}

function unknownLayout({ file, name, dtype }: TensorInfo, owner: string): ConfigError {
  return new ConfigError(
    "E_CUT_QUANTISED",
    `${file}: tensor ${name} (${dtype}) belongs to ${owner}, of which only a part is kept; where its entries lie is not known.`,
    {
      hint: "Cut the model in BF16 and quantise afterwards; dropping whole blocks works with any type.",
      details: { file, tensor: name, dtype, owner },
    },
  );
}

function alongAxis(name: string, source: TensorInfo, { axis, kept }: AxisCut, isOfFloats: boolean): TensorCut {
  const width = bytesPerElement(source.dtype);
  if (width === undefined || (isOfFloats && !isFloatDtype(source.dtype))) throw unknownLayout(source, source.name);
  const shape = source.shape.map((size, index) => (index === axis ? kept.length : size));
  return {
    name,
    source,
    shape,
    byteLength: elementsOf(shape) * width,
    kept: source.shape.map((_, index) => (index === axis ? kept : undefined)),
  };
}

/** All tensors that the part's description names, with its shapes. */
function expectTensors(next: Architecture, tensors: readonly TensorCut[]): void {
  const shapes = new Map(tensors.map(({ name, shape }) => [name, shape.join()]));
  const wrong = [...wantedTensors(next).values()].filter(({ tensor, shape }) => {
    const found = shapes.get(tensor);
    // A pair of packed tensors stands for one: its shapes are those of the pair.
    return found === undefined ? !shapes.has(`${tensor}_blocks`) : found !== shape.join();
  });
  const [first] = wrong;
  if (first === undefined) return;
  throw new ConfigError(
    "E_CUT_TENSORS",
    `${wrong.length} tensors would not be what the part's config.json says, ${first.tensor} [${first.shape.join(", ")}] among them.`,
    {
      hint: "The same count must be kept in every block that the config has one number for.",
      details: { tensors: wrong.map(({ tensor }) => tensor) },
    },
  );
}
