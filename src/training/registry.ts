/** The training steps by name. Adding one is a line here. */
import { reconstruct } from "./reconstruct.js";
import type { Trainer } from "./trainer.js";

const ALL: readonly Trainer<unknown>[] = [reconstruct];

export const TRAINERS: ReadonlyMap<string, Trainer<unknown>> = new Map(ALL.map((trainer) => [trainer.name, trainer]));
