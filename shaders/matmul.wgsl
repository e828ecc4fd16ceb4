// matmul: out = alpha·op(a)·op(b) + beta·out on views. Joined after one of the lib/operands_*.wgsl files, which hold the
// bindings; where a and b are the same x (one buffer bound twice, or an operands_gram file) and TRANS_A and LOWER are set
// this is the Gram kernel: out += alpha·xᵀx.
//   inputs    a       [m, k], or [k, m] where TRANS_A      f32, row-major
//             b       [k, n], or [n, k] where TRANS_B      f32, row-major
//   outputs   out     [m, n]                               f32; read only where beta is not 0
//   params    m, n, k (counts); offset and pitch of each operand in elements; tile_rows, tile_columns (counts);
//             row_origin (index: row of the whole output where this dispatch begins, used by LOWER); alpha, beta
//   constants TRANS_A, TRANS_B; LOWER (skip tiles that lie wholly above the diagonal; diagonal tiles are full squares)
//   grid      one workgroup for each 64×64 tile of out, ordered in bands 8 tiles high so that a wave of workgroups
//             reads the same columns from L2
//   tile      64 threads, 8×8 outputs each as 16 named vec4 accumulators; a thread owns columns 4·tx.. and 32+4·tx..,
//             so that eight lanes read 128 consecutive bytes of workgroup memory without bank conflicts
//   memory    2·16·64·4 = 8 KiB of workgroup storage
//   accuracy  each output is one chain of k terms: |error| ≤ k·2⁻²⁴·Σ|a||b|, typically √k of it; the host cuts k at
//             fixed multiples (2048, tokens 1024; less only where k runs along rows that exceed a binding)

override TRANS_A: bool = false;
override TRANS_B: bool = false;
override LOWER: bool = false;

struct Params {
  m: u32,
  n: u32,
  k: u32,
  a_offset: u32,
  a_pitch: u32,
  b_offset: u32,
  b_pitch: u32,
  out_offset: u32,
  out_pitch: u32,
  tile_rows: u32,
  tile_columns: u32,
  row_origin: u32,
  alpha: f32,
  beta: f32,
}
@group(1) @binding(0) var<uniform> params: Params;

const BAND = 8u;

// [k within the step][16 patches of 4 along m or n]
var<workgroup> a_tile: array<vec4f, 256>;
var<workgroup> b_tile: array<vec4f, 256>;

// Four elements along k, zero beyond the end.
fn within_k(value: vec4f, k: u32) -> vec4f {
  return select(vec4f(), value, vec4u(k) + vec4u(0u, 1u, 2u, 3u) < vec4u(params.k));
}

// Each thread moves one 4×4 patch of each operand; where k is contiguous the patch is transposed in registers.
fn stage_a(thread: u32, k0: u32, m0: u32) {
  if (TRANS_A) {
    let quad = thread & 15u;
    let kk = (thread >> 4u) * 4u;
    for (var i = 0u; i < 4u; i++) {
      let value = load_a(k0 + kk + i, m0 + quad * 4u, params.k, params.m);
      a_tile[((kk + i) * 16u + quad) & 255u] = select(vec4f(), value, k0 + kk + i < params.k);
    }
  } else {
    let quad = thread >> 2u;
    let kk = (thread & 3u) * 4u;
    let row = m0 + quad * 4u;
    let q = transpose(mat4x4f(
      within_k(load_a(row, k0 + kk, params.m, params.k), k0 + kk),
      within_k(load_a(row + 1u, k0 + kk, params.m, params.k), k0 + kk),
      within_k(load_a(row + 2u, k0 + kk, params.m, params.k), k0 + kk),
      within_k(load_a(row + 3u, k0 + kk, params.m, params.k), k0 + kk)));
    a_tile[(kk * 16u + quad) & 255u] = q[0];
    a_tile[(kk * 16u + 16u + quad) & 255u] = q[1];
    a_tile[(kk * 16u + 32u + quad) & 255u] = q[2];
    a_tile[(kk * 16u + 48u + quad) & 255u] = q[3];
  }
}

