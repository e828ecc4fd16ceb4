/**
 * argv → exit code: the only place that sets one. Parses the command line, runs a command, turns whatever it throws
 * into messages, and ends the process, which native addons would otherwise keep alive.
 */
import { CommanderError, type Command } from "commander";
import { EXIT_CODES, exitCodeOf } from "../errors.js";
import { VERSION } from "../version.js";
import { COMMANDS } from "./commands/index.js";
import { errorDocument, errorText, usageErrorOf } from "./failure.js";
import { buildProgram, type Act } from "./program.js";
import { exitQuietlyOnClosedPipe, writeFully } from "./streams.js";

const act: Act = async (command, said, common) => {
  const { openSession } = await import("./session.js");
  await command.act(said, await openSession(common));
};

/** @param args the words after the program's name */
export async function main(args: readonly string[]): Promise<never> {
  exitQuietlyOnClosedPipe();
  const code = await execute(args);
  await Promise.all([writeFully(process.stdout, ""), writeFully(process.stderr, "")]);
  process.exit(code);
}

async function execute(args: readonly string[]): Promise<number> {
  const program = buildProgram(VERSION, COMMANDS, act);
  try {
    for (const command of [program, ...program.commands]) throwInsteadOfExiting(command);
    await program.parseAsync([...args], { from: "user" });
    return EXIT_CODES.success;
  } catch (thrown) {
    if (thrown instanceof CommanderError && thrown.exitCode === 0) return EXIT_CODES.success; // --help, --version
    const error = thrown instanceof CommanderError ? explain(thrown, program) : thrown;
    if (args.includes("--json")) await writeFully(process.stdout, `${JSON.stringify(errorDocument(error))}\n`);
    await writeFully(process.stderr, errorText(error, args.includes("-v") || args.includes("--verbose")));
    return exitCodeOf(error);
  }
}

function throwInsteadOfExiting(command: Command): void {
  command.exitOverride().configureOutput({ writeErr: () => undefined });
}

function explain(error: CommanderError, program: Command): Error {
  const names = program.commands.map((command) => command.name());
  const operands = program.commands.find((command) => command.name() === "run")?.args ?? [];
  return usageErrorOf(error.code, error.message, operands, names);
}
