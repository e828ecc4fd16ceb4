// operands_gram_vec4_shared: both operands of xᵀx from one binding, offsets and pitches multiples of 4, where x lies in
// the same buffer as `out`, in other rows (the trailing update of the factorisation): two read_write bindings, see
// operands_vec4_shared, which three would not be, since those of x would overlap.
// Joined before matmul.wgsl, which declares Params. A patch is four consecutive elements of one row; rows and columns
// beyond the operand repeat its last ones (matmul.wgsl zeroes what lies beyond k, the rest is never stored).

@group(0) @binding(0) var<storage, read_write> x: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> out: array<vec4f>;

fn load_a(row: u32, col: u32, rows: u32, cols: u32) -> vec4f {
  return x[(params.a_offset + min(row, rows - 1u) * params.a_pitch + min(col, (cols - 1u) & ~3u)) >> 2u];
}

fn load_b(row: u32, col: u32, rows: u32, cols: u32) -> vec4f {
  return x[(params.b_offset + min(row, rows - 1u) * params.b_pitch + min(col, (cols - 1u) & ~3u)) >> 2u];
}

fn store_out(row: u32, col: u32, product: vec4f) {
  if (row >= params.m || col >= params.n) { return; }
  let at = (params.out_offset + row * params.out_pitch + col) >> 2u;
  var value = params.alpha * product;
  if (params.beta != 0.0) { value += params.beta * out[at]; }
  if (col + 4u > params.n) { value = select(out[at], value, vec4u(col) + vec4u(0u, 1u, 2u, 3u) < vec4u(params.n)); }
  out[at] = value;
}
