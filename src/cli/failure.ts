/** An error as the user sees it: two lines on stderr, and a document on stdout where `--json` asked for one. */
import { nearestName } from "../nearest-name.js";
import { PruneError, ResourceError, serializeError, UsageError } from "../errors.js";
import { CLOSED } from "./streams.js";

/** `--json` of a failed command. */
export interface ErrorDocument {
  readonly schema: "prune.error/v1";
  readonly code: string;
  readonly message: string;
  readonly hint: string | null;
  readonly details: Readonly<Record<string, unknown>>;
}

export function errorDocument(error: unknown): ErrorDocument {
  const { code, message, hint, details } = serializeError(error);
  return { schema: "prune.error/v1", code, message, hint: hint ?? null, details };
}

/** @param withStack -v: also the stack, and the cause's */
export function errorText(error: unknown, withStack: boolean): string {
  const { message, hint, stack } = serializeError(error);
  const isKnown = error instanceof PruneError && error.name !== "InternalError";
  const advice =
    hint ??
    (isKnown ? undefined : "This is a defect of prune. Please report it, with the output of the same command and -v.");
  const lines = [`error: ${message}`];
  if (advice !== undefined) lines.push(`hint: ${advice}`);
  if (withStack && stack !== undefined) {
    lines.push(stack);
    if (error instanceof Error && error.cause instanceof Error)
      lines.push(`caused by: ${error.cause.stack ?? error.cause.message}`);
  }
  return `${lines.join("\n")}\n`;
}

/**
 * A report that stdout did not take.
 * @param where what there is of the result elsewhere
 */
export function reportLost(failure: string, where = ""): ResourceError {
  const reason = { [CLOSED]: "its reader has closed it", ENOSPC: "no space is left on the device" }[failure] ?? failure;
  return new ResourceError("E_REPORT", `the report could not be written to stdout: ${reason}${where}.`, {
    details: { cause: failure },
  });
}

/** A word where a command, or the model of a run, was expected. */
export function unknownCommand(word: string, commands: readonly string[]): UsageError {
  const name = nearestName(word, commands);
  const suggestion = name === undefined ? "" : ` Did you mean "${name}"?`;
  return new UsageError("E_COMMAND", `"${word}" is not a command, and no directory.${suggestion}`, {
    hint: `Commands: ${commands.join(", ")}. A model of the Hub is ORG/NAME or hf://NAME.`,
    details: { value: word, commands },
  });
}

/** What of a command line a refusal of commander is about. */
export interface Refused {
  /** Words without a flag of the default command. */
  readonly operands: readonly string[];
  readonly commands: readonly string[];
  /** Flags of the command that was asked for. */
  readonly flags: readonly string[];
}

/** What commander refuses, in this program's words. */
export function usageErrorOf(code: string, message: string, { operands, commands, flags }: Refused): UsageError {
  const [operand] = operands;
  if (code === "commander.excessArguments" && operand !== undefined && !/[/\\]/.test(operand))
    return unknownCommand(operand, commands);
  const text = message.replace(/^error: /, "").replace(/\n[^]*/, "");
  const unknown = code === "commander.unknownOption" ? /'(--[^'=]+)/.exec(text)?.[1] : undefined;
  const nearest = unknown === undefined ? undefined : nearestName(unknown, flags);
  return new UsageError("E_USAGE", text.endsWith(".") ? text : `${text}.`, {
    hint: nearest === undefined ? "`prune help` shows every option." : `Did you mean ${nearest}?`,
    details: { commander: code },
  });
}
