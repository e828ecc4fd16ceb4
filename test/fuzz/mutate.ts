/** Seeded mutations of inputs: of their bytes, and of JSON as a grammar, whose mistakes bytes alone seldom reach. */
import { createRandom } from "../reference/random.js";

/** Numbers at the bounds that readers have. */
const NUMBERS = [
  ...["0", "-0", "-1", "1", "2", "1.5", "1e999", "-1e999", "1e-400", "NaN", "Infinity", "-Infinity", "01", "1e3"],
  ...["127", "128", "255", "256", "65535", "65536", "2147483647", "2147483648", "4294967295", "4294967296"],
  ...[
    "9007199254740991",
    "9007199254740992",
    "18446744073709551615",
    "1000000",
    "100000000",
    "123456789012345678901234",
  ],
];

/** Names that objects of JavaScript have by themselves, and texts that mean something to a shell, a path or a terminal. */
const TEXTS = [
  ...["__proto__", "constructor", "prototype", "toString", "hasOwnProperty", "valueOf", "length", "__metadata__"],
  ...[
    "",
    " ",
    "..",
    "../x",
    "/dev/zero",
    "C:\\x",
    "a/b",
    "\u0000",
    "\u001b[2J",
    "\u202e",
    "\ufeff",
    "\ud800",
    "NaN",
    "null",
  ],
];

/** A JSON document in which a key may occur twice and a number may be any word. */
export type Tree =
  | { readonly kind: "object"; readonly entries: readonly (readonly [string, Tree])[] }
  | { readonly kind: "array"; readonly items: readonly Tree[] }
  | { readonly kind: "literal"; readonly text: string };

export class Mutator {
  readonly #random: () => number;
  /** Words that this kind of input is about. */
  readonly #words: readonly string[];

  constructor(seed: number, words: readonly string[]) {
    this.#random = createRandom(Math.imul(seed + 1, 0x9e3779b1));
    this.#words = words;
  }

  /** A whole number below `limit`. */
  below(limit: number): number {
    return Math.floor(this.#random() * limit);
  }

  pick<Item>(items: readonly Item[]): Item {
    return items[this.below(items.length)] as Item;
  }

  chance(share: number): boolean {
    return this.#random() < share;
  }

  /** One to four changes of bytes; `others` are cut into it. */
  bytes(input: Uint8Array, others: readonly Uint8Array[] = []): Uint8Array {
    let bytes = Buffer.from(input);
    for (let change = 1 + this.below(4); change > 0; change--) bytes = this.#changeBytes(bytes, others);
    return bytes;
  }

  #changeBytes(bytes: Buffer, others: readonly Uint8Array[]): Buffer<ArrayBuffer> {
    const at = this.below(bytes.length + 1);
    const length = this.below(Math.min(64, bytes.length - at + 1));
    const replaced = (...middle: Uint8Array[]): Buffer<ArrayBuffer> =>
      Buffer.concat([bytes.subarray(0, at), ...middle, bytes.subarray(at + length)]);
    const other = others.length === 0 ? bytes : this.pick(others);
    switch (this.below(8)) {
      case 0: {
        const changed = Buffer.from(bytes);
        if (at < changed.length) changed[at] = (changed[at] as number) ^ (1 << this.below(8));
        return changed;
      }
      case 1: {
        const changed = Buffer.from(bytes);
        if (at < changed.length) changed[at] = this.pick([0, 1, 0x22, 0x5c, 0x7b, 0x7d, 0x7f, 0x80, 0xc0, 0xff]);
        return changed;
      }
      case 2:
        return replaced();
      case 3:
        return replaced(bytes.subarray(at, at + length), bytes.subarray(at, at + length));
      case 4:
        return replaced(Buffer.from(this.text()));
      case 5:
        return Buffer.from(bytes.subarray(0, at));
      case 6:
        return Buffer.concat([bytes.subarray(0, at), other.subarray(this.below(other.length + 1))]);
      default:
        return replaced(Buffer.from(Array.from({ length: this.below(16) }, () => this.below(256))));
    }
  }

