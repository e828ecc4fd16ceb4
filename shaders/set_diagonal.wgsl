// set_diagonal: matrix[i, i] = diagonal[i] for a range of rows.
//   inputs    diagonal  [1, n]                                        f32
//   outputs   matrix    rows [first_row, first_row + rows) of [n, n]   f32, diagonal overwritten
//   params    first_row (index), rows (count), pitch (elements)
//   grid      one thread per row, 64 per workgroup
//   accuracy  exact

struct Params {
  first_row: u32,
  rows: u32,
  pitch: u32,
}
@group(0) @binding(0) var<storage, read> diagonal: array<f32>;
@group(0) @binding(1) var<storage, read_write> matrix: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let row = linear_workgroup(workgroup, grid) * 64u + thread;
  if (row >= params.rows) { return; }
  matrix[row * params.pitch + params.first_row + row] = diagonal[params.first_row + row];
}
