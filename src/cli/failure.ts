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

/** What commander refuses, in this program's words. `operands` are arguments that no command takes. */
export function usageErrorOf(
  code: string,
  message: string,
  operands: readonly string[],
  commands: readonly string[],
): UsageError {
  const text = message.replace(/^error: /, "");
  const [operand] = operands;
  if (code === "commander.excessArguments" && operand !== undefined && !commands.includes(operand)) {
    const name = nearestName(operand, commands);
    const suggestion = name === undefined ? "" : ` Did you mean "${name}"?`;
    return new UsageError("E_COMMAND", `"${operand}" is not a command.${suggestion}`, {
      hint: `Commands: ${commands.join(", ")}. A model directory is given with --model.`,
      details: { value: operand, commands },
    });
  }
  const [first = "", ...more] = text.split("\n");
  return new UsageError("E_USAGE", first.endsWith(".") ? first : `${first}.`, {
    hint: [...more, "prune --help shows every option."].join(" "),
    details: { commander: code },
  });
}
