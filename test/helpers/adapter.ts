/**
 * Makes an adapter available to tests: hardware if there is any, else SwiftShader from Debian's `chromium` package.
 * Sets environment variables of this process only, and only where the user has set none. With REQUIRE_GPU=1 a missing
 * adapter is an error instead of a skip.
 */
import { existsSync } from "node:fs";
import os from "node:os";
import process from "node:process";
import { listAdapters } from "../../src/device/webgpu/adapter.js";

export type TestAdapter = { readonly available: true } | { readonly available: false; readonly reason: string };

const CHROMIUM = "/usr/lib/chromium";
const SWIFTSHADER_ICD = `${CHROMIUM}/vk_swiftshader_icd.json`;
const VULKAN_LOADER = "libvulkan.so.1";
/** RTLD_NODELETE of glibc and musl, which Node does not name. */
const RTLD_NODELETE = 0x1000;

let found: Promise<TestAdapter> | undefined;

/** Whether tests of the webgpu device can run here; searched once per process. */
export function findTestAdapter(): Promise<TestAdapter> {
  found ??= search();
  return found;
}

async function search(): Promise<TestAdapter> {
  if ((await listAdapters()).length > 0) return { available: true };
  // A child process of a test inherits the variable, but not the library loaded below.
  if (existsSync(SWIFTSHADER_ICD)) process.env["VK_ICD_FILENAMES"] ??= SWIFTSHADER_ICD;
  if (process.env["VK_ICD_FILENAMES"] === SWIFTSHADER_ICD) {
    loadVulkanFromChromium();
    if ((await listAdapters()).length > 0) return { available: true };
  }
  const reason =
    "no WebGPU adapter: there is no GPU driver, and no SwiftShader at " +
    `${SWIFTSHADER_ICD} (on Debian: apt-get install chromium)`;
  if (process.env["REQUIRE_GPU"] === "1") throw new Error(`REQUIRE_GPU=1, but ${reason}`);
  return { available: false, reason };
}

/**
 * Chromium brings its own Vulkan loader, in a folder the dynamic linker does not search. Once it is in the process,
 * Dawn's dlopen of the same name finds it; NODELETE keeps it when Node notices that it is no addon and closes it.
 */
function loadVulkanFromChromium(): void {
  if (process.platform !== "linux") return;
  for (const library of [VULKAN_LOADER, `${CHROMIUM}/${VULKAN_LOADER}`]) {
    try {
      process.dlopen({ exports: {} }, library, os.constants.dlopen.RTLD_NOW | RTLD_NODELETE);
      return;
    } catch (error) {
      if (error instanceof Error && error.message.includes("did not self-register")) return; // Loaded.
    }
  }
}
