// conjugate_step: one step of conjugate gradients in every row, on the row's kept entries.
//   α = r·r / d·q,  x += α·d,  r = mask∘(r - α·q),  β = r·r / (its value before),  d = r + β·d
//   inputs    keep_mask  [all rows, words]      bits, 1 = kept; the whole mask
//             product    [rows, columns] slab   f32, q = d·A
//   outputs   solution   [rows, columns] slab   f32, x, updated in place
//             residual   [rows, columns] slab   f32, r, updated in place
//             direction  [rows, columns] slab   f32, d, updated in place
//   params    rows, columns (counts); pitch (elements); first_row (index of the slabs' first row); words (per mask row)
//   grid      one workgroup of 256 threads per row; a thread owns every 256th column, so passes need no barrier but
//             those of the sums
//   memory    1 KiB of workgroup storage
//   accuracy  sums: chains of columns/256 terms and a tree of 8 additions. A row whose r·r or d·q is not positive is
//             converged or not positive definite in f32 and is left as it is

struct Params {
  rows: u32,
  columns: u32,
  pitch: u32,
  first_row: u32,
  words: u32,
}
@group(0) @binding(0) var<storage, read> keep_mask: array<u32>;
@group(0) @binding(1) var<storage, read> product: array<f32>;
@group(0) @binding(2) var<storage, read_write> solution: array<f32>;
@group(0) @binding(3) var<storage, read_write> residual: array<f32>;
@group(0) @binding(4) var<storage, read_write> direction: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let row = linear_workgroup(workgroup, grid);
  if (row >= params.rows) { return; }
  let start = row * params.pitch;
  var squares = 0f;
  var curvatures = 0f;
  for (var c = thread; c < params.columns; c += 256u) {
    let r = residual[start + c];
    squares += r * r;
    curvatures += direction[start + c] * product[start + c];
  }
  let square = workgroup_sum(thread, squares);
  let curvature = workgroup_sum(thread, curvatures);
  // Every thread sees the same sums; a factor of 0 instead of a return keeps the barriers plainly unconditional.
  let moves = square > 0f && curvature > 0f;
  let alpha = select(0f, square / curvature, moves);
  var next = 0f;
  for (var c = thread; c < params.columns; c += 256u) {
    let word = keep_mask[(params.first_row + row) * params.words + (c >> 5u)];
    let at = start + c;
    if (moves) {
      solution[at] += alpha * direction[at];
      let r = select(0f, residual[at] - alpha * product[at], ((word >> (c & 31u)) & 1u) == 1u);
      residual[at] = r;
      next += r * r;
    }
  }
  let beta = select(0f, workgroup_sum(thread, next) / square, moves);
  for (var c = thread; c < params.columns; c += 256u) {
    let at = start + c;
    if (moves) { direction[at] = residual[at] + beta * direction[at]; }
  }
}
