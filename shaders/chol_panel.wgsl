// chol_panel: the rows of the factor left of a diagonal block: L[J, c] = V·A[J, c], in place, for columns c < start.
//   inputs    inverses  [.., panel width]                      f32; V of block J, upper triangular
//   outputs   h         rows [start, start + size) of [n, n]   f32; columns [0, columns) become L
//   params    size (1..64), columns (count), h_pitch, inverse_offset, inverse_pitch (elements)
//   grid      one workgroup of 64 threads for each 64 columns; a thread owns a column: no barrier
//   method    A = R·L for these rows, so L = V·A. A product with the explicit inverse instead of a triangular solve: the
//             block is at most 64 wide. Row i needs only rows k ≥ i, so rows are done downwards, in place, 16 at a time.
//   memory    64×64 staged values, exactly 16 KiB, each thread reading only what it wrote (one column, one bank)
//   accuracy  chains of at most 64 terms; the block's condition is at most that of H's block

struct Params {
  size: u32,
  columns: u32,
  h_pitch: u32,
  inverse_offset: u32,
  inverse_pitch: u32,
}
@group(0) @binding(0) var<storage, read> inverses: array<f32>;
@group(0) @binding(1) var<storage, read_write> h: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> staged: array<f32, 4096>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let column = linear_workgroup(workgroup, grid) * 64u + thread;
  if (column >= params.columns) { return; }
  let size = min(params.size, 64u);
  for (var k = 0u; k < size; k++) { staged[((k & 63u) << 6u) + (thread & 63u)] = h[k * params.h_pitch + column]; }
  for (var i0 = 0u; i0 < size; i0 += 16u) {
    var acc = array<f32, 16>();
    for (var k = i0; k < size; k++) {
      let value = staged[((k & 63u) << 6u) + (thread & 63u)];
      // Zeros below the diagonal of V make the terms k < i vanish; rows beyond the block are computed and dropped.
      for (var i = 0u; i < 16u; i++) {
        acc[i] += inverses[params.inverse_offset + min(i0 + i, size - 1u) * params.inverse_pitch + k] * value;
      }
    }
    for (var i = 0u; i < 16u; i++) {
      if (i0 + i < size) { h[(i0 + i) * params.h_pitch + column] = acc[i]; }
    }
  }
}
