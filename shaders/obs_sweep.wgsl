// obs_sweep: prunes columns of one panel one after the other and moves the later columns to make up for each (OBS).
//   inputs    inverse    [panel width, panel width] view   f32; V = U_JJ, upper triangular, of this panel
//   outputs   panel      [panel columns, rows] view        f32, the panel transposed, updated in place
//             keep_mask  [rows, words]                     bits; read where GROUP = 0, written otherwise
//             losses     [1, rows]                         f32; ½ Σ e² added
//   params    rows, panel_columns, words (counts); panel_offset, panel_pitch, inverse_offset, inverse_pitch (elements);
//             first_column, end_column (panel columns swept); mask_column (weight column of panel column 0);
//             segment (columns chosen at once: the group where GROUP = 1, else all); prune_count (per group)
//   constants GROUP: 0 = mask given; 2, 4, 8, 16 = N:M chosen in registers; 1 = N:M of any group, chosen from memory
//   grid      one thread per weight row, 64 per workgroup; no workgroup memory and no barrier
//   method    16 columns at a time in registers. For each: e = w/V_cc where pruned, else 0; w = 0; every later column
//             j of the 16: w_j -= e·V_cj. Then each remaining panel column is read once, loses Σ e_i·V_ij, is written once.
//             N:M is chosen when the sweep reaches the group, from the weights as updated so far, by
//             |w|·(1/V_cc), with ranks by counting (ties prune the lower column).
//   traffic   V entries are the same address for all lanes (a broadcast); the panel is coalesced along rows
//   accuracy  each column is a chain of at most 128 multiply-adds; 1/V_cc is a WGSL division (2.5 ulp), then one multiply

override GROUP: u32 = 0u;

struct Params {
  rows: u32,
  panel_columns: u32,
  words: u32,
  panel_offset: u32,
  panel_pitch: u32,
  inverse_offset: u32,
  inverse_pitch: u32,
  first_column: u32,
  end_column: u32,
  mask_column: u32,
  segment: u32,
  prune_count: u32,
}
@group(0) @binding(0) var<storage, read> inverse: array<f32>;
@group(0) @binding(1) var<storage, read_write> panel: array<f32>;
@group(0) @binding(2) var<storage, read_write> keep_mask: array<u32>;
@group(0) @binding(3) var<storage, read_write> losses: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

fn v_at(row: u32, col: u32) -> f32 {
  return inverse[params.inverse_offset + row * params.inverse_pitch + col];
}

fn panel_at(column: u32, row: u32) -> u32 {
  return params.panel_offset + column * params.panel_pitch + row;
}

// The general group: ranks by counting over the panel in memory, keep bits written for the sweep below to read.
fn choose_segment(row: u32, first_word: u32, first: u32, count: u32) {
  for (var base = 0u; base < count; base += 32u) {
    let width = min(32u, count - base);
    var bits = 0u;
    for (var i = 0u; i < width; i++) {
      let column = first + base + i;
      let key = score_key(panel[panel_at(column, row)], 1.0 / v_at(column, column));
      var rank = 0u;
      for (var j = 0u; j < count; j++) {
        let other = score_key(panel[panel_at(first + j, row)], 1.0 / v_at(first + j, first + j));
        rank += select(0u, 1u, other < key || (other == key && j < base + i));
      }
      bits |= select(0u, 1u << i, rank >= params.prune_count);
    }
    write_bits(first_word, params.mask_column + first + base, width, bits);
  }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let row = linear_workgroup(workgroup, grid) * 64u + thread;
  if (row >= params.rows) { return; }
  let first_word = row * params.words;
  var loss = 0.0;
  for (var segment = params.first_column; segment < params.end_column; segment += params.segment) {
    let segment_end = min(segment + params.segment, params.end_column);
    if (GROUP == 1u) { choose_segment(row, first_word, segment, segment_end - segment); }
    for (var s0 = segment; s0 < segment_end; s0 += 16u) {
      let count = min(16u, segment_end - s0);
      var w = array<f32, 16>();
      var e = array<f32, 16>();
      var r = array<f32, 16>();
      for (var i = 0u; i < 16u; i++) {
        if (i < count) {
          w[i] = panel[panel_at(s0 + i, row)];
          r[i] = 1.0 / v_at(s0 + i, s0 + i);
        }
      }
      var bits = 0u;
      if (GROUP < 2u) { bits = read_bits(first_word, params.mask_column + s0, count); }
      for (var i = 0u; i < 16u; i++) {
        if (GROUP >= 2u) {
          if (i % max(GROUP, 1u) == 0u && i < count) {
            for (var p = 0u; p < GROUP; p++) {
              let key = score_key(w[i + p], r[i + p]);
              var rank = 0u;
              for (var q = 0u; q < GROUP; q++) {
                let other = score_key(w[i + q], r[i + q]);
                rank += select(0u, 1u, other < key || (other == key && q < p));
              }
              bits |= select(0u, 1u << (i + p), rank >= params.prune_count);
            }
          }
        }
        let pruned = i < count && ((bits >> i) & 1u) == 0u;
        let error = select(0.0, w[i] * r[i], pruned);
        e[i] = error;
        loss += 0.5 * error * error;
        if (pruned) { w[i] = 0.0; }
        for (var j = i + 1u; j < 16u; j++) {
          if (j < count) { w[j] -= error * v_at(s0 + i, s0 + j); }
        }
      }
      for (var i = 0u; i < 16u; i++) {
        if (i < count) { panel[panel_at(s0 + i, row)] = w[i]; }
      }
      if (GROUP >= 2u) { write_bits(first_word, params.mask_column + s0, count, bits); }
      for (var j = s0 + count; j < params.panel_columns; j++) {
        var value = panel[panel_at(j, row)];
        for (var i = 0u; i < 16u; i++) {
          if (i < count) { value -= e[i] * v_at(s0 + i, j); }
        }
        panel[panel_at(j, row)] = value;
      }
    }
  }
  losses[row] += loss;
}
