// chol_diag: factors one diagonal block A = LᵀL (L lower, the reversed Cholesky) and inverts R = Lᵀ.
//   outputs   h         rows [start, start + size) of [n, n]   f32; the block's lower triangle becomes L
//             inverses  [.., panel width]                      f32; the block's upper triangle becomes V = R⁻¹
//             diagonal  [1, n]                                 f32; elements start.. become the diagonal of R
//             status    {failed, column, pivot bits}           u32; the first failure is kept
//   params    start (index), size (1..64), h_pitch, inverse_offset, inverse_pitch (elements)
//   grid      one workgroup of 64 threads; it is serial by nature: 2·size barriers
//   method    for j from the last column to the first: R_jj = √A_jj; L[j, i] = A[j, i]/R_jj; A[i, k] -= L[j, i]·L[j, k].
//             Then column c of V by back substitution, one thread per column:
//             V[c, c] = 1/R_cc, V[i, c] = -(Σ_{i<k≤c} L[k, i]·V[k, c])/R_ii.
//             L lives in the lower triangle of the tile, V without its diagonal in the upper.
//   memory    a 64×64 tile, exactly 16 KiB. Rows are rotated instead of padded: element (i, j) at i·64 + ((i + j) & 63),
//             so rows, columns and the diagonal each touch 32 different banks.
//   failure   a pivot that is not positive and finite is recorded and replaced by 1, so that no NaN spreads; the host
//             reads the status once at the end. The test is on bits, because backends with relaxed math drop NaN tests.
//   accuracy  backward error of Cholesky: |LᵀL - A| ≤ (size + 1)·2⁻²⁴·|Lᵀ||L| per element

struct Params {
  start: u32,
  size: u32,
  h_pitch: u32,
  inverse_offset: u32,
  inverse_pitch: u32,
}
@group(0) @binding(0) var<storage, read_write> h: array<f32>;
@group(0) @binding(1) var<storage, read_write> inverses: array<f32>;
@group(0) @binding(2) var<storage, read_write> diagonal: array<f32>;
@group(0) @binding(3) var<storage, read_write> status: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> tile: array<f32, 4096>;

fn at(row: u32, col: u32) -> u32 {
  return ((row & 63u) << 6u) + ((row + col) & 63u);
}

fn is_positive_finite(value: f32) -> bool {
  let bits = bitcast<u32>(value);
  return bits > 0u && bits < 0x7f800000u;
}

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) thread: u32) {
  let size = min(params.size, 64u);
  for (var row = 0u; row < size; row++) {
    if (thread <= row) { tile[at(row, thread)] = h[row * params.h_pitch + params.start + thread]; }
  }
  workgroupBarrier();

  for (var step = 0u; step < size; step++) {
    let j = size - 1u - step;
    let pivot = tile[at(j, j)];
    let good = is_positive_finite(pivot);
    let r = sqrt(select(1.0, pivot, good));
    if (thread == j) {
      if (!good && status[0] == 0u) {
        status[0] = 1u;
        status[1] = params.start + j;
        status[2] = bitcast<u32>(pivot);
      }
    }
    workgroupBarrier();
    // Thread i < j owns row i of what remains.
    var l = 0.0;
    if (thread < j) {
      l = tile[at(j, thread)] / r;
      tile[at(j, thread)] = l;
    }
    if (thread == j) { tile[at(j, j)] = r; }
    workgroupBarrier();
    if (thread < j) {
      for (var k = 0u; k <= thread; k++) { tile[at(thread, k)] -= l * tile[at(j, k)]; }
    }
    workgroupBarrier();
  }

  if (thread < size) {
    let last = 1.0 / tile[at(thread, thread)];
    for (var step = 0u; step < thread; step++) {
      let i = thread - 1u - step;
      var sum = tile[at(thread, i)] * last;
      for (var k = i + 1u; k < thread; k++) { sum += tile[at(k, i)] * tile[at(k, thread)]; }
      tile[at(i, thread)] = -sum / tile[at(i, i)];
    }
    inverses[params.inverse_offset + thread * params.inverse_pitch + thread] = last;
    diagonal[params.start + thread] = tile[at(thread, thread)];
  }
  workgroupBarrier();
  for (var row = 0u; row < size; row++) {
    if (thread <= row) { h[row * params.h_pitch + params.start + thread] = tile[at(row, thread)]; }
    if (thread > row && thread < size) {
      inverses[params.inverse_offset + row * params.inverse_pitch + thread] = tile[at(row, thread)];
    }
  }
}
