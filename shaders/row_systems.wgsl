// row_systems: for each weight row with pruned columns q of a block the λ with λ·K[q, q] = w[q], zero elsewhere.
//   inputs    panel     [width, rows] view    f32, the block transposed
//             matrix    [width, width] view   f32, K, symmetric positive definite
//             inverse   [width, width] view   f32, A = K⁻¹
//             scale     [1, width] view       f32, read where group > 0
//   outputs   keep_mask    [mask rows, words]   bits; written where group > 0 (N:M chosen here), read otherwise
//             multipliers  [width, rows] view   f32, λ transposed
//             losses       [1, mask rows]       f32; ½ λ·w added, or 2e38 where the system is not positive definite
//             scratch      one triangle for each workgroup where IN_SCRATCH, else not used
//   params    rows (of this dispatch), first_row (index), width (1..512), words (counts); offset and pitch of each view in
//             elements; mask_column (index); group (0: mask given), prune_count (per group); scale_offset
//   constants IN_SCRATCH: the system lies in `scratch` instead of workgroup memory, for blocks of more than 129 columns
//   grid      one workgroup of 64 threads for each row
//   method    where q is more than half of the block, through the kept columns p: y = λ·K is w on q and λ is 0 on p, so
//             y[p]·A[p, p] = -w[q]·A[q, p] and λ = y·A. So a system has at most width/2 unknowns.
//             Factor L·D·Lᵀ by columns from the left, S = L·D stored, the right-hand side as one more row (its forward
//             substitution), one barrier per column; thread i makes entry i of the column:
//             s_ij = m_ij - Σ_{k<j} s_ik·(s_jk / d_k). Then x from the last unknown up, again one barrier each.
//   memory    16 KB of workgroup storage, 8.6 KB of it a packed triangle of 65 rows
//   failure   a pivot that is not positive and finite; the test is on bits, as in chol_diag
//   accuracy  backward error of Cholesky, which does not depend on the scale of rows and columns, so nothing is scaled

override IN_SCRATCH: bool = false;

struct Params {
  rows: u32,
  first_row: u32,
  width: u32,
  words: u32,
  panel_offset: u32,
  panel_pitch: u32,
  matrix_offset: u32,
  matrix_pitch: u32,
  inverse_offset: u32,
  inverse_pitch: u32,
  out_offset: u32,
  out_pitch: u32,
  mask_column: u32,
  group: u32,
  prune_count: u32,
  scale_offset: u32,
}
@group(0) @binding(0) var<storage, read> panel: array<f32>;
@group(0) @binding(1) var<storage, read> matrix: array<f32>;
@group(0) @binding(2) var<storage, read> inverse: array<f32>;
@group(0) @binding(3) var<storage, read> scale: array<f32>;
@group(0) @binding(4) var<storage, read_write> keep_mask: array<u32>;
@group(0) @binding(5) var<storage, read_write> multipliers: array<f32>;
@group(0) @binding(6) var<storage, read_write> losses: array<f32>;
@group(0) @binding(7) var<storage, read_write> scratch: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

const LOSS_OF_FAILURE = 2e38f;

var<workgroup> weights: array<f32, 512>;
var<workgroup> order: array<u32, 512>;     // pruned columns, then kept ones
var<workgroup> products: array<f32, 512>;  // w[q]·A[q, :]
var<workgroup> reciprocals: array<f32, 256>;
var<workgroup> tile: array<f32, 2145>;
var<workgroup> sums: array<f32, 64>;
var<workgroup> bits: array<atomic<u32>, 16>;
var<workgroup> pruned_total: u32;
var<workgroup> failed: u32;
var<private> system: u32;

fn a_at(row: u32, col: u32) -> f32 {
  return inverse[params.inverse_offset + row * params.inverse_pitch + col];
}

fn triangle(row: u32, col: u32) -> u32 {
  return ((row * (row + 1u)) >> 1u) + col;
}

fn load_entry(row: u32, col: u32) -> f32 {
  if (IN_SCRATCH) { return scratch[system + triangle(row, col)]; }
  return tile[triangle(row, col)];
}

fn store_entry(row: u32, col: u32, value: f32) {
  if (IN_SCRATCH) { scratch[system + triangle(row, col)] = value; } else { tile[triangle(row, col)] = value; }
}

fn sync() {
  if (IN_SCRATCH) { storageBarrier(); }
  workgroupBarrier();
}

fn is_positive_finite(value: f32) -> bool {
  let pattern = bitcast<u32>(value);
  return pattern > 0u && pattern < 0x7f800000u;
}

fn word_bits(word: u32) -> u32 {
  return min(32u, params.width - 32u * word);
}

