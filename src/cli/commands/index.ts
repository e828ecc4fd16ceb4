/** The commands, in the order of the help. */
import type { CommandSpec } from "../command.js";
import { applyMask } from "./apply-mask.js";
import { blocks } from "./blocks.js";
import { compare } from "./compare.js";
import { completion } from "./completion.js";
import { cut } from "./cut.js";
import { devices } from "./devices.js";
import { evaluate } from "./eval.js";
import { experts } from "./experts.js";
import { families } from "./families.js";
import { generateCalibration } from "./generate-calibration.js";
import { inspect } from "./inspect.js";
import { methods } from "./methods.js";
import { recipes } from "./recipes.js";
import { run } from "./run.js";
import { verify } from "./verify.js";
import { width } from "./width.js";

export const COMMANDS: readonly CommandSpec[] = [
  run,
  evaluate,
  compare,
  generateCalibration,
  blocks,
  experts,
  width,
  cut,
  verify,
  inspect,
  applyMask,
  methods,
  recipes,
  families,
  devices,
  completion,
];
