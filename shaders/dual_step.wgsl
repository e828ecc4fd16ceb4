// dual_step: z = mask∘(x + u), u += x - z, and sums of squares of every row.
//   inputs    keep_mask    [all rows, words]      bits, 1 = kept; the whole mask
//             values       [rows, columns] slab   f32, x
//   outputs   split, dual  [rows, columns] slabs  f32, z and u, updated in place; padding becomes unspecified
//             sums         [all rows] vec4        f32, elements of the slab written: Σ (x - z)², Σ (z - z before)², Σ x²,
//                                                 Σ (z before)²
//   params    rows, columns (counts); row_pitch (vec4); first_row (index of the slabs' first row); words (per mask row)
//   grid      one workgroup of 256 threads per row; a thread owns every 256th vec4
//   memory    4 KiB of workgroup storage
//   accuracy  z: one rounding; u: two; sums: chains of columns/256 terms and a tree of 8 additions

struct Params {
  rows: u32,
  columns: u32,
  row_pitch: u32,
  first_row: u32,
  words: u32,
}
@group(0) @binding(0) var<storage, read> keep_mask: array<u32>;
@group(0) @binding(1) var<storage, read> values: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> split: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> dual: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> sums: array<vec4f>;
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> row_sums: array<vec4f, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let row = linear_workgroup(workgroup, grid);
  if (row >= params.rows) { return; }
  let lanes = vec4u(0u, 1u, 2u, 3u);
  var sum = vec4f();
  for (var c = thread * 4u; c < params.columns; c += 1024u) {
    let at = row * params.row_pitch + (c >> 2u);
    let bits = keep_mask[(params.first_row + row) * params.words + (c >> 5u)] >> (c & 31u);
    let x = values[at];
    let u = dual[at];
    let before = split[at];
    let z = select(vec4f(), x + u, (vec4u(bits) & (vec4u(1u) << lanes)) != vec4u());
    let apart = x - z;
    split[at] = z;
    dual[at] = u + apart;
    // What lies behind the row's last column is unspecified and must not reach a sum.
    let inside = vec4u(c) + lanes < vec4u(params.columns);
    let moved = select(vec4f(), z - before, inside);
    let primal = select(vec4f(), apart, inside);
    let value = select(vec4f(), x, inside);
    let old = select(vec4f(), before, inside);
    sum += vec4f(dot(primal, primal), dot(moved, moved), dot(value, value), dot(old, old));
  }
  row_sums[thread & 255u] = sum;
  workgroupBarrier();
  for (var half = 128u; half > 0u; half = half >> 1u) {
    if (thread < half) { row_sums[thread & 255u] += row_sums[(thread + half) & 255u]; }
    workgroupBarrier();
  }
  if (thread == 0u) { sums[params.first_row + row] = row_sums[0]; }
}
