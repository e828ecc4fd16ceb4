// combine: out = a·coefficient + b·coefficient into a third matrix; the mask says which pair of coefficients.
//   inputs    keep_mask  [all rows, words]      bits, 1 = kept; the whole mask
//             a, b       [rows, columns] slabs  f32
//   outputs   out        [rows, columns] slab   f32; padding up to the next vec4 becomes unspecified
//   params    vectors (vec4 per row that hold columns), row_pitch (vec4), count (vectors · rows),
//             first_row (index of the slabs' first row), words (per mask row), coefficients of a and b
//   grid      one thread per vec4, 64 per workgroup
//   accuracy  at most three roundings; one where the coefficients are 0, 1 or -1

struct Params {
  vectors: u32,
  row_pitch: u32,
  count: u32,
  first_row: u32,
  words: u32,
  kept_a: f32,
  kept_b: f32,
  pruned_a: f32,
  pruned_b: f32,
}
@group(0) @binding(0) var<storage, read> keep_mask: array<u32>;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;
@group(0) @binding(2) var<storage, read> b: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = linear_workgroup(workgroup, grid) * 64u + thread;
  if (i >= params.count) { return; }
  let kept = kept_of(i);
  let at = masked_vector(i);
  out[at] = select(vec4f(params.pruned_a), vec4f(params.kept_a), kept) * a[at]
          + select(vec4f(params.pruned_b), vec4f(params.kept_b), kept) * b[at];
}
