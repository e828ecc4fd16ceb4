/**
 * What operators do to a gradient on its way back. Every primitive through which one flows has an entry; a composite has
 * one where what it is made of would be slower or larger.
 */
import { COMPOSITE_PULLBACKS } from "./composite-pullbacks.js";
import { PRIMITIVE_PULLBACKS } from "./primitive-pullbacks.js";
import type { Pullbacks } from "./pullback.js";

export const PULLBACKS: Pullbacks = { ...PRIMITIVE_PULLBACKS, ...COMPOSITE_PULLBACKS };
