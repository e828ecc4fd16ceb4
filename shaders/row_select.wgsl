// row_select: in every row prune the `prune_count` smallest |w|·scale; among equal ones the lowest columns.
//   inputs    weight     [rows, columns] slab   f32
//             scale      [1, columns]           f32
//   outputs   keep_mask  [mask rows, words]     bits, the slab's rows written whole
//   params    rows, columns, words, prune_count (counts); pitch (elements); first_row (index of the slab's first row)
//   grid      one workgroup of 256 threads per row
//   method    exact radix selection on the 31 bits of the key in digits of 11, 11 and 9: histogram in workgroup memory
//             by integer atomics, the bin holding the rank found by a scan. 11 bits first, because a digit of 8 is
//             nearly the exponent, of which a row has only a few. Then one marking pass with ordered ties.
//   memory    8 KiB histogram + 1 KiB scan + 64 bytes
//   accuracy  exact: integers throughout; prunes exactly prune_count < columns of each row

struct Params {
  rows: u32,
  columns: u32,
  words: u32,
  prune_count: u32,
  pitch: u32,
  first_row: u32,
}
@group(0) @binding(0) var<storage, read> weight: array<f32>;
@group(0) @binding(1) var<storage, read> scale: array<f32>;
@group(0) @binding(2) var<storage, read_write> keep_mask: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> bins: array<atomic<u32>, 2048>;
// {prefix of the threshold so far, rank within that prefix}
var<workgroup> found: vec2u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let row = linear_workgroup(workgroup, grid);
  if (row >= params.rows) { return; }
  let start = row * params.pitch;
  // The 0-based rank of the smallest kept key: the first `rank` keys in ascending order are pruned.
  var prefix = 0u;
  var rank = params.prune_count;
  for (var digit = 0u; digit < 3u; digit++) {
    let shift = select(select(0u, 9u, digit == 1u), 20u, digit == 0u);
    let above = select(select(9u, 20u, digit == 1u), 31u, digit == 0u);
    let digit_mask = (1u << (above - shift)) - 1u;
    for (var i = thread; i < 2048u; i += 256u) { atomicStore(&bins[i], 0u); }
    workgroupBarrier();
    for (var column = thread; column < params.columns; column += 256u) {
      let key = score_key(weight[start + column], scale[column]);
      if ((key >> above) == (prefix >> above)) { atomicAdd(&bins[(key >> shift) & digit_mask], 1u); }
    }
    workgroupBarrier();
    var sum = 0u;
    for (var i = 0u; i < 8u; i++) { sum += atomicLoad(&bins[(thread * 8u + i) & 2047u]); }
    var before = exclusive_scan(thread, sum);
    if (before <= rank && rank < before + sum) {
      for (var i = 0u; i < 8u; i++) {
        let count = atomicLoad(&bins[(thread * 8u + i) & 2047u]);
        if (rank < before + count) {
          found = vec2u(prefix | ((thread * 8u + i) << shift), rank - before);
          break;
        }
        before += count;
      }
    }
    let next = workgroupUniformLoad(&found);
    prefix = next.x;
    rank = next.y;
  }
  // Keys below the threshold go, and of the equal ones the first `rank`.
  var ties_before = 0u;
  for (var base = 0u; base < params.columns; base += 256u) {
    let column = base + thread;
    let in_row = column < params.columns;
    var key = 0u;
    if (in_row) { key = score_key(weight[start + column], scale[column]); }
    ties_before += mark_chunk(thread, in_row, key, prefix, rank, ties_before);
    let word = (base >> 5u) + thread;
    if (thread < 8u && word < params.words) {
      keep_mask[(params.first_row + row) * params.words + word] = atomicLoad(&kept_words[thread & 7u]);
    }
    workgroupBarrier();
  }
}
