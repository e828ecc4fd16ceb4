/**
 * The command line's words: commands, options, help. Imports commander and nothing else, so that `--help` is fast;
 * what commands do is imported when one runs.
 */
import { type Command as CommandType, Command, Option } from "commander";

/** Options that every command has. */
export interface CommonFlags {
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly verbose?: boolean;
  readonly logFile?: string;
  readonly logFormat?: string;
}

export interface Handlers {
  run(flags: Readonly<Record<string, unknown>>): Promise<void>;
  evaluate(model: string, flags: Readonly<Record<string, unknown>>): Promise<void>;
  inspect(model: string, flags: Readonly<Record<string, unknown>>): Promise<void>;
  devices(flags: Readonly<Record<string, unknown>>): Promise<void>;
  families(flags: Readonly<Record<string, unknown>>): Promise<void>;
  compare(flags: Readonly<Record<string, unknown>>): Promise<void>;
  methods(flags: Readonly<Record<string, unknown>>): Promise<void>;
}

const RUN_EXAMPLES = `Examples:
  prune --model ./Llama-3.2-1B --method wanda --sparsity 0.7 --calibration c4.jsonl.gz --out ./Llama-0.7
  prune --model ./Llama-3.2-1B --method sparsegpt --pattern 2:4 --calibration ids.safetensors#calib
  prune --sparsity 70%                              the embedded demo model, nothing to download
  prune eval ./Llama-0.7 --text wiki.test.txt --seqlen 2048
`;

const EVAL_EXAMPLES = `Examples:
  prune eval ./Llama-0.7 --text wiki.test.txt --seqlen 2048
  prune eval ./Llama-0.7 --text ids.safetensors#test --json
`;

const INSPECT_EXAMPLES = `Examples:
  prune inspect ./Llama-0.7
  prune inspect ./Llama-0.7 --json | jq .sparsity
`;

const DEVICES_EXAMPLES = `Examples:
  prune devices
  prune devices --json
`;

const FAMILIES_EXAMPLES = `Examples:
  prune families
  prune families --json
`;

const COMPARE_EXAMPLES = `Examples:
  prune compare --methods magnitude,wanda,sparsegpt --sparsities 0.5,0.7
  prune compare --model ./Llama-3.2-1B --methods wanda,wanda+admm-update --calibration c4.jsonl.gz --text wiki.test.txt --csv
  prune compare --methods wanda --allocation uniform --allocation owl:M=3 --patterns unstructured --text wiki.test.txt
`;

const METHODS_EXAMPLES = `Examples:
  prune methods
  prune methods --json
`;

const FAMILY_HELP = "read it as this family (default: by config.json's model_type; `prune families` lists them)";

/** Build the commander tree. `onCommand` hears which command's options apply once it is known. */
export function buildProgram(version: string, handlers: Handlers): CommandType {
  const program = new Command("prune")
    .description("Prune large language models: Hugging Face safetensors in, sparse safetensors out.")
    .version(version, "-V, --version", "print the version")
    .helpOption("-h, --help", "show this help")
    .helpCommand(false)
    .showSuggestionAfterError(true);
  const run = addRun(program, handlers);
  addEval(program, handlers);
  addCompare(program, handlers);
  addInspect(program, handlers);
  addMethods(program, handlers);
  addDevices(program, handlers);
  addFamilies(program, handlers);
  // `prune -h` is where people look first, so it shows the options of the default command too.
  program
    .usage("[run] [options]\n       prune eval|compare|inspect|methods|families|devices [options]")
    .addHelpText("before", RUN_EXAMPLES)
    .configureHelp({
      visibleOptions: (command) => {
        const help = command.createHelp();
        delete (help as { visibleOptions?: unknown }).visibleOptions;
        const own = help.visibleOptions(command);
        return command === program
          ? [
              ...run
                .createHelp()
                .visibleOptions(run)
                .filter(({ long }) => long !== "--help"),
              ...own,
            ]
          : own;
      },
    });
  return program;
}

