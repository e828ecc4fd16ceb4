// matrix_mark: writes the keep bits of a row-major weight chosen by select_pick's threshold.
//   inputs    weight     [rows, columns] slab   f32
//             scale      [1, columns]           f32
//             state      see select_pick
//             counts     [all rows]             u32, ties in the rows before each row
//   outputs   keep_mask  [mask rows, words]     bits, the slab's rows written whole
//   params    rows, columns, words (counts); pitch (elements); first_row (index of the slab's first row)
//   grid      one workgroup of 256 threads per row
//   memory    64 bytes of workgroup storage
//   ties      in row-major order
//   accuracy  exact

struct Params {
  rows: u32,
  columns: u32,
  words: u32,
  pitch: u32,
  first_row: u32,
}
@group(0) @binding(0) var<storage, read> weight: array<f32>;
@group(0) @binding(1) var<storage, read> scale: array<f32>;
@group(0) @binding(2) var<storage, read> state: array<u32>;
@group(0) @binding(3) var<storage, read> counts: array<u32>;
@group(0) @binding(4) var<storage, read_write> keep_mask: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let row = linear_workgroup(workgroup, grid);
  if (row >= params.rows) { return; }
  let prune_ties = state[1];
  // Where every tie goes the counts were not made: an unreachable rank prunes them all; where none goes, rank 0 keeps all.
  let all_go = prune_ties == state[2];
  var ties_before = 0u;
  if (prune_ties != 0u && !all_go) { ties_before = counts[params.first_row + row]; }
  let limit = select(prune_ties, 0xffffffffu, all_go);
  for (var base = 0u; base < params.columns; base += 256u) {
    let column = base + thread;
    let in_row = column < params.columns;
    var key = 0u;
    if (in_row) { key = score_key(weight[row * params.pitch + column], scale[column]); }
    ties_before += mark_chunk(thread, in_row, key, state[0], limit, ties_before);
    let word = (base >> 5u) + thread;
    if (thread < 8u && word < params.words) {
      keep_mask[(params.first_row + row) * params.words + word] = atomicLoad(&kept_words[thread & 7u]);
    }
    workgroupBarrier();
  }
}