fn stage_b(thread: u32, k0: u32, n0: u32) {
  if (!TRANS_B) {
    let quad = thread & 15u;
    let kk = (thread >> 4u) * 4u;
    for (var i = 0u; i < 4u; i++) {
      let value = load_b(k0 + kk + i, n0 + quad * 4u, params.k, params.n);
      b_tile[((kk + i) * 16u + quad) & 255u] = select(vec4f(), value, k0 + kk + i < params.k);
    }
  } else {
    let quad = thread >> 2u;
    let kk = (thread & 3u) * 4u;
    let row = n0 + quad * 4u;
    let q = transpose(mat4x4f(
      within_k(load_b(row, k0 + kk, params.n, params.k), k0 + kk),
      within_k(load_b(row + 1u, k0 + kk, params.n, params.k), k0 + kk),
      within_k(load_b(row + 2u, k0 + kk, params.n, params.k), k0 + kk),
      within_k(load_b(row + 3u, k0 + kk, params.n, params.k), k0 + kk)));
    b_tile[(kk * 16u + quad) & 255u] = q[0];
    b_tile[(kk * 16u + 16u + quad) & 255u] = q[1];
    b_tile[(kk * 16u + 32u + quad) & 255u] = q[2];
    b_tile[(kk * 16u + 48u + quad) & 255u] = q[3];
  }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let id = linear_workgroup(workgroup, grid);
  let band = id / (BAND * params.tile_columns);
  let in_band = id % (BAND * params.tile_columns);
  let height = min(BAND, params.tile_rows - min(params.tile_rows, band * BAND));
  let tile_row = band * BAND + in_band % max(height, 1u);
  let tile_column = in_band / max(height, 1u);
  var is_active = height > 0u;
  if (LOWER) { is_active = is_active && tile_column * 64u <= params.row_origin + tile_row * 64u + 63u; }
  // Skipped tiles run no step; a return here would also be uniform, but this keeps barriers plainly unconditional.
  let steps = select(0u, params.k, is_active);
  let m0 = tile_row * 64u;
  let n0 = tile_column * 64u;
  let tx = thread & 7u;
  let ty = thread >> 3u;

  var c00 = vec4f(); var c01 = vec4f();
  var c10 = vec4f(); var c11 = vec4f();
  var c20 = vec4f(); var c21 = vec4f();
  var c30 = vec4f(); var c31 = vec4f();
  var c40 = vec4f(); var c41 = vec4f();
  var c50 = vec4f(); var c51 = vec4f();
  var c60 = vec4f(); var c61 = vec4f();
  var c70 = vec4f(); var c71 = vec4f();
  for (var k0 = 0u; k0 < steps; k0 += 16u) {
    workgroupBarrier();
    stage_a(thread, k0, m0);
    stage_b(thread, k0, n0);
    workgroupBarrier();
    for (var k = 0u; k < 16u; k++) {
      let a0 = a_tile[k * 16u + ty];
      let a1 = a_tile[k * 16u + 8u + ty];
      let b0 = b_tile[k * 16u + tx];
      let b1 = b_tile[k * 16u + 8u + tx];
      c00 += a0.x * b0; c01 += a0.x * b1;
      c10 += a0.y * b0; c11 += a0.y * b1;
      c20 += a0.z * b0; c21 += a0.z * b1;
      c30 += a0.w * b0; c31 += a0.w * b1;
      c40 += a1.x * b0; c41 += a1.x * b1;
      c50 += a1.y * b0; c51 += a1.y * b1;
      c60 += a1.z * b0; c61 += a1.z * b1;
      c70 += a1.w * b0; c71 += a1.w * b1;
    }
  }
  if (!is_active) { return; }
  let row = m0 + ty * 4u;
  let col = n0 + tx * 4u;
  store_out(row + 0u, col, c00); store_out(row + 0u, col + 32u, c01);
  store_out(row + 1u, col, c10); store_out(row + 1u, col + 32u, c11);
  store_out(row + 2u, col, c20); store_out(row + 2u, col + 32u, c21);
  store_out(row + 3u, col, c30); store_out(row + 3u, col + 32u, c31);
  store_out(row + 32u, col, c40); store_out(row + 32u, col + 32u, c41);
  store_out(row + 33u, col, c50); store_out(row + 33u, col + 32u, c51);
  store_out(row + 34u, col, c60); store_out(row + 34u, col + 32u, c61);
  store_out(row + 35u, col, c70); store_out(row + 35u, col + 32u, c71);
}
