/**
 * The command line's words, from the list of commands. Imports commander and tables of words, so that `--help` is fast; what
 * commands do is imported when one acts.
 */
import { Command, Option } from "commander";
import { UsageError } from "../errors.js";
import { existsSync } from "../files/request-files.js";
import { COMMON_FLAGS, type CommandSpec, type Flag, type Said } from "./command.js";
import { unknownCommand } from "./failure.js";
import type { CommonFlags } from "./session.js";

/** Do what a command was told. */
export type Act = (command: CommandSpec, said: Said, common: CommonFlags) => Promise<void>;

export function buildProgram(version: string, commands: readonly CommandSpec[], act: Act): Command {
  const program = new Command("prune")
    .description("Prune large language models: Hugging Face safetensors in, sparse safetensors out.")
    .version(version, "-V, --version", "print the version")
    .helpOption("-h, --help", "show this help")
    .helpCommand("help [command]", "show this help, or that of a command")
    .showSuggestionAfterError(false);
  const added = commands.map((spec) => [spec, addCommand(program, spec, act)] as const);
  const others = commands.flatMap(({ name, isDefault }) => (isDefault === true ? [] : [name]));
  program.usage(`[run] [model] [options]\n       prune ${others.join("|")} [options]`);
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
  if (operand !== undefined) command.argument(`[${operand.name}]`, operand.help);
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
    const [word] = command.args;
    const isNamed = program.args[0] === name;
    if (isDefault && !isNamed && word !== undefined) expectModel(word, program);
    return act(spec, withOperand(own, operand?.name, word), { json, quiet, verbose, logFile, logFormat });
  });
}

/** @throws UsageError E_MODEL_TWICE where a flag says another word */
function withOperand(own: Said, name: string | undefined, word: string | undefined): Said {
  if (name === undefined || word === undefined) return own;
  const flagged = own[name];
  if (flagged === undefined || flagged === word) return { ...own, [name]: word };
  throw new UsageError("E_MODEL_TWICE", `--${name} ${String(flagged)}: ${word} is named as well.`, {
    hint: "Name one.",
    details: { values: [flagged, word] },
  });
}

/** A first word that is neither a command nor a model is a mistyped command. */
function expectModel(word: string, program: Command): void {
  if (/[/\\]/.test(word) || existsSync(word)) return;
  throw unknownCommand(word, namesOf(program));
}

export function namesOf(program: Command): string[] {
  return program.commands.map((command) => command.name());
}

/** What `prune` alone says. */
export function overview(commands: readonly CommandSpec[]): string {
  const width = Math.max(...commands.map(({ name }) => name.length)) + 2;
  return `Prune large language models: Hugging Face safetensors in, sparse safetensors out.

${examplesOf([
  "prune --sparsity 0.5                        the embedded demo model, no download",
  "prune meta-llama/Llama-3.2-1B --sparsity 0.5 --calibration c4.jsonl.gz",
  "prune ./Llama-3.2-1B --recipe sparsegpt-2of4 --calibration c4.jsonl.gz --dry-run",
  "prune eval ./Llama-3.2-1B-wanda-0.5 --text wiki.test.txt",
])}
Commands:
${commands.map(({ name, description }) => `  ${name.padEnd(width)}${description}\n`).join("")}
\`prune help\` shows every option, \`prune help COMMAND\` those of a command.
`;
}

function examplesOf(lines: readonly string[]): string {
  return `Examples:\n${lines.map((line) => `  ${line}\n`).join("")}`;
}

function addFlags(command: Command, flags: readonly Flag[]): void {
  for (const { group, spelling, help } of flags) command.optionsGroup(`${group}:`).option(spelling, help);
}

/** Their few words are checked here, since no table of options reads them. */
function addCommonFlags(command: Command): void {
  command.optionsGroup("Output:");
  for (const { spelling, help, values } of COMMON_FLAGS) {
    const option = new Option(spelling, help);
    command.addOption(values === undefined ? option : option.choices(values));
  }
}
