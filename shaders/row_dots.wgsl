// row_dots: dots[r] = Σ_c a[r, c]·b[r, c].
//   inputs    a, b  [rows, columns] slabs   f32
//   outputs   dots  [1, all rows]           f32, elements of the slab written
//   params    rows, columns (counts); pitch (elements); first_row (index of the slabs' first row)
//   grid      one workgroup of 256 threads per row
//   memory    1 KiB of workgroup storage
//   accuracy  chains of columns/256 terms and a tree of 8 additions

struct Params {
  rows: u32,
  columns: u32,
  pitch: u32,
  first_row: u32,
}
@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> dots: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let row = linear_workgroup(workgroup, grid);
  if (row >= params.rows) { return; }
  let start = row * params.pitch;
  var sum = 0f;
  for (var c = thread; c < params.columns; c += 256u) { sum += a[start + c] * b[start + c]; }
  let total = workgroup_sum(thread, sum);
  if (thread == 0u) { dots[params.first_row + row] = total; }
}
