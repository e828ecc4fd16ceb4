// operands_gram_scalar: both operands of xᵀx from one binding, at any alignment.
// Joined before matmul.wgsl, which declares Params. A patch is four consecutive elements of one row; rows and columns
// beyond the operand repeat its last ones (matmul.wgsl zeroes what lies beyond k, the rest is never stored).

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;

fn load_a(row: u32, col: u32, rows: u32, cols: u32) -> vec4f {
  let start = params.a_offset + min(row, rows - 1u) * params.a_pitch;
  return vec4f(x[start + min(col, cols - 1u)], x[start + min(col + 1u, cols - 1u)],
               x[start + min(col + 2u, cols - 1u)], x[start + min(col + 3u, cols - 1u)]);
}

fn load_b(row: u32, col: u32, rows: u32, cols: u32) -> vec4f {
  let start = params.b_offset + min(row, rows - 1u) * params.b_pitch;
  return vec4f(x[start + min(col, cols - 1u)], x[start + min(col + 1u, cols - 1u)],
               x[start + min(col + 2u, cols - 1u)], x[start + min(col + 3u, cols - 1u)]);
}

fn store_out(row: u32, col: u32, product: vec4f) {
  if (row >= params.m) { return; }
  let at = params.out_offset + row * params.out_pitch + col;
  for (var i = 0u; i < 4u; i++) {
    if (col + i >= params.n) { continue; }
    var value = params.alpha * product[i];
    if (params.beta != 0.0) { value += params.beta * out[at + i]; }
    out[at + i] = value;
  }
}
