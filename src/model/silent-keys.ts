/**
 * Keys of config.json that say nothing about what a language model computes: tokens, training, storage, the library. All
 * others may, and a family that does not know one may compute something else.
 */

const SILENT = new Set([
  // the file and the library
  ...["architectures", "auto_map", "dtype", "model_type", "tokenizer_class", "torch_dtype", "transformers_version"],
  ...["chunk_size_feed_forward", "finetuning_task", "language", "prefix", "pruned_heads", "task_specific_params"],
  ...[
    "is_decoder",
    "is_encoder_decoder",
    "tie_encoder_decoder",
    "torchscript",
    "return_dict",
    "use_cache",
    "vocab_file",
  ],
  ...[
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "use_return_dict",
    "keys_to_ignore_at_inference",
  ],
  // generation, and how long its texts may be
  ...["do_sample", "max_length", "max_new_tokens", "min_length", "model_max_length", "n_ctx", "num_beams"],
  ...["repetition_penalty", "temperature", "top_k", "top_p"],
  // roundings
  ...["attention_softmax_in_fp32", "reorder_and_upcast_attn", "scale_attention_softmax_in_fp32", "slow_but_exact"],
  // classifiers on top of the model
  ...["classifier_dropout", "id2label", "label2id", "num_labels", "problem_type"],
  // training
  ...[
    "aux_loss_alpha",
    "ep_size",
    "gradient_checkpointing",
    "initializer_factor",
    "init_std",
    "initializer_range",
    "layerdrop",
  ],
  ...[
    "input_jitter_noise",
    "router_jitter_noise",
    "pretraining_tp",
    "router_aux_loss_coef",
    "router_z_loss_coef",
    "seq_aux",
    "use_flash_attn",
    "z_loss_weight",
  ],
]);

/** Tokens by name, dropout of any kind, what only classifiers read, and private notes of a library. */
const SILENT_PATTERNS = [/_token_ids?$/, /(^|_)dropout(_prob|_rate)?$/, /_pdrop$/, /^summary_/, /^_/];

export function saysNothing(key: string): boolean {
  return SILENT.has(key) || SILENT_PATTERNS.some((pattern) => pattern.test(key));
}