// Keep bit of column c by its rank in its group.
fn choose(c: u32) {
  let first = c - c % params.group;
  let key = score_key(weights[c], scale[params.scale_offset + c]);
  var rank = 0u;
  for (var j = first; j < first + params.group; j++) {
    let other = score_key(weights[j], scale[params.scale_offset + j]);
    rank += select(0u, 1u, other < key || (other == key && j < c));
  }
  if (rank >= params.prune_count) { atomicOr(&bits[c >> 5u], 1u << (c & 31u)); }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let id = linear_workgroup(workgroup, grid);
  if (id >= params.rows) { return; }
  let row = params.first_row + id;
  let first_word = row * params.words;
  let width = params.width;
  system = id * triangle(width / 2u + 1u, 0u);
  for (var c = thread; c < width; c += 64u) {
    weights[c] = panel[params.panel_offset + c * params.panel_pitch + row];
  }
  if (thread < 16u) {
    var word = 0u;
    if (params.group == 0u && 32u * thread < width) {
      let count = word_bits(thread);
      word = read_bits(first_word, params.mask_column + 32u * thread, count) & (0xffffffffu >> (32u - count));
    }
    atomicStore(&bits[thread], word);
  }
  workgroupBarrier();
  if (params.group > 0u) {
    for (var c = thread; c < width; c += 64u) { choose(c); }
    workgroupBarrier();
  }
  if (thread == 0u) {
    var kept = 0u;
    for (var word = 0u; 32u * word < width; word++) {
      let here = atomicLoad(&bits[word]);
      kept += countOneBits(here);
      if (params.group > 0u) { write_bits(first_word, params.mask_column + 32u * word, word_bits(word), here); }
    }
    pruned_total = width - kept;
    failed = 0u;
  }
  let pruned = workgroupUniformLoad(&pruned_total);
  for (var c = thread; c < width; c += 64u) {
    let here = atomicLoad(&bits[c >> 5u]);
    let bit = 1u << (c & 31u);
    var kept_before = countOneBits(here & (bit - 1u));
    for (var word = 0u; word < (c >> 5u); word++) { kept_before += countOneBits(atomicLoad(&bits[word])); }
    order[select(c - kept_before, pruned + kept_before, (here & bit) != 0u)] = c;
  }
  workgroupBarrier();

  let by_kept = 2u * pruned > width;
  let first = select(0u, pruned, by_kept);
  let n = select(pruned, width - pruned, by_kept);
  if (by_kept) {
    for (var c = thread; c < width; c += 64u) {
      var sum = 0.0;
      for (var i = 0u; i < pruned; i++) { sum += weights[order[i]] * a_at(order[i], c); }
      products[c] = sum;
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < n; i++) {
    let r = order[first + i];
    for (var j = thread; j <= i; j += 64u) {
      let c = order[first + j];
      if (by_kept) { store_entry(i, j, a_at(r, c)); }
      else { store_entry(i, j, matrix[params.matrix_offset + r * params.matrix_pitch + c]); }
    }
  }
  for (var i = thread; i < n; i += 64u) {
    let c = order[first + i];
    store_entry(n, i, select(weights[c], -products[c], by_kept));
  }
  sync();

  for (var j = 0u; j < n; j++) {
    for (var i = j + thread; i <= n; i += 64u) {
      var s = load_entry(i, j);
      for (var k = 0u; k < j; k++) { s -= load_entry(i, k) * (load_entry(j, k) * reciprocals[k]); }
      store_entry(i, j, s);
      if (i == j) {
        let good = is_positive_finite(s);
        reciprocals[j] = select(0.0, 1.0 / s, good);
        if (!good) { failed = 1u; }
      }
    }
    sync();
  }
  for (var step = 0u; step < n; step++) {
    let j = n - 1u - step;
    let x = load_entry(n, j) * reciprocals[j];
    for (var k = thread; k < j; k += 64u) { store_entry(n, k, load_entry(n, k) - load_entry(j, k) * x); }
    sync();
  }

  let solved = workgroupUniformLoad(&failed) == 0u;
  var loss = 0.0;
  for (var i = thread; i < width; i += 64u) {
    let c = order[i];
    var lambda = 0.0;
    if (i < pruned && solved) {
      if (by_kept) {
        lambda = products[c];
        for (var k = 0u; k < n; k++) { lambda += load_entry(n, k) * reciprocals[k] * a_at(order[pruned + k], c); }
      } else {
        lambda = load_entry(n, i) * reciprocals[i];
      }
    }
    multipliers[params.out_offset + c * params.out_pitch + row] = lambda;
    loss += 0.5 * lambda * weights[c];
  }
  sums[thread] = loss;
  workgroupBarrier();
  if (thread == 0u) {
    var total = 0.0;
    for (var i = 0u; i < 64u; i++) { total += sums[i]; }
    losses[row] += select(LOSS_OF_FAILURE, total, solved);
  }
}
