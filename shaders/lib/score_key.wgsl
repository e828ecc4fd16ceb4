// score_key: |weight|·scale as an integer whose order is the order of the score.
// For non-negative floats the bit pattern is monotone. One correctly rounded multiplication and nothing else, so that
// every kernel and both devices see the same bits; the sign bit is masked because backends with relaxed
// floating-point rules do not promise the sign of zero. Ties: the lower index is pruned first, everywhere.

fn score_key(weight: f32, scale: f32) -> u32 {
  return bitcast<u32>(abs(weight) * scale) & 0x7fffffffu;
}
