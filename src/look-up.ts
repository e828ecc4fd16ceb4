/** The entry of a map that must be there. */
import { InternalError } from "./errors.js";

/** @throws InternalError E_LOOK_UP where there is none */
export function lookUp<Key, Item>(map: ReadonlyMap<Key, Item>, key: Key): Item {
  const item = map.get(key);
  if (item === undefined) throw new InternalError("E_LOOK_UP", `no entry "${String(key)}"`);
  return item;
}
