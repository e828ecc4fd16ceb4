// transpose: out[c, r] = a[r, c].
//   inputs    a    [rows, columns] view   f32
//   outputs   out  [columns, rows] view   f32
//   params    rows, columns (counts of a); offset and pitch of each in elements; tile_columns (tiles across a)
//   grid      one workgroup of 32×8 threads for each 32×32 tile of a; both sides are read and written along rows
//   memory    32·33·4 bytes of workgroup storage; the padding keeps columns out of one bank
//   accuracy  exact

struct Params {
  rows: u32,
  columns: u32,
  a_offset: u32,
  a_pitch: u32,
  out_offset: u32,
  out_pitch: u32,
  tile_columns: u32,
}
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> tile: array<f32, 1056>;

@compute @workgroup_size(32, 8)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_id) thread: vec3u) {
  let id = linear_workgroup(workgroup, grid);
  let row0 = (id / params.tile_columns) * 32u;
  let col0 = (id % params.tile_columns) * 32u;
  for (var i = thread.y; i < 32u; i += 8u) {
    let row = row0 + i;
    let col = col0 + thread.x;
    if (row < params.rows && col < params.columns) {
      tile[i * 33u + thread.x] = a[params.a_offset + row * params.a_pitch + col];
    }
  }
  workgroupBarrier();
  for (var i = thread.y; i < 32u; i += 8u) {
    let row = row0 + thread.x;
    let col = col0 + i;
    if (row < params.rows && col < params.columns) {
      out[params.out_offset + col * params.out_pitch + row] = tile[thread.x * 33u + i];
    }
  }
}
