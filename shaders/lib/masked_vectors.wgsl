// masked_vectors: one vec4 of a slab of rows per thread, and which of its four weights a mask keeps.
// The file that joins this one declares `params` with vectors (vec4 per row that hold columns), row_pitch (vec4), count
// (vectors · rows), first_row (index of the slab's first row) and words (per mask row), and the whole mask `keep_mask`.

// Index of the vec4 in the slab.
fn masked_vector(i: u32) -> u32 {
  return i / params.vectors * params.row_pitch + i % params.vectors;
}

fn kept_of(i: u32) -> vec4<bool> {
  let column = i % params.vectors * 4u;
  let bits = keep_mask[(params.first_row + i / params.vectors) * params.words + (column >> 5u)] >> (column & 31u);
  return (vec4u(bits) & vec4u(1u, 2u, 4u, 8u)) != vec4u();
}
