// WebAssembly SIMD kernels of the CPU device, in AssemblyScript.
//
// Every kernel has the signature (first, end, args, scratch): it works on items [first, end) of an operation whose
// 4-byte arguments lie at `args`; `scratch` is memory of the calling thread alone. Items are independent and each
// output word has one writer, so results do not depend on how items are dealt to threads.
// Nothing here allocates: all addresses come from the host (kernel-pool.ts), which stages data in one shared memory.
// What a file named here exports is a kernel; what kernels share lies in the others (keys.ts, digits.ts).

export * from "./select-rows";
export * from "./select-matrix";
export * from "./select-panel";
export * from "./sweep";
export * from "./cholesky";
export * from "./row-systems";
export * from "./combine";
export * from "./conjugate";
export * from "./training";
