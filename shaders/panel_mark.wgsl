// panel_mark: writes the keep bits of a column block chosen by select_pick's threshold.
//   inputs    panel      [columns, rows] view   f32, the panel transposed
//             scale      [1, columns] view      f32
//             state      see select_pick
//   outputs   keep_mask  [rows, words]          bits of columns [mask_column, mask_column + columns) written
//             counts     [rows]                 u32, ties before this panel's part of each row; moved on past it
//   params    rows, columns, words (counts); offset, pitch (elements of the panel); scale_offset; mask_column (index)
//   grid      one thread per weight row, 64 per workgroup: a thread owns its row's words, walks the columns in order
//   ties      the lower row first, then the lower column
//   accuracy  exact

struct Params {
  rows: u32,
  columns: u32,
  words: u32,
  offset: u32,
  pitch: u32,
  scale_offset: u32,
  mask_column: u32,
}
@group(0) @binding(0) var<storage, read> panel: array<f32>;
@group(0) @binding(1) var<storage, read> scale: array<f32>;
@group(0) @binding(2) var<storage, read> state: array<u32>;
@group(0) @binding(3) var<storage, read_write> counts: array<u32>;
@group(0) @binding(4) var<storage, read_write> keep_mask: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let row = linear_workgroup(workgroup, grid) * 64u + thread;
  if (row >= params.rows) { return; }
  let threshold = state[0];
  let prune_ties = state[1];
  // Where no tie or every tie goes, the counts were not made: rank 0 for all gives the right answer.
  let ranked = prune_ties != 0u && prune_ties != state[2];
  var tie = 0u;
  if (ranked) { tie = counts[row]; }
  for (var base = 0u; base < params.columns; base += 32u) {
    let count = min(32u, params.columns - base);
    var bits = 0u;
    for (var i = 0u; i < count; i++) {
      let column = base + i;
      let key = score_key(panel[params.offset + column * params.pitch + row], scale[params.scale_offset + column]);
      var kept = key > threshold;
      if (key == threshold) {
        kept = tie >= prune_ties;
        if (ranked) { tie++; }
      }
      bits |= select(0u, 1u << i, kept);
    }
    write_bits(row * params.words, params.mask_column + base, count, bits);
  }
  if (ranked) { counts[row] = tie; }
}
