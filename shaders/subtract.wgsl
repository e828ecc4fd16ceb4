// subtract: out = a - b on views of three different matrices.
//   inputs    a, b  [rows, columns] views   f32
//   outputs   out   [rows, columns] view    f32
//   params    columns, count (rows · columns); offset and pitch of each in elements
//   grid      one thread per element, 64 per workgroup (views may begin anywhere, so no vec4)
//   accuracy  one rounding

struct Params {
  columns: u32,
  count: u32,
  a_offset: u32,
  a_pitch: u32,
  b_offset: u32,
  b_pitch: u32,
  out_offset: u32,
  out_pitch: u32,
}
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = linear_workgroup(workgroup, grid) * 64u + thread;
  if (i >= params.count) { return; }
  let row = i / params.columns;
  let col = i % params.columns;
  out[params.out_offset + row * params.out_pitch + col] =
    a[params.a_offset + row * params.a_pitch + col] - b[params.b_offset + row * params.b_pitch + col];
}
