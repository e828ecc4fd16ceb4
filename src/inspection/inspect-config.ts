/** `prune inspect --config`: what is taken for every key of config.json, and which of it the file does not say. */
import type { ConfigReport, InspectionConfig } from "../contract.js";
import { missingDefaults } from "../model/class-defaults.js";
import { readModelConfig } from "../model/config.js";
import { familyOf, findFamily } from "../model/families/registry.js";

export async function inspectConfig({ directory, family: name }: InspectionConfig): Promise<ConfigReport> {
  const config = await readModelConfig(directory);
  const { values, modelType } = config;
  const family = name === undefined ? familyOf(modelType) : findFamily(name);
  return {
    schema: "prune.config/v1",
    model: directory,
    modelType,
    family: family?.name ?? null,
    given: Object.fromEntries(values.keys().map((key) => [key, values.raw(key)])),
    defaults: missingDefaults(config, family),
  };
}
