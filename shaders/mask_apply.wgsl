// mask_apply: pruned entries become +0 (a product would leave -0), kept ones keep their bits.
//   inputs    keep_mask  [mask rows, words]     bits, 1 = kept; the whole mask
//   outputs   matrix     [rows, columns] slab   f32, updated in place; padding up to the next vec4 becomes 0
//   params    vectors (vec4 per row that hold columns), row_pitch (vec4), count (vectors · rows),
//             first_row (index of the slab's first row), words (per mask row)
//   grid      one thread per vec4, 64 per workgroup
//   accuracy  exact

struct Params {
  vectors: u32,
  row_pitch: u32,
  count: u32,
  first_row: u32,
  words: u32,
}
@group(0) @binding(0) var<storage, read> keep_mask: array<u32>;
@group(0) @binding(1) var<storage, read_write> matrix: array<vec4u>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = linear_workgroup(workgroup, grid) * 64u + thread;
  if (i >= params.count) { return; }
  let kept = kept_of(i);
  let at = masked_vector(i);
  // As integers: a float move may quiet a NaN or flush a subnormal, and kept weights keep their bits.
  matrix[at] = select(vec4u(), matrix[at], kept);
}
