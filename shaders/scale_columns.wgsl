// scale_columns: matrix[r, c] *= factors[c], and a product of ±0 is stored as +0.
//   inputs    factors  [1, columns]          f32, padded to whole vec4
//   outputs   matrix   [rows, columns]       f32, updated in place, padding included
//   params    vectors (vec4 per row that hold columns), row_pitch (vec4), count (vectors · rows)
//   grid      one thread per vec4, 64 per workgroup
//   accuracy  one rounding

struct Params {
  vectors: u32,
  row_pitch: u32,
  count: u32,
}
@group(0) @binding(0) var<storage, read> factors: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> matrix: array<vec4f>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = linear_workgroup(workgroup, grid) * 64u + thread;
  if (i >= params.count) { return; }
  let vector = i % params.vectors;
  let at = (i / params.vectors) * params.row_pitch + vector;
  let product = matrix[at] * factors[vector];
  matrix[at] = select(product, vec4f(), product == vec4f());
}
