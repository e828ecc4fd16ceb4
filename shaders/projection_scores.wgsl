// projection_scores: out = √second·|values + dual|, by which a projection chooses what it keeps. Selections read it as it
// is stored, so that all of their passes see the same bits.
//   inputs    values, dual, second  `count` vec4 of f32; dual is not read unless DUAL, second not unless SECOND
//   outputs   out                   `count` vec4 of f32, padding included
//   params    count (vec4)
//   constants DUAL, SECOND
//   grid      one thread per vec4, 64 per workgroup
//   accuracy  one rounding, or without DUAL none; with SECOND another one and √ within 3 units in the last place

override DUAL: bool = false;
override SECOND: bool = false;

struct Params {
  count: u32,
}
@group(0) @binding(0) var<storage, read> values: array<vec4f>;
@group(0) @binding(1) var<storage, read> dual: array<vec4f>;
@group(0) @binding(2) var<storage, read> second: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> out: array<vec4f>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = linear_workgroup(workgroup, grid) * 64u + thread;
  if (i >= params.count) { return; }
  var score = values[i];
  if (DUAL) { score += dual[i]; }
  score = abs(score);
  if (SECOND) { score *= sqrt(second[i]); }
  out[i] = score;
}
