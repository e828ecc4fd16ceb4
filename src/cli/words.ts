/** What is typed → what commander understands: shapes of a command line that are common elsewhere. Pure. */

/** Switches that every command has; those with a value take the next word. */
const SWITCHES = new Set(["--json", "-q", "--quiet", "-v", "--verbose"]);
const WITH_VALUE = new Set(["--log-file", "--log-format"]);

/**
 * `--json eval …` is `eval --json …`; `-v` alone and `version` ask for the version.
 * @param commands names of commands
 */
export function normalizeWords(args: readonly string[], commands: readonly string[]): readonly string[] {
  if (args.length === 1 && (args[0] === "-v" || args[0] === "version")) return ["--version"];
  let front = 0;
  for (let word = args[0]; word !== undefined; word = args[front]) {
    if (SWITCHES.has(word) || /^--log-(?:file|format)=/.test(word)) front += 1;
    else if (WITH_VALUE.has(word)) front += 2;
    else break;
  }
  const command = args[front];
  if (front === 0 || command === undefined || !commands.includes(command)) return args;
  return [command, ...args.slice(0, front), ...args.slice(front + 1)];
}
