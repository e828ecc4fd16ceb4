// panel_ties: for each weight row the number of keys of a transposed panel that equal the threshold.
//   inputs    panel   [columns, rows] view   f32, the panel transposed
//             scale   [1, columns] view      f32
//             state   see select_pick
//   outputs   counts  [rows]                 u32; left alone where all ties or none are pruned (nobody reads them then)
//   params    rows, columns (of the weight); offset, pitch (elements of the panel); scale_offset; add (flag: add to
//             the counts, for a panel that is bound in parts)
//   grid      one thread per weight row, 64 per workgroup: reads are coalesced along rows
//   accuracy  exact

struct Params {
  rows: u32,
  columns: u32,
  offset: u32,
  pitch: u32,
  scale_offset: u32,
  add: u32,
}
@group(0) @binding(0) var<storage, read> panel: array<f32>;
@group(0) @binding(1) var<storage, read> scale: array<f32>;
@group(0) @binding(2) var<storage, read> state: array<u32>;
@group(0) @binding(3) var<storage, read_write> counts: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let row = linear_workgroup(workgroup, grid) * 64u + thread;
  if (row >= params.rows || state[1] == 0u || state[1] == state[2]) { return; }
  var ties = select(0u, counts[row], params.add != 0u);
  for (var column = 0u; column < params.columns; column++) {
    let key = score_key(panel[params.offset + column * params.pitch + row], scale[params.scale_offset + column]);
    ties += select(0u, 1u, key == state[0]);
  }
  counts[row] = ties;
}
