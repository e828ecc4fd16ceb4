/**
 * argv → exit code: the only place that sets one. Parses the command line, runs a command, turns whatever it throws
 * into messages, and ends the process, which native addons would otherwise keep alive.
 */
import { CommanderError, type Command } from "commander";
import { EXIT_CODES, exitCodeOf, GateError } from "../errors.js";
import { VERSION } from "../version.js";
import { COMMANDS } from "./commands/index.js";
import { errorDocument, errorText, reportLost, unknownCommand, usageErrorOf } from "./failure.js";
import { buildProgram, namesOf, overview, type Act } from "./program.js";
import { CLOSED, stderr, stdout } from "./streams.js";
import { normalizeWords } from "./words.js";

const act: Act = async (command, said, common) => {
  const { openSession } = await import("./session.js");
  const session = await openSession(common);
  try {
    await command.act(said, session);
  } catch (error) {
    session.failed(error);
    throw error;
  }
};

/** @param args the words after the program's name */
export async function main(args: readonly string[]): Promise<never> {
  const code = await execute(args);
  process.exit(code === EXIT_CODES.success ? await endSuccessfully() : code);
}

/** Unless what was said, help for instance, did not arrive; that somebody stopped reading it is their choice. */
async function endSuccessfully(): Promise<number> {
  const failure = await stdout.flush();
  if (failure === undefined || failure === CLOSED) return EXIT_CODES.success;
  const error = reportLost(failure);
  stderr.write(errorText(error, false));
  await stderr.flush();
  return exitCodeOf(error);
}

async function execute(args: readonly string[]): Promise<number> {
  const program = buildProgram(VERSION, COMMANDS, act);
  const names = namesOf(program);
  try {
    if (args.length === 0) {
      stdout.write(overview(COMMANDS));
      return EXIT_CODES.success;
    }
    if (args[0] === "__complete") {
      const { completionsOf, linesFor, SHELLS } = await import("./completion.js");
      const { knownNames } = await import("./names.js");
      const shell = SHELLS.find((name) => name === args[1]) ?? "bash";
      stdout.write(linesFor(shell, completionsOf(args.slice(2), COMMANDS, knownNames)));
      return EXIT_CODES.success;
    }
    for (const command of [program, ...program.commands]) throwInsteadOfExiting(command);
    const [word, topic] = args;
    if (word === "help" && topic !== undefined && !names.includes(topic)) throw unknownCommand(topic, names);
    await program.parseAsync([...normalizeWords(args, names)], { from: "user" });
    return EXIT_CODES.success;
  } catch (thrown) {
    if (thrown instanceof CommanderError && thrown.exitCode === 0) return EXIT_CODES.success; // --help, --version
    const error = thrown instanceof CommanderError ? explain(thrown, program, args) : thrown;
    // Where limits are not kept the report is on stdout, and says so.
    if (args.includes("--json") && !(error instanceof GateError))
      stdout.write(`${JSON.stringify(errorDocument(error))}\n`);
    stderr.write(errorText(error, args.includes("-v") || args.includes("--verbose")));
    await Promise.all([stdout.flush(), stderr.flush()]);
    return exitCodeOf(error);
  }
}

function throwInsteadOfExiting(command: Command): void {
  command.exitOverride().configureOutput({ writeOut: (text) => stdout.write(text), writeErr: () => undefined });
}

function explain(error: CommanderError, program: Command, args: readonly string[]): Error {
  const commands = namesOf(program);
  const named = args.find((word) => commands.includes(word));
  const find = (name: string): Command | undefined => program.commands.find((command) => command.name() === name);
  const flags = [program, find(named ?? "run")].flatMap((command) => command?.options ?? []);
  return usageErrorOf(error.code, error.message, {
    operands: named === undefined ? (find("run")?.args ?? []) : [],
    commands,
    flags: flags.flatMap(({ long }) => long ?? []),
  });
}
