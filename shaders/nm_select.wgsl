// nm_select: in every group of `group` consecutive columns keep the `keep` largest |w|·scale; ties prune the lower column.
//   inputs    weight     [rows, columns] slab   f32; columns is a multiple of group
//             scale      [1, columns]           f32
//   outputs   keep_mask  [mask rows, words]     bits, the slab's rows written whole
//   params    rows, columns, words (counts); pitch (elements); first_row (index of the slab's first row);
//             group (2..64), prune_count (per group); chunks (of 256 columns per row)
//   grid      one workgroup of 256 threads for each 256 columns of each row
//   method    rank by counting: rank_i = #{j in the group: key_j < key_i, or equal and j < i}; pruned where
//             rank < prune_count. Keys are staged with the 63 columns before and after, so that a group may straddle
//             chunks and any group size works; each weight is read once from memory (plus the halo).
//   memory    384 keys = 1.5 KiB, 32 bytes of words
//   accuracy  exact

struct Params {
  rows: u32,
  columns: u32,
  words: u32,
  pitch: u32,
  first_row: u32,
  group_size: u32,
  prune_count: u32,
  chunks: u32,
}
@group(0) @binding(0) var<storage, read> weight: array<f32>;
@group(0) @binding(1) var<storage, read> scale: array<f32>;
@group(0) @binding(2) var<storage, read_write> keep_mask: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

const HALO = 64u;
var<workgroup> keys: array<u32, 384>;
var<workgroup> words: array<atomic<u32>, 8>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let id = linear_workgroup(workgroup, grid);
  let row = id / params.chunks;
  let base = (id % params.chunks) * 256u;
  if (row >= params.rows) { return; }
  if (thread < 8u) { atomicStore(&words[thread & 7u], 0u); }
  // keys[i] belongs to column base + i - HALO.
  for (var i = thread; i < 384u; i += 256u) {
    let shifted = base + i;
    if (shifted >= HALO && shifted - HALO < params.columns) {
      let column = shifted - HALO;
      keys[i] = score_key(weight[row * params.pitch + column], scale[column]);
    }
  }
  workgroupBarrier();
  let column = base + thread;
  if (column < params.columns) {
    let member = column % params.group_size;
    let first = thread + HALO - member;
    let key = keys[thread + HALO];
    var rank = 0u;
    for (var j = 0u; j < params.group_size; j++) {
      let other = keys[first + j];
      rank += select(0u, 1u, other < key || (other == key && j < member));
    }
    if (rank >= params.prune_count) { atomicOr(&words[(thread >> 5u) & 7u], 1u << (thread & 31u)); }
  }
  workgroupBarrier();
  let word = (base >> 5u) + thread;
  if (thread < 8u && word < params.words) {
    keep_mask[(params.first_row + row) * params.words + word] = atomicLoad(&words[thread & 7u]);
  }
}
