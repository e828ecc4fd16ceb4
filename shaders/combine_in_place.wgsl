// combine_in_place: as combine, where `out` is one of the two matrices: out = out·coefficient + x·coefficient.
//   inputs    keep_mask  [all rows, words]      bits, 1 = kept; the whole mask
//             x          [rows, columns] slab   f32
//   outputs   out        [rows, columns] slab   f32, updated in place; padding becomes unspecified
//   params    vectors (vec4 per row that hold columns), row_pitch (vec4), count (vectors · rows),
//             first_row (index of the slabs' first row), words (per mask row), coefficients of out and x
//   grid      one thread per vec4, 64 per workgroup
//   accuracy  at most three roundings; one where the coefficients are 0, 1 or -1

struct Params {
  vectors: u32,
  row_pitch: u32,
  count: u32,
  first_row: u32,
  words: u32,
  kept_out: f32,
  kept_x: f32,
  pruned_out: f32,
  pruned_x: f32,
}
@group(0) @binding(0) var<storage, read> keep_mask: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4f>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = linear_workgroup(workgroup, grid) * 64u + thread;
  if (i >= params.count) { return; }
  let kept = kept_of(i);
  let at = masked_vector(i);
  out[at] = select(vec4f(params.pruned_out), vec4f(params.kept_out), kept) * out[at]
          + select(vec4f(params.pruned_x), vec4f(params.kept_x), kept) * x[at];
}
