// select_histogram: one digit's histogram of the keys of a whole panel or matrix, added to the global bins.
//   inputs    weight  [rows, columns] view   f32
//             scale   [1, …]                 f32, by row of the view where SCALE_BY_ROW (a transposed panel), else by column
//             state   {prefix, rank, equal}  u32, see select_pick
//   outputs   bins    2048 counts            u32, updated in place
//   params    rows, columns (counts); offset, pitch (elements); scale_offset (elements); shift (lowest bit of the
//             digit), above (first bit above it, 31 = no filter); chunks (of 1024 columns per row); total (chunks · rows)
//   constants SCALE_BY_ROW
//   grid      at most 512 workgroups of 256 threads, striding over chunks
//   method    local histogram in workgroup memory, then one atomicAdd for each non-zero bin: order-free integers
//   memory    8 KiB of workgroup storage
//   accuracy  exact

override SCALE_BY_ROW: bool = false;

struct Params {
  rows: u32,
  columns: u32,
  offset: u32,
  pitch: u32,
  scale_offset: u32,
  shift: u32,
  above: u32,
  chunks: u32,
  total: u32,
  workgroups: u32,
}
@group(0) @binding(0) var<storage, read> weight: array<f32>;
@group(0) @binding(1) var<storage, read> scale: array<f32>;
@group(0) @binding(2) var<storage, read> state: array<u32>;
@group(0) @binding(3) var<storage, read_write> bins: array<atomic<u32>>;
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> local_bins: array<atomic<u32>, 2048>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let id = linear_workgroup(workgroup, grid);
  for (var i = thread; i < 2048u; i += 256u) { atomicStore(&local_bins[i], 0u); }
  workgroupBarrier();
  let unfiltered = params.above >= 31u;
  let wanted = state[0] >> (params.above & 31u);
  let digit_mask = (1u << (params.above - params.shift)) - 1u;
  if (id < params.workgroups) {
    for (var chunk = id; chunk < params.total; chunk += params.workgroups) {
      let row = chunk / params.chunks;
      let first = (chunk % params.chunks) * 1024u;
      let end = min(first + 1024u, params.columns);
      for (var column = first + thread; column < end; column += 256u) {
        let s = scale[params.scale_offset + select(column, row, SCALE_BY_ROW)];
        let key = score_key(weight[params.offset + row * params.pitch + column], s);
        if (unfiltered || (key >> (params.above & 31u)) == wanted) {
          atomicAdd(&local_bins[(key >> params.shift) & digit_mask & 2047u], 1u);
        }
      }
    }
  }
  workgroupBarrier();
  for (var i = thread; i < 2048u; i += 256u) {
    let count = atomicLoad(&local_bins[i]);
    if (count > 0u) { atomicAdd(&bins[i], count); }
  }
}
