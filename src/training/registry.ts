/** The training steps by name. Adding one is a line here. */
import { elsa } from "./elsa.js";
import { finetune } from "./finetune.js";
import { reconstruct } from "./reconstruct.js";
import { safe, safePlus } from "./safe.js";
import type { Trainer } from "./trainer.js";

const ALL: readonly Trainer<unknown>[] = [reconstruct, safe, safePlus, finetune, elsa];

export const TRAINERS: ReadonlyMap<string, Trainer<unknown>> = new Map(ALL.map((trainer) => [trainer.name, trainer]));
