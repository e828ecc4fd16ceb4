// matrix_ties: for each row of a row-major weight the number of keys that equal the threshold.
//   inputs    weight  [rows, columns] slab   f32
//             scale   [1, columns]           f32
//             state   see select_pick
//   outputs   counts  [all rows]             u32; left alone where all ties or none are pruned
//   params    rows, columns (counts); pitch (elements); first_row (index of the slab's first row)
//   grid      one workgroup of 256 threads per row
//   memory    4 bytes of workgroup storage
//   accuracy  exact

struct Params {
  rows: u32,
  columns: u32,
  pitch: u32,
  first_row: u32,
}
@group(0) @binding(0) var<storage, read> weight: array<f32>;
@group(0) @binding(1) var<storage, read> scale: array<f32>;
@group(0) @binding(2) var<storage, read> state: array<u32>;
@group(0) @binding(3) var<storage, read_write> counts: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> total: atomic<u32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let row = linear_workgroup(workgroup, grid);
  if (row >= params.rows || state[1] == 0u || state[1] == state[2]) { return; }
  if (thread == 0u) { atomicStore(&total, 0u); }
  workgroupBarrier();
  var ties = 0u;
  for (var column = thread; column < params.columns; column += 256u) {
    let key = score_key(weight[row * params.pitch + column], scale[column]);
    ties += select(0u, 1u, key == state[0]);
  }
  atomicAdd(&total, ties);
  workgroupBarrier();
  if (thread == 0u) { counts[params.first_row + row] = atomicLoad(&total); }
}
