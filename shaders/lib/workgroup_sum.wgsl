// workgroup_sum: the sum of one f32 of each of the 256 threads of a workgroup, by a fixed tree, in every thread.
// Must be called in uniform control flow; it begins and ends with a barrier, so calls may follow each other at once.
// Memory: 1 KiB of workgroup storage. No subgroups: their size is the driver's choice and would change the sum.

var<workgroup> sum_values: array<f32, 256>;

fn workgroup_sum(thread: u32, value: f32) -> f32 {
  workgroupBarrier();
  sum_values[thread & 255u] = value;
  workgroupBarrier();
  for (var half = 128u; half > 0u; half = half >> 1u) {
    if (thread < half) { sum_values[thread & 255u] += sum_values[(thread + half) & 255u]; }
    workgroupBarrier();
  }
  return sum_values[0];
}
