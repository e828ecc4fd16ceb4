// What large and long work takes: a checkpoint of the shape of Llama 3 70B whose data are holes, and a small model of very many
// blocks, whose resident memory may not grow from block to block. Needs a build, 3 GB of disk, and for the dry run root, which
// mounts a tmpfs that claims to have room for the output.
//
//   node scripts/endurance.mjs [--parts large,inspect,long] [--blocks 200] [--hidden 384] [--directory D]
//
// `inspect` reads all of the 141 GB, holes as they are.
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const { values: flags } = parseArgs({
  options: {
    parts: { type: "string", default: "large,long" },
    blocks: { type: "string", default: "200" },
    hidden: { type: "string", default: "384" },
    directory: { type: "string", default: tmpdir() },
  },
});
const { writeRandomIds, writeSparseLarge, writeSyntheticLlama } =
  await import("../dist/test/helpers/synthetic-model.js");
/** Says its peak of resident memory when it ends. */
const HOOK =
  'data:text/javascript,process.on("exit",()=>process.stderr.write("\\npeak "+process.resourceUsage().maxRSS*1024+"\\n"))';
/** A model this small takes all memory that is not the program's own. */
const SHARE_OF_A_BLOCK = 0.01;
const LONGEST_WARM_UP = 20;

const folder = mkdtempSync(join(flags.directory, "prune-endurance-"));
const roomy = join(folder, "roomy");
let isMounted = false;
process.on("exit", () => {
  if (isMounted) spawnSync("umount", [roomy]);
  rmSync(folder, { recursive: true, force: true });
});

let isWrong = false;
const parts = flags.parts.split(",");
if (parts.includes("large") || parts.includes("inspect")) await large();
if (parts.includes("long")) await long();
process.exitCode = isWrong ? 1 : 0;

function command(what, args) {
  const started = performance.now();
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [`--import=${HOOK}`, join(ROOT, "bin/prune.js"), ...args],
    {
      encoding: "utf8",
      maxBuffer: 2 ** 30,
    },
  );
  const seconds = (performance.now() - started) / 1000;
  const peak = Number(/^peak (\d+)$/m.exec(stderr)?.[1]);
  console.log(`${what}: exit ${status}, ${seconds.toFixed(1)} s, peak ${(peak / 1e6).toFixed(0)} MB`);
  if (status !== 0) console.log(stderr);
  isWrong ||= status !== 0;
  return { stdout, peak };
}

async function large() {
  const model = join(folder, "large");
  await writeSparseLarge(model);
  await writeRandomIds(model, { sequences: 128, tokens: 2048, vocabulary: 128256 });
  if (parts.includes("inspect")) command("inspect", ["inspect", model, "--json"]);
  if (!parts.includes("large")) return;
  command("inspect --config", ["inspect", "--config", model, "--json"]);
  mkdirSync(roomy);
  isMounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=1T", "tmpfs", roomy]).status === 0;
  const common = [
    "--model",
    model,
    "--calibration",
    join(model, "ids.safetensors"),
    "--seqlen",
    "2048",
    "--device",
    "cpu",
  ];
  for (const method of ["magnitude", "sparsegpt"]) {
    const rest = ["--method", method, "--sparsity", "0.5", "--memory", "4GB", "--out", join(roomy, "out")];
    const { stdout } = command(`dry run of ${method}`, ["run", "--dry-run", "--json", "-q", ...common, ...rest]);
    const { linears, blocks, peakMemoryBytes, diskBytes, estimatedSeconds } = JSON.parse(stdout);
    console.log(
      `  ${blocks} blocks, ${linears} linears; the run itself: ${(peakMemoryBytes / 1e9).toFixed(1)} GB of memory, ` +
        `${(diskBytes / 1e9).toFixed(0)} GB of disk, ${(estimatedSeconds / 3600).toFixed(1)} h`,
    );
  }
}

async function long() {
  const { measureGrowth } = await import("../dist/test/helpers/growth.js");
  const [hidden, blocks] = [Number(flags.hidden), Number(flags.blocks)];
  const intermediate = 3 * hidden;
  const model = join(folder, "long");
  await writeSyntheticLlama(model, { hidden, intermediate, blocks });
  const source = await writeRandomIds(model, { sequences: 8, tokens: 64 });
  const blockBytes = 4 * (4 * hidden ** 2 + 3 * hidden * intermediate);
  for (const method of ["magnitude", "wanda", "sparsegpt"]) {
    const { bytesPerBlock, first, last } = await measureGrowth({
      ...{ model, source, method, out: join(folder, "out"), warmUp: Math.min(LONGEST_WARM_UP, blocks / 4) },
      measure: () => process.memoryUsage.rss(),
    });
    rmSync(join(folder, "out"), { recursive: true, force: true });
    const share = bytesPerBlock / blockBytes;
    console.log(
      `${method}, ${blocks} blocks of ${(blockBytes / 1e6).toFixed(1)} MB: ${(100 * share).toFixed(2)} % of a block per block ` +
        `(${(first / 1e6).toFixed(0)} MB resident after the first, ${(last / 1e6).toFixed(0)} MB at the end)`,
    );
    isWrong ||= share > SHARE_OF_A_BLOCK;
  }
}
