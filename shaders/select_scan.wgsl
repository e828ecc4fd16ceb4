// select_scan: exclusive prefix sum of the ties per row, in place; does nothing where all ties or none are pruned.
//   inputs    state   see select_pick
//   outputs   counts  [rows]   u32, updated in place
//   params    rows (count)
//   grid      one workgroup of 256 threads, each with a contiguous share (a device-wide scan is not worth it for
//             the at most 100 thousand rows of a weight)
//   memory    1 KiB of workgroup storage
//   accuracy  exact

struct Params {
  rows: u32,
}
@group(0) @binding(0) var<storage, read> state: array<u32>;
@group(0) @binding(1) var<storage, read_write> counts: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) thread: u32) {
  let share = select((params.rows + 255u) / 256u, 0u, state[1] == 0u || state[1] == state[2]);
  let first = min(thread * share, params.rows);
  let end = min(first + share, params.rows);
  var sum = 0u;
  for (var row = first; row < end; row++) { sum += counts[row]; }
  var running = exclusive_scan(thread, sum);
  for (var row = first; row < end; row++) {
    let count = counts[row];
    counts[row] = running;
    running += count;
  }
}
