// square_sums_reduce: adds the partial sums of square_sums_partial to the running sums, chunk after chunk.
//   inputs    partials  [chunks, columns]   f32
//   outputs   sums      [1, columns]        f32, updated in place
//   params    chunks, columns (counts)
//   grid      one thread per column, 64 per workgroup
//   accuracy  four chains of chunks/4 non-negative terms and one addition to the running sum

struct Params {
  chunks: u32,
  columns: u32,
}
@group(0) @binding(0) var<storage, read> partials: array<f32>;
@group(0) @binding(1) var<storage, read_write> sums: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let column = linear_workgroup(workgroup, grid) * 64u + thread;
  if (column >= params.columns) { return; }
  var sum = vec4f();
  for (var chunk = 0u; chunk < params.chunks; chunk++) {
    let value = partials[chunk * params.columns + column];
    let lane = vec4u(chunk & 3u) == vec4u(0u, 1u, 2u, 3u);
    sum += select(vec4f(), vec4f(value), lane);
  }
  sums[column] += (sum.x + sum.y) + (sum.z + sum.w);
}
