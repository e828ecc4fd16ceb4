// exclusive_scan: exclusive prefix sum of one u32 for each of the 256 threads of a workgroup (Hillis-Steele).
// Integers, so the order does not matter. Must be called in uniform control flow; it ends with a barrier, so the
// next call may follow at once. Memory: 1 KiB of workgroup storage. No subgroups: their size is the driver's choice.

var<workgroup> scan_values: array<u32, 256>;

fn exclusive_scan(thread: u32, value: u32) -> u32 {
  var running = value;
  scan_values[thread & 255u] = running;
  workgroupBarrier();
  for (var step = 1u; step < 256u; step = step << 1u) {
    var left = 0u;
    if (thread >= step) { left = scan_values[(thread - step) & 255u]; }
    workgroupBarrier();
    running += left;
    scan_values[thread & 255u] = running;
    workgroupBarrier();
  }
  return running - value;
}
