// gather: out[r, c] = a[row_indices[r], column_indices[c]].
//   inputs    a               [a_rows, …] slab     f32, rows of the matrix from a_first on
//             row_indices     [all rows of out]    u32
//             column_indices  [columns]            u32
//   outputs   out             [rows, columns] slab f32; rows whose source is not in a's slab are left alone
//   params    columns, count (rows · columns); first_row (index of out's first row); a_first, a_rows (index, count);
//             a_pitch, out_pitch (elements)
//   grid      one thread per entry of out, 64 per workgroup: writes are coalesced, reads within one row of a
//   accuracy  exact

struct Params {
  columns: u32,
  count: u32,
  first_row: u32,
  a_first: u32,
  a_rows: u32,
  a_pitch: u32,
  out_pitch: u32,
}
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> row_indices: array<u32>;
@group(0) @binding(2) var<storage, read> column_indices: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = linear_workgroup(workgroup, grid) * 64u + thread;
  if (i >= params.count) { return; }
  let row = i / params.columns;
  let column = i % params.columns;
  let source = row_indices[params.first_row + row];
  if (source < params.a_first || source - params.a_first >= params.a_rows) { return; }
  out[row * params.out_pitch + column] = a[(source - params.a_first) * params.a_pitch + column_indices[column]];
}
