/**
 * What may come next on a command line: `prune __complete SHELL WORD…`, asked by the scripts that `prune completion` prints. The last
 * word is the one under the cursor.
 */
import { ALLOCATION_RULES } from "../options/library.js";
import { COMMON_FLAGS, type CommandSpec, type Flag } from "./command.js";

export const SHELLS = ["bash", "zsh", "fish"] as const;
export type Shell = (typeof SHELLS)[number];

export interface Completion {
  readonly value: string;
  readonly help: string;
}

/** Names that are known only once the methods are loaded. */
export interface Names {
  readonly methods: readonly Completion[];
  readonly steps: readonly Completion[];
  readonly families: readonly Completion[];
  readonly recipes: readonly Completion[];
}

const PATTERNS = ["unstructured", "2:4", "4:8", "1:4", "8:16"];

/** Nothing where files are meant: the shell knows those. */
export function completionsOf(
  words: readonly string[],
  commands: readonly CommandSpec[],
  names: () => Names,
): readonly Completion[] {
  const before = words.slice(0, -1);
  const current = words.at(-1) ?? "";
  const named = commands.find(({ name }) => before.includes(name));
  const command = named ?? commands.find(({ isDefault }) => isDefault === true);
  const flags = [...(command?.flags ?? []), ...COMMON_FLAGS];
  const starting = (all: readonly Completion[], typed = current): Completion[] =>
    all.filter(({ value }) => value.startsWith(typed));

  const asked = askedFlag(before, flags);
  if (asked !== undefined && !current.startsWith("-")) {
    const values = valuesOf(asked, names);
    // A list goes on behind its last comma.
    const done = /<list>/.test(asked.spelling) ? current.slice(0, current.lastIndexOf(",") + 1) : "";
    return starting(values, current.slice(done.length)).map(({ value, help }) => ({ value: done + value, help }));
  }
  if (current.startsWith("-")) return starting(flags.map((flag) => ({ value: longOf(flag), help: flag.help })));
  const all = commands.map(({ name, description }) => ({ value: name, help: description }));
  if (before[0] === "help") return starting(all);
  if (named?.name === "methods") return starting([...names().methods, ...names().steps, ...plain(ALLOCATION_RULES)]);
  if (named?.name === "completion") return starting(plain(SHELLS));
  if (before.length > 0) return [];
  return starting([...all, { value: "help", help: "show help" }]);
}

function plain(values: readonly string[]): Completion[] {
  return values.map((value) => ({ value, help: "" }));
}

function longOf({ spelling }: Flag): string {
  return /--[\w-]+/.exec(spelling)?.[0] ?? spelling;
}

/** The flag whose value the next word is; one that takes several takes all words up to the next flag. */
function askedFlag(before: readonly string[], flags: readonly Flag[]): Flag | undefined {
  const place = before.findLastIndex((word) => word.startsWith("-"));
  const flag = flags.find((each) => longOf(each) === before[place]);
  if (flag === undefined || !flag.spelling.includes("<")) return undefined;
  return place === before.length - 1 || flag.spelling.includes("...") ? flag : undefined;
}

function valuesOf(flag: Flag, names: () => Names): readonly Completion[] {
  if (flag.values !== undefined) return plain(flag.values);
  switch (longOf(flag)) {
    case "--method":
      return [...names().methods, { value: "auto", help: "the best combination known" }];
    case "--init":
    case "--methods":
      return names().methods;
    case "--then":
      return names().steps;
    case "--allocation":
      return plain(ALLOCATION_RULES);
    case "--pattern":
    case "--patterns":
      return plain(PATTERNS);
    case "--family":
      return names().families;
    case "--recipe":
      return names().recipes;
    default:
      return [];
  }
}

/** One completion a line, as the shell's script reads it. */
export function linesFor(shell: Shell, completions: readonly Completion[]): string {
  const line = ({ value, help }: Completion): string => {
    if (shell === "bash") return value;
    if (shell === "fish") return `${value}\t${help}`;
    return `${value.replaceAll(":", "\\:")}${help === "" ? "" : `:${help}`}`;
  };
  return completions.map((each) => `${line(each)}\n`).join("");
}

/** What a shell reads at its start. */
export function scriptFor(shell: Shell): string {
  return SCRIPTS[shell];
}

const SCRIPTS: Readonly<Record<Shell, string>> = {
  // Bash cuts words at colons as well; the words of the line do not, so the part up to the last colon is taken off the replies.
  bash: `# eval "$(prune completion bash)"
_prune_complete() {
  local line="\${COMP_LINE:0:COMP_POINT}" words word IFS=$' \\t\\n'
  read -ra words <<< "$line"
  [[ "$line" == *[[:space:]] ]] && words+=("")
  word="\${words[\${#words[@]} - 1]}"
  IFS=$'\\n'
  COMPREPLY=($(prune __complete bash "\${words[@]:1}" 2>/dev/null))
  [[ "$word" == *:* ]] && COMPREPLY=("\${COMPREPLY[@]#"\${word%"\${word##*:}"}"}")
}
complete -o default -F _prune_complete prune
`,
  zsh: `#compdef prune
# eval "$(prune completion zsh)"
_prune() {
  local -a found
  found=("\${(@f)$(prune __complete zsh "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  if [[ -n "\${found[1]}" ]]; then _describe 'prune' found; else _files; fi
}
compdef _prune prune
`,
  fish: `# prune completion fish | source
function __prune_complete
  set -l words (commandline -opc)
  set -l found (prune __complete fish $words[2..] (commandline -ct) 2>/dev/null)
  if test (count $found) -gt 0
    printf '%s\\n' $found
  else
    __fish_complete_path (commandline -ct)
  end
end
complete -c prune -f -a '(__prune_complete)'
`,
};
