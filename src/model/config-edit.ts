/**
 * The config.json of a part of a model. Keys that count blocks, experts or channels get new numbers, lists with an entry
 * per block lose entries, lists of blocks' numbers are renumbered; where a rule by position would then give other blocks
 * than those that are kept, what it says is written out. Whether the result says the part is seen from the family's own
 * description of it, never assumed.
 */
import { ConfigError, PruneError } from "../errors.js";
import { isRecord } from "../is-record.js";
import { patchJson } from "../json-patch.js";
import { parseJson } from "../json.js";
import { lookUp } from "../look-up.js";
import type { Architecture, BlockSpec } from "./architecture.js";
import { parseModelConfig, type ModelConfig } from "./config.js";
import type { Family } from "./family.js";
import type { FamilyEdit, MixtureKeys } from "./family-edit.js";
import { describeCheckpoint, type TensorCatalogue } from "./open-model.js";

/** What is kept of a model. */
export interface Part {
  /** Numbers of blocks, ascending. */
  readonly blocks: readonly number[];
  /** Routed experts of every mixture. */
  readonly experts?: number;
  /** Channels of every dense MLP. */
  readonly width?: number;
}

/** A value of config.json that changes; `from` is null where there is none. */
export interface ConfigPatch {
  readonly path: readonly string[];
  readonly from: unknown;
  readonly to: unknown;
}

/** Entries by block. */
const BLOCK_LISTS = [
  ...["layer_types", "mlp_layer_types", "layers_block_type", "block_types", "attn_type_list", "indexer_types"],
  ...["no_rope_layers", "block_configs", "moe_layer_freq", "num_experts", "moe_topk", "intermediate_size"],
];
/** Numbers of blocks. */
const NUMBER_LISTS = ["moe_layers", "mlp_only_layers", "full_attn_idxs", "attn_layer_indices", "global_attn_layers"];
/** How many blocks come before something changes. */
const PREFIXES = ["first_k_dense_replace", "num_dense_layers", "num_hash_layers", "max_window_layers"];
/** Blocks behind the decoder's own, which are left out of every part. */
const FURTHER_BLOCKS = ["num_nextn_predict_layers", "mtp_num_hidden_layers"];
/** What the part of a model with these would be is not known here. */
const REFUSED = ["num_kv_shared_layers", "per_layer_config", "hybrid_override_pattern"];

type Json = Readonly<Record<string, unknown>>;

/** The family's edit. @throws ConfigError E_EDIT_FAMILY naming the families that have one */
export function editOf(family: Family, families: readonly Family[]): FamilyEdit {
  if (family.edit !== undefined) return family.edit;
  const known = families.flatMap(({ name, edit }) => (edit === undefined ? [] : [name]));
  throw new ConfigError("E_EDIT_FAMILY", `${family.name}: no part of a model of this family can be written.`, {
    hint: `Families whose blocks, experts or channels can be cut: ${known.join(", ")}.`,
    details: { family: family.name, known },
  });
}

interface Source {
  readonly family: Family;
  readonly edit: FamilyEdit;
  readonly config: ModelConfig;
  readonly architecture: Architecture;
  readonly tensors: TensorCatalogue;
}

/**
 * What changes in config.json for a part of a model.
 * @param renumbered the model's tensors under the names that kept blocks get
 * @throws ConfigError E_EDIT_CONFIG where the family's config cannot say the part
 */
export function editConfig(source: Source, part: Part, renumbered: TensorCatalogue): ConfigPatch[] {
  const { edit, family, architecture } = source;
  const blocks = blockPatches(source, part);
  const kept = part.blocks.map((index) => architecture.blocks[index] as BlockSpec);
  const attempts = [
    () => [],
    () => explicitMixtures(source, part),
    () => explicitLists(source, part),
    () => [...explicitMixtures(source, part), ...explicitLists(source, part)],
  ];
  const written = firstOf(attempts, (attempt) => {
    const patches = withPatches(blocks, attempt());
    const described = describe(source, patches, renumbered);
    return described !== undefined && isSame(described, kept) ? patches : undefined;
  });
  if (written === undefined) {
    throw new ConfigError(
      "E_EDIT_CONFIG",
      `${family.name}: config.json cannot say the ${part.blocks.length} blocks that are left, by any list or rule that this family reads.`,
      {
        hint: "What a block computes goes by its place here: drop blocks at the end of a period, or whole periods.",
        details: { family: family.name, kept: part.blocks },
      },
    );
  }
  const counts: ConfigPatch[] = [];
  if (part.experts !== undefined) counts.push(...setCounts(source, edit.experts, part.experts, "experts"));
  if (part.width !== undefined) counts.push(...setCounts(source, edit.width, part.width, "channels of MLPs"));
  const changed = counts.length > 0 || part.blocks.length < architecture.blocks.length;
  const all = changed ? [...written, ...counts, ...furtherBlocks(source)] : written;
  return all
    .filter(({ from, to }) => JSON.stringify(from) !== JSON.stringify(to))
    .flatMap((patch) => placed(source, patch));
}

