// scale_rows: matrix[r, c] *= factors[r], and a product of ±0 is stored as +0.
//   inputs    factors  [1, all rows]         f32
//   outputs   matrix   [rows, columns] slab  f32, updated in place, padding up to the next vec4 included
//   params    vectors (vec4 per row that hold columns), row_pitch (vec4), count (vectors · rows),
//             first_row (index of the slab's first row)
//   grid      one thread per vec4, 64 per workgroup
//   accuracy  one rounding

struct Params {
  vectors: u32,
  row_pitch: u32,
  count: u32,
  first_row: u32,
}
@group(0) @binding(0) var<storage, read> factors: array<f32>;
@group(0) @binding(1) var<storage, read_write> matrix: array<vec4f>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = linear_workgroup(workgroup, grid) * 64u + thread;
  if (i >= params.count) { return; }
  let row = i / params.vectors;
  let at = row * params.row_pitch + i % params.vectors;
  let product = matrix[at] * factors[params.first_row + row];
  matrix[at] = select(product, vec4f(), product == vec4f());
}
