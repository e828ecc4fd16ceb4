// mirror_diagonal: copies the strict lower triangle of a square block on the diagonal over its upper one.
// What lies left of such blocks is mirrored by transpose; this is the part that would read and write the same rows.
//   outputs   matrix  rows [first_row, first_row + size) of [n, n]   f32, updated in place
//   params    first_row (index: also the block's first column), size (rows and columns), pitch (elements)
//   grid      one thread per entry of the block, 64 per workgroup; only entries above the diagonal are written and
//             only entries below it are read, so no thread waits for another
//   accuracy  exact

struct Params {
  first_row: u32,
  size: u32,
  pitch: u32,
}
@group(0) @binding(0) var<storage, read_write> matrix: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = linear_workgroup(workgroup, grid) * 64u + thread;
  let row = i / params.size;
  let col = i % params.size;
  if (row >= params.size || col <= row) { return; }
  matrix[row * params.pitch + params.first_row + col] = matrix[col * params.pitch + params.first_row + row];
}
