/** Every method is handed the weight that makes up for what pruning did before; see solvers/reproduce-model.ts. */
import type { Device } from "../../device/device.js";
import { REPRODUCE_MODEL } from "../../solvers/reproduce-model.js";
import type { BlockTransform } from "./transform.js";

export function reproduceModel(device: Device): BlockTransform {
  return { name: "reproduce model", retarget: (problem) => REPRODUCE_MODEL.retarget(problem, device) };
}
