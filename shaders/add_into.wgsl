// add_into: out += a, padding included.
//   inputs    a    `count` vec4 of f32
//   outputs   out  `count` vec4 of f32, updated in place
//   params    count (vec4)
//   grid      one thread per vec4, 64 per workgroup
//   accuracy  one rounding

struct Params {
  count: u32,
}
@group(0) @binding(0) var<storage, read> a: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4f>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = linear_workgroup(workgroup, grid) * 64u + thread;
  if (i >= params.count) { return; }
  out[i] += a[i];
}
