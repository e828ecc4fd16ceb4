/**
 * The command line's words, from the list of commands. Imports commander and tables of words, so that `--help` is fast; what
 * commands do is imported when one acts.
 */
import { Command, Option } from "commander";
import type { CommandSpec, Flag, Said } from "./command.js";
import type { CommonFlags } from "./session.js";

/** Do what a command was told. */
export type Act = (command: CommandSpec, said: Said, common: CommonFlags) => Promise<void>;

export function buildProgram(version: string, commands: readonly CommandSpec[], act: Act): Command {
  const program = new Command("prune")
    .description("Prune large language models: Hugging Face safetensors in, sparse safetensors out.")
    .version(version, "-V, --version", "print the version")
    .helpOption("-h, --help", "show this help")
    .helpCommand(false)
    .showSuggestionAfterError(true);
  const added = commands.map((spec) => [spec, addCommand(program, spec, act)] as const);
  const others = commands.flatMap(({ name, isDefault }) => (isDefault === true ? [] : [name]));
  program.usage(`[run] [options]\n       prune ${others.join("|")} [options]`);
  // `prune -h` is where people look first, so it shows the options of the default command too.
  for (const [spec, command] of added) if (spec.isDefault === true) showOptionsOf(program, spec, command);
  return program;
}

function showOptionsOf(program: Command, { examples }: CommandSpec, main: Command): void {
  program.addHelpText("before", examplesOf(examples)).configureHelp({
    visibleOptions: (command) => {
      const help = command.createHelp();
      delete (help as { visibleOptions?: unknown }).visibleOptions;
      const own = help.visibleOptions(command);
      if (command !== program) return own;
      const shown = main.createHelp().visibleOptions(main);
      return [...shown.filter(({ long }) => long !== "--help"), ...own];
    },
  });
}

function addCommand(program: Command, spec: CommandSpec, act: Act): Command {
  const { name, description, examples, isDefault = false, operand, flags } = spec;
  const command = program
    .command(name, { isDefault })
    .description(description)
    .addHelpText("before", examplesOf(examples));
  if (operand !== undefined) command.argument(`<${operand.name}>`, operand.help);
  const isOutput = ({ group }: Flag): boolean => group === "Output";
  addFlags(
    command,
    flags.filter((flag) => !isOutput(flag)),
  );
  addCommonFlags(command);
  addFlags(command, flags.filter(isOutput));
  command.optionsGroup("Options:").helpOption("-h, --help", "show this help");
  return command.action(() => {
    const { json, quiet, verbose, logFile, logFormat, ...own } = command.opts();
    const said = operand === undefined ? own : { ...own, [operand.name]: command.args[0] };
    return act(spec, said, { json, quiet, verbose, logFile, logFormat });
  });
}

function examplesOf(lines: readonly string[]): string {
  return `Examples:\n${lines.map((line) => `  ${line}\n`).join("")}`;
}

function addFlags(command: Command, flags: readonly Flag[]): void {
  for (const { group, spelling, help } of flags) command.optionsGroup(`${group}:`).option(spelling, help);
}

function addCommonFlags(command: Command): void {
  command
    .optionsGroup("Output:")
    .option("--json", "print one JSON document on stdout")
    .option("-q, --quiet", "no progress, only warnings and errors")
    .option("-v, --verbose", "debug messages, and stacks of errors")
    .option("--log-file <file>", "also append log lines as JSON to a file")
    .addOption(
      new Option("--log-format <format>", "log lines on stderr (default: pretty)").choices(["pretty", "json"]),
    );
}