function addRun(program: CommandType, handlers: Handlers): CommandType {
  const run = program
    .command("run", { isDefault: true })
    .description("prune a checkpoint (the default command)")
    .addHelpText("before", RUN_EXAMPLES)
    .optionsGroup("What to prune:")
    .option("--model <dir>", "checkpoint directory (default: the embedded demo model)")
    .option("--family <name>", FAMILY_HELP)
    .option("--out <dir>", "output directory (default: <model>-<method>-<sparsity> beside the model)")
    .option("--force", "replace an output directory that exists")
    .option(
      "--ignore <pattern...>",
      'leave matching linears dense: globs on module paths, or "re:" and a regular expression',
    )
    .optionsGroup("How to prune:")
    .option("--recipe <file>", "take what is not given as a flag from a YAML file; see configs/ and docs/recipes.md")
    .option(
      "--method <name>",
      "what chooses the weights to remove, or auto for the best combination known; `prune methods` lists them (default: wanda)",
    )
    .option("--then <method...>", "steps that refine the choice or update the kept weights, in order")
    .option("--option <key=value...>", "options of the method, see docs/methods/")
    .option("--sparsity <fraction>", "fraction of zeros: 0.7 or 70%; an N:M pattern has its own")
    .option(
      "--pattern <shape>",
      "unstructured, or N:M: 2:4 keeps 2 of every 4 weights along the input dimension (default: unstructured)",
    )
    .option(
      "--permutation <what>",
      "with N:M, let input channels change places where the model computes the same function: none or channels (default: none)",
    )
    .option(
      "--allocation <rule>",
      "how the sparsity is spread over layers: uniform, owl, dlp, alphapruning, atp, er (or erk), lamp, global or evolutionary; options after a colon, owl:M=5,lambda=0.08; see docs/allocation.md (default: uniform)",
    )
    .option("--propagation <mode>", "what later linears see of the pruning: block, group or dense (default: block)")
    .option(
      "--reproduce <what>",
      "what layers are to reproduce: layer (their own dense outputs) or model (the dense model's, making up for what pruning did before them; its propagation is group unless said otherwise) (default: layer)",
    )
    .option(
      "--starved <treatment>",
      "experts that saw fewer tokens than a linear has inputs: all-tokens (statistics of all tokens), magnitude or skip (default: all-tokens)",
    )
    .option(
      "--damping <fractions>",
      "fraction of the mean diagonal added to a Gram matrix's diagonal, for methods that have one; sparsegpt and thanos try further ones after commas in turn where it is not enough (default: the method's)",
    )
    .option("--block-size <columns>", "sparsegpt, thanos: columns over which a mask is chosen at once (default: 128)")
    .optionsGroup("Calibration:")
    .option(
      "--calibration <file>",
      '.txt, .jsonl, .jsonl.gz with "text", or .safetensors[#tensor] of token ids (default: the model\'s calibration.txt)',
    )
    .option("--nsamples <count>", "calibration sequences (default: 128)")
    .option(
      "--seqlen <tokens>",
      "tokens per sequence (default: 2048, or the model's context or the rows of stored ids where shorter)",
    )
    .option("--seed <number>", "seed of the random windows (default: 0)")
    .optionsGroup("Running:")
    .option("--device <name>", "auto, cpu or webgpu (default: auto)")
    .option("--memory <size>", "RAM for hidden states, such as 4GB or 512MiB (default: half of the free memory)")
    .option("--measure-loss", "measure every layer's reconstruction error, whatever the method; needs calibration")
    .option("--dry-run", "say what would be done, and what it would cost, without doing it")
    .option("--resume", "go on with an interrupted run");
  addCommonOptions(run);
  return run.action((_flags, command: CommandType) => handlers.run(command.opts()));
}

function addEval(program: CommandType, handlers: Handlers): void {
  const evaluate = program
    .command("eval")
    .description("perplexity of a checkpoint")
    .argument("<model>", "checkpoint directory")
    .addHelpText("before", EVAL_EXAMPLES)
    .optionsGroup("Model:")
    .option("--family <name>", FAMILY_HELP)
    .optionsGroup("Text:")
    .option("--text <file>", ".txt, .jsonl, .jsonl.gz, or .safetensors[#tensor] of token ids")
    .option(
      "--seqlen <tokens>",
      "tokens per window (default: 2048, or the model's context or the rows of stored ids where shorter)",
    )
    .option("--max-windows <count>", "evaluate only the first windows")
    .option("--reference <model>", "compare with another checkpoint, usually the dense one: KL divergence, agreement");
  addCommonOptions(evaluate);
  evaluate.action((model: string, _flags, command: CommandType) => handlers.evaluate(model, command.opts()));
}

