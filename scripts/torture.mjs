// Lets accidents happen to commands on a tiny model, one at each step that they do with files: killed there, disk full from there on, an error of
// the device there, power cut after it; and looks at what is left (test/helpers/torture.ts says what is promised). Needs a build.
//
//   node scripts/torture.mjs [--scenes run,compare,…] [--accidents kill,ENOSPC,EIO,gone,power] [--every N] [--directory D]
//
// scripts/torture-processes.mjs does the same to processes, at their system calls, by strace.
import { tmpdir } from "node:os";
import { parseArgs } from "node:util";

const { SCENES, Torture } = await import("../dist/test/helpers/torture.js");
const { values: flags } = parseArgs({
  options: {
    scenes: { type: "string", default: SCENES.join(",") },
    accidents: { type: "string", default: "kill,ENOSPC,EIO,gone,power" },
    every: { type: "string", default: "1" },
    directory: { type: "string", default: tmpdir() },
  },
});
const every = Number(flags.every);
let [tried, wrong] = [0, 0];
for (const scene of flags.scenes.split(",")) {
  const torture = await Torture.of(scene, flags.directory);
  const count = torture.steps.length;
  try {
    for (const accident of flags.accidents.split(",")) {
      const started = process.cpuUsage();
      let [here, bad] = [0, 0];
      const note = (place, { problem }) => {
        here++;
        if (problem === undefined) return;
        bad++;
        console.log(`  ${scene}, ${accident} ${place}: ${problem}`);
      };
      if (accident === "power")
        for await (const trial of torture.cutPower((after) => after % every === 0))
          note(`after ${trial.after} of ${count} (${describe(trial.met)}), ${trial.remains}`, trial);
      else
        for (let at = 1; at <= count; at += every) {
          const trial = await torture.suffer({ kind: accident, at });
          note(`at ${at} of ${count} (${describe(trial.met)})`, trial);
        }
      const { user, system } = process.cpuUsage(started);
      console.log(
        `${scene} ${accident}: ${count} steps, ${here} accidents, ${bad} with a wrong end (${((user + system) / 1e6).toFixed(0)} s of processor time)`,
      );
      tried += here;
      wrong += bad;
    }
  } finally {
    torture[Symbol.dispose]();
  }
}
console.log(`${tried} accidents, ${wrong} with a wrong end`);
process.exitCode = wrong === 0 ? 0 : 1;

function describe(step) {
  return step === undefined ? "none" : `${step.type} ${step.path.replace(/^.*?case-\d+\//, "")}`;
}
