// ordered_marks: keep bits of 256 consecutive columns of a row, where of the keys equal to the threshold only the
// first `prune_ties` of the row go. Bits are collected by atomicOr (order-free); a tie's rank is a population count
// of the tie bits before it. Must be called by all 256 threads in uniform control flow.
// Afterwards `kept_words[0..8)` holds the words; the caller reads them and then passes a barrier before the next call.
// Returns the number of ties among the 256. Memory: 64 bytes of workgroup storage.

var<workgroup> kept_words: array<atomic<u32>, 8>;
var<workgroup> tie_words: array<atomic<u32>, 8>;

fn mark_chunk(thread: u32, in_row: bool, key: u32, threshold: u32, prune_ties: u32, ties_before: u32) -> u32 {
  if (thread < 8u) {
    atomicStore(&kept_words[thread & 7u], 0u);
    atomicStore(&tie_words[thread & 7u], 0u);
  }
  workgroupBarrier();
  let word = (thread >> 5u) & 7u;
  let bit = 1u << (thread & 31u);
  let tie = in_row && key == threshold;
  if (in_row && key > threshold) { atomicOr(&kept_words[word], bit); }
  if (tie) { atomicOr(&tie_words[word], bit); }
  workgroupBarrier();
  var before = 0u;
  var total = 0u;
  for (var i = 0u; i < 8u; i++) {
    let ties = atomicLoad(&tie_words[i]);
    total += countOneBits(ties);
    before += select(select(0u, countOneBits(ties & (bit - 1u)), i == word), countOneBits(ties), i < word);
  }
  if (tie && ties_before + before >= prune_ties) { atomicOr(&kept_words[word], bit); }
  workgroupBarrier();
  return total;
}
