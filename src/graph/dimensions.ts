/**
 * Sizes of a graph's values. A size is a number, or a product of symbols that only a run gives a value: "tokens",
 * "batch*tokens", "4*batch*tokens". Products are kept in one form (the number first, then symbols in order), so two
 * sizes are equal for every run exactly where they are `===`.
 */
import { InternalError } from "../errors.js";

export type Dim = number | string;

export type Shape = readonly Dim[];

/** What a run gives symbols, and products of them, for values. */
export type Bindings = Map<string, number>;

interface Monomial {
  readonly factor: number;
  readonly symbols: readonly string[];
}

function parse(dim: Dim): Monomial {
  if (typeof dim === "number") return { factor: dim, symbols: [] };
  const parts = dim.split("*");
  const isNumber = (part: string): boolean => /^\d+$/.test(part);
  const factor = parts.filter(isNumber).reduce((product, part) => product * Number(part), 1);
  return { factor, symbols: parts.filter((part) => !isNumber(part)) };
}

function format({ factor, symbols }: Monomial): Dim {
  if (factor === 0 || symbols.length === 0) return factor;
  return [...(factor === 1 ? [] : [factor]), ...symbols.toSorted()].join("*");
}

/** The product of sizes; 1 of none. */
export function product(...dims: readonly Dim[]): Dim {
  const parsed = dims.map(parse);
  return format({
    factor: parsed.reduce((factor, part) => factor * part.factor, 1),
    symbols: parsed.flatMap(({ symbols }) => symbols),
  });
}

/** dividend / divisor where that is a size for every run, else undefined. */
export function quotient(dividend: Dim, divisor: Dim): Dim | undefined {
  const [above, below] = [parse(dividend), parse(divisor)];
  if (below.factor === 0 || above.factor % below.factor !== 0) return undefined;
  const symbols = [...above.symbols];
  for (const symbol of below.symbols) {
    const at = symbols.indexOf(symbol);
    if (at < 0) return undefined;
    symbols.splice(at, 1);
  }
  return format({ factor: above.factor / below.factor, symbols });
}

export function symbolsOf(dim: Dim): readonly string[] {
  return parse(dim).symbols;
}

export function isSameShape(a: Shape, b: Shape): boolean {
  return a.length === b.length && a.every((dim, axis) => dim === b[axis]);
}

/** A size with some symbols replaced. */
export function substitute(dim: Dim, replacements: ReadonlyMap<string, Dim>): Dim {
  const { factor, symbols } = parse(dim);
  return product(factor, ...symbols.map((symbol) => replacements.get(symbol) ?? symbol));
}

/** The size in a run, or undefined where it depends on a symbol that has no value yet. */
export function evaluate(dim: Dim, bindings: ReadonlyMap<string, number>): number | undefined {
  if (typeof dim === "number") return dim;
  const { factor, symbols } = parse(dim);
  const whole = bindings.get(symbols.join("*"));
  if (whole !== undefined) return factor * whole;
  let value = factor;
  for (const symbol of symbols) {
    const known = bindings.get(symbol);
    if (known === undefined) return undefined;
    value *= known;
  }
  return value;
}

/**
 * Learn symbols from the sizes that a value has in a run; sizes known already must agree.
 * @throws InternalError E_SHAPE
 */
export function bindShape(label: string, shape: Shape, sizes: readonly number[], bindings: Bindings): void {
  const fits = (dim: Dim, size: number): boolean => {
    const known = evaluate(dim, bindings);
    if (known !== undefined || typeof dim === "number") return known === size;
    const { factor, symbols } = parse(dim);
    bindings.set(symbols.join("*"), size / factor);
    return Number.isInteger(size / factor);
  };
  if (shape.length === sizes.length && shape.every((dim, axis) => fits(dim, sizes[axis] ?? NaN))) return;
  throw new InternalError("E_SHAPE", `${label}: has shape [${sizes.join(", ")}]; expected [${shape.join(", ")}]`);
}
