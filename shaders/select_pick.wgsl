// select_pick: finds the bin that holds the wanted rank, narrows the state to it and clears the bins.
//   outputs   bins   2048 counts            u32, left zero
//             state  {prefix, rank, equal, placed}  u32: the threshold's bits known so far; the 0-based rank of the smallest
//                    kept key among keys with that prefix (after the last digit: ties to prune); keys with that prefix;
//                    zeros that mask_count found elsewhere, taken off prune_count by the first digit and left 0
//   params    shift (of this digit), first (flag: begin with prefix 0 and rank prune_count), prune_count (count),
//             everything (flag: nothing is kept; the threshold becomes larger than every key), elements (count of keys:
//             where placed zeros leave as many to prune, nothing is kept either)
//   grid      one workgroup of 256 threads
//   memory    1 KiB of workgroup storage
//   accuracy  exact

struct Params {
  shift: u32,
  first: u32,
  prune_count: u32,
  everything: u32,
  elements: u32,
}
@group(0) @binding(0) var<storage, read_write> bins: array<u32>;
@group(0) @binding(1) var<storage, read_write> state: array<u32>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) thread: u32) {
  let prefix = select(state[0], 0u, params.first != 0u);
  let rank = select(state[1], params.prune_count - min(state[3], params.prune_count), params.first != 0u);
  if (params.everything != 0u) {
    if (thread == 0u) {
      state[0] = 0xffffffffu;
      state[1] = 0u;
      state[2] = 0u;
    }
    return;
  }
  var sum = 0u;
  for (var i = 0u; i < 8u; i++) { sum += bins[thread * 8u + i]; }
  // The scan's barriers also separate everybody's read of the state from its update below.
  storageBarrier();
  var before = exclusive_scan(thread, sum);
  let here = before <= rank && rank < before + sum;
  var done = false;
  if (thread == 0u && params.first != 0u) {
    state[3] = 0u;
    // No bin holds this rank; the other digits' histograms find no key and change nothing.
    if (rank >= params.elements) {
      state[0] = 0xffffffffu;
      state[1] = 0u;
      state[2] = 0u;
    }
  }
  for (var i = 0u; i < 8u; i++) {
    let count = bins[thread * 8u + i];
    bins[thread * 8u + i] = 0u;
    if (here && !done) {
      if (rank < before + count) {
        state[0] = prefix | ((thread * 8u + i) << params.shift);
        state[1] = rank - before;
        state[2] = count;
        done = true;
      }
      before += count;
    }
  }
}
