/**
 * Numbers of the WebGPU standard that browsers offer as globals (`GPUBufferUsage` and friends). Node has no such
 * globals, and this program puts none on `globalThis`.
 */

export const BUFFER_USAGE = {
  mapRead: 0x0001,
  copySource: 0x0004,
  copyDestination: 0x0008,
  uniform: 0x0040,
  storage: 0x0080,
} as const;

export const MAP_MODE_READ = 0x0001;
export const SHADER_STAGE_COMPUTE = 0x4;

/** Alignment of binding offsets and of dynamic uniform offsets under default limits, in bytes. */
export const OFFSET_ALIGNMENT = 256;

/** The grid limit every adapter has. */
export const DEFAULT_GRID_CAP = 65_535;
