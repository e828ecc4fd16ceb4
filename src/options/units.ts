/**
 * Numbers of options: fractions, sizes, counts, as texts of flags or as numbers of recipes and of callers. Each parser throws
 * a UsageError that names the flag.
 */
import { UsageError } from "../errors.js";

/** 0.7, "0.7" or "70%" → 0.7. A bare 70 is refused, because other tools differ in what it means. */
export function parseSparsity(given: string | number, flag = "--sparsity"): number {
  if (typeof given === "number" && given >= 0 && given < 1) return given;
  const text = String(given);
  const match = /^(\d+(?:\.\d*)?|\.\d+)(%?)$/.exec(text.trim());
  const hint = "Give the fraction of zeros: 0.7 or 70%.";
  const details = { value: given };
  if (match === null) {
    throw new UsageError("E_SPARSITY", `${flag}: "${text}" is not a number; expected a fraction or a percentage.`, {
      hint,
      details,
    });
  }
  const isPercent = match[2] === "%";
  const number = Number(match[1]);
  if (!isPercent && number > 1) {
    const percent = `${match[1]}%`;
    throw new UsageError(
      "E_SPARSITY",
      `${flag}: "${text}" is not a fraction below 1; for ${percent} write ${number / 100} or ${percent}.`,
      { hint, details },
    );
  }
  // 66.7 / 100 is not the double nearest to 0.667; twelve digits are more than anyone types.
  const fraction = isPercent ? Number((number / 100).toPrecision(12)) : number;
  if (fraction >= 1) {
    throw new UsageError("E_SPARSITY", `${flag}: "${text}" would leave no weights; expected at least 0 and below 1.`, {
      hint,
      details,
    });
  }
  return fraction;
}

const UNITS: Readonly<Record<string, number>> = {
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  tb: 1e12,
  kib: 2 ** 10,
  mib: 2 ** 20,
  gib: 2 ** 30,
  tib: 2 ** 40,
};

/** "4GB" → 4e9, "512MiB" → 2^29; a number counts bytes. */
export function parseSize(flag: string, given: string | number): number {
  if (typeof given === "number") return parseCount(flag, given, 1);
  const text = given;
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]+)$/i.exec(text.trim());
  const unit = match === null ? undefined : UNITS[(match[2] ?? "").toLowerCase()];
  if (match === null || unit === undefined) {
    throw new UsageError("E_SIZE", `${flag}: "${text}" is not a size; expected a number with a unit.`, {
      hint: "Write for example 4GB (10^9 bytes) or 512MiB (2^20 bytes).",
      details: { value: text },
    });
  }
  return Math.floor(Number(match[1]) * unit);
}

const DURATIONS: Readonly<Record<string, number>> = { s: 1, min: 60, m: 60, h: 3600 };

/** "90s", "10m", "1.5h" → seconds. */
export function parseDuration(flag: string, given: string | number): number {
  const text = String(given);
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]+)$/i.exec(text.trim());
  const unit = DURATIONS[(match?.[2] ?? "").toLowerCase()];
  const seconds = Number(match?.[1]) * (unit ?? NaN);
  if (seconds > 0) return seconds;
  throw new UsageError("E_DURATION", `${flag}: "${text}" is not a duration; expected a number with a unit.`, {
    hint: "Write for example 90s, 10m or 1.5h.",
    details: { value: given },
  });
}

/** A whole number of at least `least`, in decimal where it is a text. */
export function parseCount(flag: string, given: string | number, least: number): number {
  const value = typeof given === "number" || /^\d+$/.test(given.trim()) ? Number(given) : NaN;
  if (!Number.isSafeInteger(value) || value < least) {
    throw new UsageError("E_COUNT", `${flag}: "${given}" is not a whole number of at least ${least}.`, {
      details: { value: given, least },
    });
  }
  return value;
}

/** A finite number above zero. */
export function parseNumber(flag: string, given: string | number): number {
  const value = typeof given === "string" && given.trim() === "" ? NaN : Number(given);
  if (Number.isFinite(value)) return value;
  throw new UsageError("E_NUMBER", `${flag}: "${given}" is not a number.`, { details: { value: given } });
}

export function parsePositive(flag: string, given: string | number): number {
  const value = typeof given === "string" && given.trim() === "" ? NaN : Number(given);
  if (!Number.isFinite(value) || value <= 0) {
    throw new UsageError("E_NUMBER", `${flag}: "${given}" is not a number above 0.`, { details: { value: given } });
  }
  return value;
}

/** A number above zero and at most 1. */
export function parseProbability(flag: string, given: string | number): number {
  const value = typeof given === "string" && given.trim() === "" ? NaN : Number(given);
  if (value > 0 && value <= 1) return value;
  throw new UsageError("E_NUMBER", `${flag}: "${given}" is not a number above 0 and at most 1.`, {
    details: { value: given },
  });
}
