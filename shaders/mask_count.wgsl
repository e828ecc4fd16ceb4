// mask_count: number of pruned weights in the first columns of a mask.
//   inputs    keep_mask  [rows, words]   bits, 1 = kept
//   outputs   state      see select_pick; element 3 is added to: integers, so the order does not matter
//   params    rows, columns (counts: columns are those looked at), words (per row)
//   grid      one thread per row, 64 per workgroup
//   memory    4 bytes of workgroup storage
//   accuracy  exact

struct Params {
  rows: u32,
  columns: u32,
  words: u32,
}
@group(0) @binding(0) var<storage, read> keep_mask: array<u32>;
@group(0) @binding(1) var<storage, read_write> state: array<atomic<u32>>;
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> part: atomic<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  if (thread == 0u) { atomicStore(&part, 0u); }
  workgroupBarrier();
  let row = linear_workgroup(workgroup, grid) * 64u + thread;
  if (row < params.rows) {
    var kept = 0u;
    for (var first = 0u; first < params.columns; first += 32u) {
      let count = min(32u, params.columns - first);
      kept += countOneBits(keep_mask[row * params.words + (first >> 5u)] & (0xffffffffu >> (32u - count)));
    }
    atomicAdd(&part, params.columns - kept);
  }
  workgroupBarrier();
  if (thread == 0u) { atomicAdd(&state[3], atomicLoad(&part)); }
}
