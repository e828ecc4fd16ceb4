/**
 * How a family's config.json says a part of a model: which keys hold numbers of blocks, experts and channels, and which
 * lists may say block by block what is else a rule by position. How they are written is config-edit.ts's business.
 */

/** How the config says which blocks are mixtures, where not all are. */
export type MixtureKeys = "mlp_only_layers" | "first_k_dense_replace" | "moe_layers" | "moe_layer_start_index";

export interface FamilyEdit {
  /** Names of the number of blocks; the first is written where the file has none of them. As for all further keys. */
  readonly layers: readonly string[];
  /** Of the inner width of dense MLPs. Absent: it cannot be said. */
  readonly width?: readonly string[];
  /** Of the number of routed experts. */
  readonly experts?: readonly string[];
  /**
   * Lists with an entry for each block, and the values that tell kinds of blocks apart: written where the family's rule by
   * position gives other blocks than there are.
   */
  readonly lists?: Readonly<Record<string, readonly (string | number)[]>>;
  readonly mixtures?: MixtureKeys;
}

/** Of llama's layout. */
export const DECODER_EDIT: FamilyEdit = {
  layers: ["num_hidden_layers"],
  width: ["intermediate_size"],
  lists: { layer_types: ["full_attention", "sliding_attention"] },
};

/** Without dense MLPs: what is called their width is the experts'. */
export function mixtureEdit(experts: readonly string[], changes: Partial<FamilyEdit> = {}): FamilyEdit {
  const { width: _, ...decoder } = DECODER_EDIT;
  return { ...decoder, experts, ...changes };
}
