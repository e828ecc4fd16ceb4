// square_sums_partial: sums of squares of each column over chunks of 256 rows.
//   inputs    x         [rows, columns] view        f32, row-major
//   outputs   partials  [chunks, columns]           f32, every element written
//   params    rows, columns (counts); offset, pitch of x in elements; column_groups (workgroups across)
//   grid      one workgroup for each 64 columns of each chunk; a thread owns one column, so rows are read coalesced
//   accuracy  one chain of 256 non-negative terms: relative error ≤ 256·2⁻²⁴, typically 16·2⁻²⁴
//   source    kernels.md 4.3 in substance: two stages of a fixed shape

struct Params {
  rows: u32,
  columns: u32,
  offset: u32,
  pitch: u32,
  column_groups: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> partials: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

const CHUNK = 256u;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let id = linear_workgroup(workgroup, grid);
  let chunk = id / params.column_groups;
  let column = (id % params.column_groups) * 64u + thread;
  let first = chunk * CHUNK;
  if (first >= params.rows || column >= params.columns) { return; }
  let end = min(first + CHUNK, params.rows);
  // partials[chunk, c] = Σ x[r, c]²
  var sum = 0.0;
  for (var row = first; row < end; row++) {
    let value = x[params.offset + row * params.pitch + column];
    sum += value * value;
  }
  partials[chunk * params.columns + column] = sum;
}
