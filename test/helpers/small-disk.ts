/** A disk that is soon full. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestContext } from "node:test";

/** A file system of so many bytes, or undefined where none can be made. */
export function mountSmallDisk(t: TestContext, bytes: number): string | undefined {
  if (process.platform !== "linux" || process.getuid?.() !== 0) return undefined;
  const directory = mkdtempSync(join(tmpdir(), "prune-disk-"));
  let isMounted = false;
  t.after(() => {
    if (isMounted) execFileSync("umount", [directory]);
    rmdirSync(directory);
  });
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "tmpfs", directory], { stdio: "ignore" });
  } catch {
    return undefined; // containers often lack the right
  }
  isMounted = true;
  return directory;
}

export const NO_DISK = "mounting a small tmpfs needs root on Linux";
