// mask_bits: read and write up to 32 consecutive keep bits of one row, at any column, possibly across two words.
// Not atomic: within a dispatch the words of a row belong to one thread. The file that joins this one declares
// `keep_mask` as a read_write array<u32>.

// `first_word` is the index of the row's first word.
fn read_bits(first_word: u32, column: u32, count: u32) -> u32 {
  let word = first_word + (column >> 5u);
  let shift = column & 31u;
  var bits = keep_mask[word] >> shift;
  if (shift + count > 32u) { bits |= keep_mask[word + 1u] << (32u - shift); }
  return bits;
}

fn write_bits(first_word: u32, column: u32, count: u32, bits: u32) {
  let word = first_word + (column >> 5u);
  let shift = column & 31u;
  let ones = select((1u << (count & 31u)) - 1u, 0xffffffffu, count >= 32u);
  keep_mask[word] = (keep_mask[word] & ~(ones << shift)) | ((bits & ones) << shift);
  if (shift + count > 32u) {
    let back = 32u - shift;
    keep_mask[word + 1u] = (keep_mask[word + 1u] & ~(ones >> back)) | ((bits & ones) >> back);
  }
}
