/**
 * Every error class of the program. A subclass exists only where callers react differently;
 * what exactly went wrong is in `code`, what to do about it in `hint`, the numbers in `details`.
 * Only `src/cli/main.ts` turns an error into an exit code, by the table below.
 */

export interface PruneErrorOptions {
  /** What the reader can do about it, one or two sentences. */
  readonly hint?: string;
  /** Machine-readable values: file, tensor, value, limit. */
  readonly details?: Readonly<Record<string, unknown>>;
  readonly cause?: unknown;
}

export class PruneError extends Error {
  readonly code: string;
  readonly hint: string | undefined;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: string, message: string, options: PruneErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = new.target.name;
    this.code = code;
    this.hint = options.hint;
    this.details = options.details ?? {};
  }
}

/** A flag or argument that cannot be taken. */
export class UsageError extends PruneError {}
/** Options that are well-formed but do not fit each other or the model. */
export class ConfigError extends PruneError {}
/** A result that does not keep the limits it was given; the result is there. */
export class GateError extends PruneError {}
/** A checkpoint that is missing, malformed, or contradicts its configuration. */
export class CheckpointError extends PruneError {}
/** Calibration or evaluation text that cannot be used. */
export class CalibrationError extends PruneError {}
/** No adapter, lost device, out of device memory. */
export class DeviceError extends PruneError {}
/** Full disk, out of memory. */
export class ResourceError extends PruneError {}
/** A server that cannot be reached, refuses, or sends something else than it said. */
export class NetworkError extends PruneError {}
/** A factorisation that fails, non-finite activations. */
export class NumericalError extends PruneError {}
/** The run was asked to stop; `details.resumable` says whether `--resume` can go on. */
export class InterruptedError extends PruneError {}
/** A broken invariant of this program: please report. */
export class InternalError extends PruneError {}

/** Exit codes: documented and stable. */
export const EXIT_CODES = {
  success: 0,
  internal: 1,
  usage: 2,
  gate: 3,
  input: 4,
  resources: 5,
  network: 6,
  interruptedResumable: 75,
  sigint: 130,
  sigterm: 143,
} as const;

/** What went wrong first, where closing what was open failed as well. */
export function firstError(error: unknown): unknown {
  const isLater = error instanceof Error && error.name === "SuppressedError" && "suppressed" in error;
  return isLater ? firstError(error.suppressed) : error;
}

/** The exit code of an error; anything that is not a `PruneError` is an internal one. */
export function exitCodeOf(thrown: unknown): number {
  const error = firstError(thrown);
  if (error instanceof UsageError || error instanceof ConfigError) return EXIT_CODES.usage;
  if (error instanceof GateError) return EXIT_CODES.gate;
  if (error instanceof CheckpointError || error instanceof CalibrationError || error instanceof NumericalError) {
    return EXIT_CODES.input;
  }
  if (error instanceof DeviceError || error instanceof ResourceError) return EXIT_CODES.resources;
  if (error instanceof NetworkError) return EXIT_CODES.network;
  if (error instanceof InterruptedError) {
    if (error.details["resumable"] === true) return EXIT_CODES.interruptedResumable;
    return error.details["signal"] === "SIGTERM" ? EXIT_CODES.sigterm : EXIT_CODES.sigint;
  }
  return EXIT_CODES.internal;
}

/** One problem as it is; several as one error of the first one's class, with all of them in the message. */
export function combineProblems(problems: readonly PruneError[]): PruneError {
  const [first] = problems;
  if (first === undefined) throw new RangeError("no problem to report");
  if (problems.length === 1) return first;
  const all = problems.flatMap(listed);
  const lines = all.map(({ message, hint }) => `  ${message}${hint === null ? "" : ` ${hint}`}`);
  const Class = first.constructor as typeof PruneError;
  return new Class(SEVERAL, `${all.length} problems:\n${lines.join("\n")}`, { details: { problems: all } });
}

const SEVERAL = "E_SEVERAL";

interface ListedProblem {
  readonly code: string;
  readonly message: string;
  readonly hint: string | null;
  readonly details: Readonly<Record<string, unknown>>;
}

/** The problem, or those that were combined into it. */
function listed({ code, message, hint, details }: PruneError): readonly ListedProblem[] {
  if (code === SEVERAL) return details["problems"] as readonly ListedProblem[];
  return [{ code, message, hint: hint ?? null, details }];
}

const CLASSES = {
  UsageError,
  ConfigError,
  GateError,
  CheckpointError,
  CalibrationError,
  DeviceError,
  ResourceError,
  NetworkError,
  NumericalError,
  InterruptedError,
  InternalError,
} as const;

/** The plain form in which an error crosses from the engine's thread to the main thread. */
export interface SerializedError {
  readonly className: string;
  readonly code: string;
  readonly message: string;
  readonly hint: string | undefined;
  readonly details: Readonly<Record<string, unknown>>;
  readonly stack: string | undefined;
}

export function serializeError(thrown: unknown): SerializedError {
  const error = firstError(thrown);
  if (error instanceof PruneError) {
    const { name, code, message, hint, details, stack } = error;
    return { className: name, code, message, hint, details, stack };
  }
  const cause = error instanceof Error ? error : new Error(String(error));
  return {
    className: "InternalError",
    code: "E_INTERNAL",
    message: cause.message,
    hint: undefined,
    details: {},
    stack: cause.stack,
  };
}

export function deserializeError(plain: SerializedError): PruneError {
  const Class = (CLASSES as Record<string, typeof PruneError | undefined>)[plain.className] ?? InternalError;
  const error = new Class(plain.code, plain.message, {
    ...(plain.hint === undefined ? {} : { hint: plain.hint }),
    details: plain.details,
  });
  if (plain.stack !== undefined) error.stack = plain.stack;
  return error;
}
