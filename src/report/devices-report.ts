/** What `prune devices` tells. */
import type { AdapterSummary } from "../device/webgpu/adapter.js";

/** `--json` of `prune devices`. */
export interface DevicesReport {
  readonly schema: "prune.devices/v1";
  readonly adapters: readonly AdapterSummary[];
  readonly auto: { readonly device: "cpu" | "webgpu"; readonly reason: string };
  readonly cpu: { readonly model: string; readonly threads: number };
  readonly onnxruntime: { readonly version: string; readonly providers: readonly string[] };
}
