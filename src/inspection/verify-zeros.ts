/**
 * Whether a checkpoint keeps zeros that it should have, whoever made it since: those of a mask, of an N:M pattern, or of another
 * checkpoint. Reads both by pieces; of quantised ones too, as long as an element is a number of its own.
 */
import { openCheckpoint, type Checkpoint, type TensorInfo } from "../checkpoint/checkpoint.js";
import { BitPacker, columnsOf, MaskFile } from "../checkpoint/mask-file.js";
import { ZeroFinder } from "../checkpoint/zeros.js";
import type { ZeroCheck, ZeroChecks, ZeroChecksConfig, ZeroFinding } from "../contract.js";
import { CheckpointError, GateError } from "../errors.js";
import { readModelConfig } from "../model/config.js";
import { groupChecks } from "./inspect.js";
import { prunableTensors } from "./inspect-model.js";

/** What zeros are checked against, by what says so. */
const FLAGS = { mask: "--mask", pattern: "--pattern", against: "--against" } as const;

/** @throws GateError naming the checks that lost zeros */
export function expectZerosKept(report: ZeroChecks): void {
  const broken = (Object.keys(FLAGS) as (keyof typeof FLAGS)[]).flatMap((name) => {
    const check = report[name];
    const [first] = check?.broken ?? [];
    return first === undefined ? [] : [`${FLAGS[name]} in ${check?.broken.length} tensors, ${first.name} among them`];
  });
  if (broken.length === 0) return;
  throw new GateError("E_ZEROS_LOST", `${report.model} does not keep the zeros of ${broken.join("; ")}.`, {
    hint: "`prune apply-mask` puts the zeros of a saved mask back.",
    details: { model: report.model },
  });
}

/** @throws CheckpointError E_MASK, E_TENSORS, E_TENSOR_DTYPE where there is nothing to compare */
export async function verifyZeros({
  directory,
  family,
  mask,
  pattern,
  against,
}: ZeroChecksConfig): Promise<ZeroChecks> {
  const config = await readModelConfig(directory);
  await using checkpoint = await openCheckpoint(directory);
  const { prunable } = prunableTensors(config, checkpoint, family);
  return {
    schema: "prune.verify-zeros/v1",
    model: directory,
    ...(mask === undefined ? {} : { mask: await checkMask(checkpoint, mask) }),
    ...(pattern === undefined ? {} : { pattern: await checkPattern(checkpoint, prunable, pattern) }),
    ...(against === undefined ? {} : { against: await checkAgainst(checkpoint, prunable, against) }),
  };
}

async function checkMask(checkpoint: Checkpoint, file: string): Promise<ZeroCheck> {
  await using mask = await MaskFile.open(file);
  mask.expectFits(checkpoint);
  const findings: ZeroFinding[] = [];
  for (const name of mask.shapes.keys())
    findings.push(compare(name, checkpoint.info(name), await mask.read(name), await bitsOf(checkpoint, name)));
  return summed(findings);
}

/** The zeros of the other's prunable tensors, which has the same tensors. */
async function checkAgainst(
  checkpoint: Checkpoint,
  prunable: ReadonlyMap<string, unknown>,
  directory: string,
): Promise<ZeroCheck> {
  await using other = await openCheckpoint(directory);
  const problems = [...other.tensors.values()].flatMap(({ name, shape }) => {
    const found = checkpoint.tensors.get(name);
    if (found === undefined) return [`"${name}" is missing`];
    return found.shape.join() === shape.join()
      ? []
      : [`"${name}" is [${found.shape.join(", ")}], not [${shape.join(", ")}]`];
  });
  for (const name of checkpoint.tensors.keys())
    if (!other.tensors.has(name)) problems.push(`"${name}" is not in the other`);
  if (problems.length > 0) {
    const more = problems.length > 1 ? `, and ${problems.length - 1} more` : "";
    throw new CheckpointError(
      "E_TENSORS",
      `${checkpoint.directory}: not the tensors of ${directory}: ${problems[0]}${more}.`,
      {
        hint: "Compare checkpoints of one model in one layout.",
        details: { problems },
      },
    );
  }
  const findings: ZeroFinding[] = [];
  for (const name of prunable.keys())
    findings.push(compare(name, checkpoint.info(name), await bitsOf(other, name), await bitsOf(checkpoint, name)));
  return summed(findings);
}

/** Groups with too few zeros count under `lost`: how many zeros the worst one lacks is not said, whether there is one is. */
async function checkPattern(
  checkpoint: Checkpoint,
  prunable: ReadonlyMap<string, { readonly inputAxis: 0 | 1 }>,
  { keep, group }: { readonly keep: number; readonly group: number },
): Promise<ZeroCheck> {
  const finder = new ZeroFinder(checkpoint);
  const findings: ZeroFinding[] = [];
  for (const [name, { inputAxis }] of prunable) {
    const info = checkpoint.info(name);
    requireKnown(checkpoint, info);
    const [check] = groupChecks(info.shape.slice(-2), inputAxis, [group]);
    const zeros = await finder.find(info, (isZero) => check?.add(isZero));
    const isKept = check !== undefined && check.fewestZeros >= group - keep;
    findings.push({ name, zeros, lost: isKept ? 0 : 1, added: 0 });
  }
  return summed(findings);
}

/** A bit for every element that is not zero. */
async function bitsOf(checkpoint: Checkpoint, name: string): Promise<Uint8Array> {
  const info = checkpoint.info(name);
  requireKnown(checkpoint, info);
  const packer = new BitPacker(info.shape);
  await new ZeroFinder(checkpoint).find(info, (isZero) => packer.add(isZero));
  return packer.bytes;
}

function requireKnown({ directory }: Checkpoint, { name, dtype }: TensorInfo): void {
  if (ZeroFinder.knows({ dtype })) return;
  throw new CheckpointError(
    "E_TENSOR_DTYPE",
    `${directory}: whether elements of "${name}" (${dtype}) are zero is not known.`,
    {
      hint: "Several weights share an element there: check the checkpoint before it was packed.",
      details: { tensor: name, dtype },
    },
  );
}

/** Both a bit per element, 1 where it is kept, padded with zeros. */
function compare(name: string, { shape }: TensorInfo, wanted: Uint8Array, found: Uint8Array): ZeroFinding {
  let [kept, lost, added] = [0, 0, 0];
  for (let i = 0; i < found.length; i++) {
    kept += BITS[found[i]];
    lost += BITS[found[i] & ~wanted[i]];
    added += BITS[wanted[i] & ~found[i]];
  }
  const rows = shape.slice(0, -1).reduce((product, size) => product * size, 1);
  return { name, zeros: rows * columnsOf(shape) - kept, lost, added };
}

/** How many bits a byte has. */
const BITS = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll("0", "").length);

function summed(findings: readonly ZeroFinding[]): ZeroCheck {
  const sum = (key: "zeros" | "lost" | "added"): number => findings.reduce((total, finding) => total + finding[key], 0);
  return {
    ...{ isKept: sum("lost") === 0, tensors: findings.length },
    ...{ zeros: sum("zeros"), lost: sum("lost"), added: sum("added") },
    broken: findings.filter(({ lost }) => lost > 0),
  };
}
