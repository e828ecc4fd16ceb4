// subtract_in_place: out = out - x, or x - out where `reversed` is not 0.
//   inputs    x    [rows, columns] view   f32
//   outputs   out  [rows, columns] view   f32, updated in place
//   params    columns, count (rows · columns); offset and pitch of each in elements; reversed (flag)
//   grid      one thread per element, 64 per workgroup
//   accuracy  one rounding

struct Params {
  columns: u32,
  count: u32,
  x_offset: u32,
  x_pitch: u32,
  out_offset: u32,
  out_pitch: u32,
  reversed: u32,
}
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = linear_workgroup(workgroup, grid) * 64u + thread;
  if (i >= params.count) { return; }
  let row = i / params.columns;
  let col = i % params.columns;
  let at = params.out_offset + row * params.out_pitch + col;
  let other = x[params.x_offset + row * params.x_pitch + col];
  out[at] = select(out[at] - other, other - out[at], params.reversed != 0u);
}
