/** Where models come from that are no directory: options that every command with a model has. */
import { option } from "./option.js";
import * as types from "./types.js";

const GROUP = "Hub";
/** By themselves they decide nothing: they become the directory of the model. */
const NOWHERE = { field: false, decides: "nothing", compare: "shared" } as const;

export const HUB_OPTIONS = {
  revision: option(types.text, {
    help: "of a model on the Hub: a branch, a tag or a commit",
    otherwise: "main",
    flag: { argument: "<name>", group: GROUP },
    ...NOWHERE,
  }),
  token: option(types.text, {
    help: "of the Hub, for gated and private models; better kept in HF_TOKEN, since a command line can be seen by others",
    otherwise: "HF_TOKEN, or what `hf auth login` left",
    flag: { argument: "<token>", group: GROUP },
    ...NOWHERE,
  }),
  offline: option(types.toggle, {
    help: "take models of the Hub from the cache, and ask nothing of the network",
    default: false,
    flag: { group: GROUP },
    ...NOWHERE,
  }),
} as const;
