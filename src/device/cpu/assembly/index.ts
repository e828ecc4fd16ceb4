// WebAssembly SIMD kernels of the CPU device, in AssemblyScript.
//
// Every kernel has the signature (first, end, args, scratch): it works on items [first, end) of an operation whose
// 4-byte arguments lie at `args`; `scratch` is memory of the calling thread alone. Items are independent and each
// output word has one writer, so results do not depend on how items are dealt to threads.
// Nothing here allocates: all addresses come from the host (kernel-pool.ts), which stages data in one shared memory.

export { selectRows, selectGroups } from "./select-rows";
export { bracketRows, histogramRows, countTiesRows, markRows } from "./select-matrix";
export { panelKeys, histogramKeys, countTiesPanel, markPanel, markPanelTies } from "./select-panel";
export { sweepTiles } from "./sweep";
export { choleskyBlock } from "./cholesky";
export { solveRows } from "./row-systems";
export { combineRows } from "./combine";
export { conjugateRows } from "./conjugate";
