/**
 * An output that another one replaces. For the moment between two renames it lies beside its place; OUT.partial says under what
 * name, so that whoever finds OUT.partial after a crash can remove it once the new output is there, or put it back.
 */
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { syncDirectory } from "../files/durable.js";
import { lstat, open, readFile, rename, rm, writeFile } from "../files/output-files.js";
import { ASIDE, type OutputNames } from "./output-place.js";

/** The file in OUT.partial. */
export const REPLACED = "replaced.txt";

/** Choose a name for OUT, note it, and give OUT that name. */
export async function moveAside({ out, partial }: OutputNames): Promise<string> {
  const aside = `${out}${ASIDE}${randomUUID().slice(0, 8)}`;
  await writeFile(join(partial, REPLACED), aside.slice(out.length), { flush: true });
  await syncDirectory({ open }, partial);
  await rename(out, aside);
  return aside;
}

/** What an earlier run has moved aside and not removed, where it has. */
export async function findAside({ out, partial }: OutputNames): Promise<string | undefined> {
  const noted = await readFile(join(partial, REPLACED), "utf8").catch(() => "");
  if (!new RegExp(`^${ASIDE.replace(".", "\\.")}[0-9a-f]{8}$`).test(noted)) return undefined; // torn, or another's
  return (await exists(out + noted)) ? out + noted : undefined;
}

/** Before OUT.partial is given up: the output that it was to replace stands in its place again. */
export async function putBack(names: OutputNames): Promise<void> {
  const aside = await findAside(names);
  if (aside !== undefined && !(await exists(names.out))) await rename(aside, names.out);
}

/** Remove it, for good once this resolves. */
export async function removeAside({ parent }: OutputNames, aside: string): Promise<void> {
  await rm(aside, { recursive: true, force: true });
  await syncDirectory({ open }, parent);
}

async function exists(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false,
  );
}