function addCompare(program: CommandType, handlers: Handlers): void {
  const compare = program
    .command("compare")
    .description("prune with several methods and targets and compare what is left of the model")
    .addHelpText("before", COMPARE_EXAMPLES)
    .optionsGroup("What to compare:")
    .option("--model <dir>", "checkpoint directory (default: the embedded demo model)")
    .option("--family <name>", FAMILY_HELP)
    .option("--methods <list>", "methods, steps joined by +, or auto (default: magnitude,wanda,sparsegpt)")
    .option("--sparsities <list>", "targets of unstructured cells (default: 0.5,0.6,0.7)")
    .option("--patterns <list>", "unstructured and N:M (default: unstructured,2:4)")
    .option(
      "--allocation <rule...>",
      "how unstructured cells spread the sparsity, each rule as in `prune run`: a further axis (default: uniform)",
    )
    .option("--ignore <pattern...>", "leave matching linears dense in every cell")
    .option("--propagation <mode>", "block, group or dense (default: block)")
    .option("--reproduce <what>", "layer or model, as in `prune run` (default: layer)")
    .optionsGroup("Data:")
    .option("--text <file>", "what perplexity is measured on: as in `prune eval` (default: the model's evaluation.txt)")
    .option("--max-windows <count>", "evaluate only the first windows")
    .option("--calibration <file>", "as in `prune run`")
    .option("--nsamples <count>", "calibration sequences (default: 128)")
    .option("--seqlen <tokens>", "tokens per sequence and per window")
    .option("--seed <number>", "seed of the random windows (default: 0)")
    .optionsGroup("Running:")
    .option("--device <name>", "auto, cpu or webgpu (default: auto)")
    .option("--memory <size>", "RAM for hidden states of a run")
    .option("--work <dir>", "where finished cells are noted (default: <model>-compare)")
    .option("--resume", "go on with an interrupted comparison");
  addCommonOptions(compare);
  compare.option("--csv", "print the rows as CSV");
  compare.action((_flags, command: CommandType) => handlers.compare(command.opts()));
}

function addMethods(program: CommandType, handlers: Handlers): void {
  const methods = program
    .command("methods")
    .description("methods and steps: what each does and what it looks at")
    .addHelpText("before", METHODS_EXAMPLES);
  addCommonOptions(methods);
  methods.action((_flags, command: CommandType) => handlers.methods(command.opts()));
}

function addInspect(program: CommandType, handlers: Handlers): void {
  const inspect = program
    .command("inspect")
    .description("zeros per tensor and in total, and which N:M patterns hold")
    .argument("<model>", "checkpoint directory")
    .addHelpText("before", INSPECT_EXAMPLES)
    .optionsGroup("Model:")
    .option("--family <name>", FAMILY_HELP);
  addCommonOptions(inspect);
  inspect.action((model: string, _flags, command: CommandType) => handlers.inspect(model, command.opts()));
}

function addDevices(program: CommandType, handlers: Handlers): void {
  const devices = program
    .command("devices")
    .description("adapters, limits, and the device that auto would take")
    .addHelpText("before", DEVICES_EXAMPLES);
  addCommonOptions(devices);
  devices.action((_flags, command: CommandType) => handlers.devices(command.opts()));
}

function addFamilies(program: CommandType, handlers: Handlers): void {
  const families = program
    .command("families")
    .description("families of models: their model types, what each exercises, what of it is pruned")
    .addHelpText("before", FAMILIES_EXAMPLES);
  addCommonOptions(families);
  families.action((_flags, command: CommandType) => handlers.families(command.opts()));
}

function addCommonOptions(command: CommandType): void {
  command
    .optionsGroup("Output:")
    .option("--json", "print one JSON document on stdout")
    .option("-q, --quiet", "no progress, only warnings and errors")
    .option("-v, --verbose", "debug messages, and stacks of errors")
    .option("--log-file <file>", "also append log lines as JSON to a file")
    .addOption(
      new Option(
        "--log-format <format>",
        "log lines on stderr (default: pretty on a terminal, json elsewhere)",
      ).choices(["pretty", "json"]),
    )
    .optionsGroup("Options:")
    .helpOption("-h, --help", "show this help");
}
