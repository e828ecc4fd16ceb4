// combine_pair: two combinations of the same matrices, out = a·coefficient + b·coefficient and a = a·coefficient +
//   b·coefficient, both from the old a; the mask says which pair of coefficients.
//   inputs    keep_mask  [all rows, words]      bits, 1 = kept; the whole mask
//             b          [rows, columns] slab   f32
//   outputs   a          [rows, columns] slab   f32, read, then replaced; padding becomes unspecified
//             out        [rows, columns] slab   f32; padding up to the next vec4 becomes unspecified
//   params    vectors (vec4 per row that hold columns), row_pitch (vec4), count (vectors · rows),
//             first_row (index of the slabs' first row), words (per mask row), coefficients by target and matrix
//   grid      one thread per vec4, 64 per workgroup
//   accuracy  at most three roundings; one where the coefficients are 0, 1 or -1

struct Params {
  vectors: u32,
  row_pitch: u32,
  count: u32,
  first_row: u32,
  words: u32,
  out_kept_a: f32,
  out_kept_b: f32,
  out_pruned_a: f32,
  out_pruned_b: f32,
  a_kept_a: f32,
  a_kept_b: f32,
  a_pruned_a: f32,
  a_pruned_b: f32,
}
@group(0) @binding(0) var<storage, read> keep_mask: array<u32>;
@group(0) @binding(1) var<storage, read> b: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> a: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = linear_workgroup(workgroup, grid) * 64u + thread;
  if (i >= params.count) { return; }
  let kept = kept_of(i);
  let at = masked_vector(i);
  let x = a[at];
  let y = b[at];
  out[at] = select(vec4f(params.out_pruned_a), vec4f(params.out_kept_a), kept) * x
          + select(vec4f(params.out_pruned_b), vec4f(params.out_kept_b), kept) * y;
  a[at] = select(vec4f(params.a_pruned_a), vec4f(params.a_kept_a), kept) * x
        + select(vec4f(params.a_pruned_b), vec4f(params.a_kept_b), kept) * y;
}
