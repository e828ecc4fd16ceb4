// `npm run demo`: installs and builds what is missing, prunes the embedded demo model with wanda at 0.7 and prints what
// that did. Runs the program exactly as its users do.
import { spawnSync } from "node:child_process";
import { join, relative } from "node:path";
import { installAndBuild, ROOT } from "./install.mjs";

const SPARSITY = "0.7";
const MODEL = join(ROOT, "models/demo");
const OUT = join(ROOT, `demo-wanda-${SPARSITY}`);

installAndBuild();
const dense = evaluate(MODEL);
const run = prune(["--method", "wanda", "--sparsity", SPARSITY, "--out", OUT, "--force"]);
const pruned = evaluate(OUT);

const zeros = run.layers.reduce((sum, layer) => sum + layer.zeros, 0);
const elements = run.layers.reduce((sum, layer) => sum + layer.elements, 0);
const { windows, seqlen } = dense;
process.stdout.write(`
                     dense    ${run.method} ${SPARSITY}
perplexity      ${dense.perplexity.toFixed(2).padStart(10)} ${pruned.perplexity.toFixed(2).padStart(12)}
zeros           ${"0.00%".padStart(10)} ${percent(run.sparsity.achieved).padStart(12)}
seconds         ${"".padStart(10)} ${run.seconds.toFixed(1).padStart(12)}

${zeros.toLocaleString("en-US")} of ${elements.toLocaleString("en-US")} weights in ${run.layers.length} linears are zero.
Perplexity: ${windows} windows of ${seqlen} tokens of models/demo/evaluation.txt (sampled from the model itself).
The checkpoint is in ${relative(process.cwd(), OUT) || OUT}; prune inspect shows it tensor by tensor:
  node bin/prune.js inspect ${relative(process.cwd(), OUT) || OUT}
`);

function evaluate(model) {
  return prune(["eval", model, "--text", join(MODEL, "evaluation.txt")]);
}

/** Run one command and return its JSON document; progress goes to the terminal. */
function prune(args) {
  process.stderr.write(`$ prune ${args.map((arg) => (arg.startsWith(ROOT) ? relative(ROOT, arg) : arg)).join(" ")}\n`);
  const command = [join(ROOT, "bin/prune.js"), ...args, "--json", "--log-format", "pretty"];
  const { status, stdout } = spawnSync(process.execPath, command, {
    cwd: ROOT,
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
    maxBuffer: 2 ** 28,
  });
  if (status !== 0) process.exit(status ?? 1);
  return JSON.parse(stdout);
}

function percent(fraction) {
  return `${(fraction * 100).toFixed(2)}%`;
}