/** The text of config.json with the changes. */
export function patchConfig(text: string, patches: readonly ConfigPatch[]): string {
  return patches.reduce((patched, { path, to }) => patchJson(patched, { path, value: to }), text);
}

/** The first that `find` gives something for. */
function firstOf<Item, Found>(items: readonly Item[], find: (item: Item) => Found | undefined): Found | undefined {
  for (const item of items) {
    const found = find(item);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** What the family makes of a changed config; undefined where it cannot read it. */
function describe(source: Source, patches: readonly ConfigPatch[], tensors: TensorCatalogue): Architecture | undefined {
  const placedPatches = patches.flatMap((patch) => placed(source, patch));
  const config = parseModelConfig(patchConfig(source.config.text, placedPatches), "config.json");
  try {
    return describeCheckpoint(source.family, config, tensors);
  } catch (error) {
    if (error instanceof PruneError) return undefined;
    throw error;
  }
}

/** Whether blocks compute the same, and the tables they look up are theirs. */
function isSame(architecture: Architecture, blocks: readonly BlockSpec[]): boolean {
  return (
    architecture.blocks.length === blocks.length &&
    architecture.blocks.every(({ shapeKey }, index) => shapeKey === blocks[index]?.shapeKey)
  );
}

/** Later patches of the same key take the place of earlier ones. */
function withPatches(patches: readonly ConfigPatch[], more: readonly ConfigPatch[]): ConfigPatch[] {
  const keys = new Set(more.map(({ path }) => path.join()));
  return [...patches.filter(({ path }) => !keys.has(path.join())), ...more];
}

/** The language model's keys. */
function keysOf({ config }: Source): Json {
  const outer = parseJson(config.text) as Json;
  return isRecord(outer["text_config"]) ? outer["text_config"] : outer;
}

/** The patch where the file has the key: among the language model's keys, and outside of them where it says the same. */
function placed({ config }: Source, patch: ConfigPatch): ConfigPatch[] {
  const outer = parseJson(config.text) as Json;
  const inner = outer["text_config"];
  if (!isRecord(inner)) return [patch];
  const [key = ""] = patch.path;
  const isTwice = patch.from !== null && JSON.stringify(outer[key]) === JSON.stringify(patch.from);
  const nested = { ...patch, path: ["text_config", ...patch.path] };
  return isTwice ? [nested, patch] : [nested];
}

function set(keys: Json, key: string, to: unknown): ConfigPatch {
  return { path: [key], from: keys[key] ?? null, to };
}

function setCounts(source: Source, names: readonly string[] | undefined, to: number, what: string): ConfigPatch[] {
  if (names === undefined) {
    throw new ConfigError("E_EDIT_CONFIG", `${source.family.name}: config.json has no key for a number of ${what}.`, {
      details: { family: source.family.name },
    });
  }
  const keys = keysOf(source);
  const there = names.filter((name) => keys[name] !== undefined);
  return (there.length === 0 ? names.slice(0, 1) : there).map((name) => set(keys, name, to));
}

function furtherBlocks(source: Source): ConfigPatch[] {
  const keys = keysOf(source);
  return FURTHER_BLOCKS.flatMap((key) => (typeof keys[key] === "number" && keys[key] > 0 ? [set(keys, key, 0)] : []));
}

function blockPatches(source: Source, { blocks }: Part): ConfigPatch[] {
  const { edit, architecture, family } = source;
  const count = architecture.blocks.length;
  if (blocks.length === count) return [];
  const keys = keysOf(source);
  const refused = REFUSED.find((key) => keys[key] !== undefined && keys[key] !== null && keys[key] !== 0);
  if (refused !== undefined) {
    throw new ConfigError(
      "E_EDIT_CONFIG",
      `${family.name}: config.json has "${refused}", which goes by blocks in a way that is not known here.`,
      {
        details: { family: family.name, key: refused },
      },
    );
  }
  const numbers = new Map(blocks.map((block, index) => [block, index]));
  const before = (end: number): number => blocks.filter((block) => block < end).length;
  const patches = setCounts(source, edit.layers, blocks.length, "blocks");
  for (const key of BLOCK_LISTS) {
    const list = keys[key];
    if (Array.isArray(list) && list.length >= count)
      patches.push(
        set(
          keys,
          key,
          blocks.map((block) => list[block] as unknown),
        ),
      );
  }
  for (const key of NUMBER_LISTS) {
    const list = keys[key];
    if (Array.isArray(list))
      patches.push(
        set(
          keys,
          key,
          list.flatMap((block: number) => numbers.get(block) ?? []),
        ),
      );
  }
  for (const key of PREFIXES) {
    const value = keys[key];
    if (typeof value === "number") patches.push(set(keys, key, before(value)));
  }
  const [first, last] = [keys["moe_layer_start_index"], keys["moe_layer_end_index"]];
  if (typeof first === "number") patches.push(set(keys, "moe_layer_start_index", before(first)));
  if (typeof last === "number" && last >= 0) patches.push(set(keys, "moe_layer_end_index", before(last + 1) - 1));
  return patches;
}

/** Which blocks are mixtures, said outright. */
function explicitMixtures(source: Source, { blocks }: Part): ConfigPatch[] {
  const { mixtures } = source.edit;
  if (mixtures === undefined) return [];
  const keys = keysOf(source);
  const sparse = blocks.map((block) => source.architecture.blocks[block]?.experts !== undefined);
  const numbersOf = (isSparse: boolean): number[] => sparse.flatMap((is, index) => (is === isSparse ? [index] : []));
  const first = sparse.indexOf(true);
  const said: Readonly<Record<MixtureKeys, () => ConfigPatch[]>> = {
    mlp_only_layers: () => [set(keys, "mlp_only_layers", numbersOf(false)), set(keys, "decoder_sparse_step", 1)],
    first_k_dense_replace: () => [set(keys, "first_k_dense_replace", first === -1 ? blocks.length : first)],
    moe_layers: () => [set(keys, "moe_layers", numbersOf(true))],
    moe_layer_start_index: () => [
      set(keys, "moe_layer_start_index", first === -1 ? blocks.length : first),
      set(keys, "moe_layer_end_index", first === -1 ? -1 : sparse.lastIndexOf(true)),
      set(keys, "moe_layer_interval", 1),
    ],
  };
  return said[mixtures]();
}

/**
 * Lists with an entry for each block that is kept. Of what kind a block is, is seen from which value makes the family
 * describe it as it is.
 */
function explicitLists(source: Source, { blocks }: Part): ConfigPatch[] {
  const lists = Object.entries(source.edit.lists ?? {});
  const keys = keysOf(source);
  const count = source.architecture.blocks.length;
  const trials = combinations(lists).map((values) => {
    const patches = lists.map(([key], index) => set(keys, key, Array(count).fill(values[index])));
    return { values, described: describe(source, patches, source.tensors) };
  });
  const kinds = blocks.map((block) => {
    const { shapeKey } = source.architecture.blocks[block] as BlockSpec;
    return trials.find(({ described }) => described?.blocks[block]?.shapeKey === shapeKey)?.values;
  });
  if (kinds.includes(undefined)) return [];
  return lists.map(([key], index) =>
    set(
      keys,
      key,
      kinds.map((values) => values?.[index]),
    ),
  );
}

function combinations(lists: readonly (readonly [string, readonly (string | number)[]])[]): (string | number)[][] {
  return lists.reduce<(string | number)[][]>(
    (all, [, values]) => all.flatMap((chosen) => values.map((value) => [...chosen, value])),
    [[]],
  );
}

/** The tensors of the kept blocks under their new numbers, and all others; for descriptions of the part. */
export function renumberTensors(
  { blocks }: Architecture,
  kept: readonly number[],
  tensors: TensorCatalogue,
): TensorCatalogue {
  const rename = blockRenaming(blocks, kept);
  const renamed = <Info>(all: ReadonlyMap<string, Info>): ReadonlyMap<string, Info> =>
    new Map(
      [...all].flatMap(([name, info]) => (rename(name) === undefined ? [] : [[rename(name) as string, info] as const])),
    );
  const [own, packed] = [renamed(tensors.tensors), renamed(tensors.packed)];
  return { tensors: own, packed, has: (name) => own.has(name) || packed.has(name) };
}

/** The new name of a tensor of a kept block, or of none; undefined for those of blocks that go, and behind the decoder's. */
export function blockRenaming(
  blocks: readonly BlockSpec[],
  kept: readonly number[],
): (name: string) => string | undefined {
  const [first] = blocks;
  if (first === undefined) return (name) => name;
  const prefix = first.name.slice(0, first.name.lastIndexOf(".") + 1);
  const numbers = new Map(kept.map((block, index) => [String(block), index]));
  return (name) => {
    if (!name.startsWith(prefix)) return name;
    const [number = ""] = name.slice(prefix.length).split(".", 1);
    if (!/^\d+$/.test(number)) return name;
    if (!numbers.has(number)) return undefined;
    return `${prefix}${lookUp(numbers, number)}${name.slice(prefix.length + number.length)}`;
  };
}
