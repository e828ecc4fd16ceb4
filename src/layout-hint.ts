/** Words about folders that hold a model in another layout than the one that is read. */

/**
 * What the names in a folder say it is, and what to do about it; undefined where they say nothing, or where a checkpoint in
 * the usual layout is there.
 */
export function layoutHint(names: readonly string[]): string | undefined {
  if (names.includes("model.safetensors") || names.includes("model.safetensors.index.json")) return undefined;
  const printable = names.filter((name) => /^[\w .+-]{1,100}$/.test(name)).sort();
  const find = (pattern: RegExp): string | undefined => {
    const name = printable.find((candidate) => pattern.test(candidate));
    return name === undefined ? undefined : `"${name}"`;
  };
  const adapter = find(/^adapter_(?:config\.json|model\.(?:safetensors|bin))$/i);
  if (adapter !== undefined)
    return `${adapter} is there: a LoRA adapter, not a model. Merge it into its base model first (peft: merge_and_unload, then save_pretrained).`;
  const consolidated = find(/^consolidated(?:[-.].*)?\.(?:safetensors|pth)$/i);
  if (consolidated !== undefined)
    return `${consolidated} is there: the layout of the model's makers, with other tensor names. Download the model-*.safetensors files of the same repository, or convert it with transformers.`;
  const variant = find(/^model\.(?:safetensors\.index\.)?[\w-]+\.(?:safetensors|json)$/i);
  if (variant !== undefined)
    return `${variant} is there, a variant under another name: rename or link it to ${variant.includes("index") ? "model.safetensors.index.json" : "model.safetensors"}.`;
  const shard = find(/-\d+-of-\d+\.safetensors$/i);
  if (shard !== undefined)
    return `${shard} is there, but model.safetensors.index.json, which lists the shards, is missing.`;
  const single = find(/\.safetensors$/i);
  if (single !== undefined)
    return `${single} is there: if it holds the whole model in the Hugging Face layout, rename or link it to model.safetensors; if it is one of several, model.safetensors.index.json, which lists the shards, is missing.`;
  const gguf = find(/\.(?:gguf|ggml)$/i);
  if (gguf !== undefined)
    return `Only ${gguf} is there: convert the original checkpoint to safetensors, files of llama.cpp are for inference.`;
  const other = find(/\.(?:bin|pt|pth|ckpt|h5|msgpack|onnx)$/i);
  if (other !== undefined)
    return `Only ${other} is there: convert the checkpoint to safetensors first (transformers: save_pretrained).`;
  return undefined;
}
