/** Calibration and evaluation text, and token ids. */
import { CalibrationError } from "../errors.js";
import { doorFor } from "./door.js";

export const { existsSync, open, readdirSync, readFileSync, readPieces, statSync } = doorFor({
  what: "calibration or evaluation text",
  Problem: CalibrationError,
  hint: "Name a file that is there and that this user may read.",
  fullHint: "Free some space.",
});