  /** A word. */
  text(): string {
    const all = this.chance(0.5) && this.#words.length > 0 ? this.#words : this.chance(0.5) ? TEXTS : NUMBERS;
    return this.pick(all);
  }

  /** One to three changes of a document. */
  json(document: Tree): Tree {
    let tree = document;
    for (let change = 1 + this.below(3); change > 0; change--) tree = this.#changeAt(tree, this.below(sizeOf(tree)));
    return tree;
  }

  /** @param index of the node to change, counted as `sizeOf` counts */
  #changeAt(tree: Tree, index: number): Tree {
    if (index === 0) return this.#change(tree);
    let rest = index - 1;
    const within = (child: Tree): Tree => {
      const size = sizeOf(child);
      const changed = rest >= 0 && rest < size ? this.#changeAt(child, rest) : child;
      rest -= size;
      return changed;
    };
    if (tree.kind === "array") return { kind: "array", items: tree.items.map(within) };
    if (tree.kind === "object")
      return { kind: "object", entries: tree.entries.map(([key, child]) => [key, within(child)] as const) };
    return tree;
  }

  #change(tree: Tree): Tree {
    if (tree.kind === "object" && this.chance(0.8)) {
      const entries = [...tree.entries];
      const at = this.below(entries.length);
      const entry = entries[at] ?? ["x", tree];
      const choice = this.below(5);
      if (choice === 0) entries.splice(at, 1);
      else if (choice === 1) entries.push([this.text(), entry[1]]);
      else if (choice === 2) entries.push([entry[0], this.value()]);
      else if (choice === 3) entries[at] = [this.text(), entry[1]];
      else entries[at] = [entry[0], this.value()];
      return { kind: "object", entries };
    }
    if (tree.kind === "array" && this.chance(0.8)) {
      const items = [...tree.items];
      const at = this.below(items.length);
      const choice = this.below(4);
      if (choice === 0) items.splice(at, 1);
      else if (choice === 1) items.push(this.value());
      else if (choice === 2) items.splice(at, 0, ...items.slice(at, at + 2));
      else items[at] = this.value();
      return { kind: "array", items };
    }
    return this.value();
  }

  /** Any value: mostly a number or a word. */
  value(): Tree {
    const choice = this.below(12);
    if (choice < 5) return { kind: "literal", text: this.pick(NUMBERS) };
    if (choice < 8) return { kind: "literal", text: JSON.stringify(this.text()) };
    if (choice < 10) return { kind: "literal", text: this.pick(["null", "true", "false", "{}", "[]", '""']) };
    if (choice === 10) return { kind: "array", items: Array.from({ length: this.below(4) }, () => this.value()) };
    if (this.chance(0.1)) {
      const depth = this.pick([17, 100, 5000]);
      return { kind: "literal", text: "[".repeat(depth) + "]".repeat(depth) };
    }
    return {
      kind: "object",
      entries: Array.from({ length: this.below(3) }, () => [this.text(), this.value()] as const),
    };
  }
}

/** Nodes of a document. */
function sizeOf(tree: Tree): number {
  if (tree.kind === "array") return tree.items.reduce((sum, item) => sum + sizeOf(item), 1);
  if (tree.kind === "object") return tree.entries.reduce((sum, [, child]) => sum + sizeOf(child), 1);
  return 1;
}

/** A plain value as a document. */
export function treeOf(value: unknown): Tree {
  if (Array.isArray(value)) return { kind: "array", items: value.map(treeOf) };
  if (typeof value === "object" && value !== null)
    return { kind: "object", entries: Object.entries(value).map(([key, child]) => [key, treeOf(child)] as const) };
  return { kind: "literal", text: JSON.stringify(value) };
}

/** A document as text. */
export function textOf(tree: Tree): string {
  if (tree.kind === "array") return `[${tree.items.map(textOf).join(",")}]`;
  if (tree.kind === "object")
    return `{${tree.entries.map(([key, child]) => `${JSON.stringify(key)}:${textOf(child)}`).join(",")}}`;
  return tree.text;
}
