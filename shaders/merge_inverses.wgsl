// merge_inverses: joins the inverses of two neighbouring diagonal blocks into the inverse of both:
//             V = [[V1, -V1·R12·V2], [0, V2]] with R12 = L[J2, J1]ᵀ.
//   inputs    h         rows of whole panels of the factored [n, n]   f32; L in the lower triangle
//   outputs   inverses  [panels · 2·half, 2·half]                     f32; the upper right quarter of each panel written
//   params    panels (count), first_panel (index), half (block size, 1..64), n (count), h_pitch, inverse_pitch (elements)
//   grid      one workgroup of 64 threads per panel; a thread owns a column of V2: no barrier
//   memory    64×64 staged values of T = R12·V2, exactly 16 KiB, each thread reading only what it wrote
//   accuracy  two chains of at most 64 terms

struct Params {
  panels: u32,
  first_panel: u32,
  half_width: u32,
  n: u32,
  h_pitch: u32,
  inverse_pitch: u32,
}
@group(0) @binding(0) var<storage, read> h: array<f32>;
@group(0) @binding(1) var<storage, read_write> inverses: array<f32>;
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> staged: array<f32, 4096>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let panel = linear_workgroup(workgroup, grid);
  if (panel >= params.panels) { return; }
  let width = min(params.half_width, 64u);
  let start = (params.first_panel + panel) * 2u * width;
  if (start + width >= params.n) { return; }
  let second = min(width, params.n - start - width);
  if (thread >= second) { return; }
  let v1 = start * params.inverse_pitch;
  let v2 = (start + width) * params.inverse_pitch + width;
  let l21 = (panel * 2u + 1u) * width * params.h_pitch + start;
  // T[i, c] = Σ_{k ≤ c} L[J2 + k, J1 + i]·V2[k, c]
  for (var i = 0u; i < width; i++) {
    var sum = 0.0;
    for (var k = 0u; k <= thread; k++) {
      sum += h[l21 + k * params.h_pitch + i] * inverses[v2 + k * params.inverse_pitch + thread];
    }
    staged[((i & 63u) << 6u) + (thread & 63u)] = sum;
  }
  // V12[i, c] = -Σ_{k ≥ i} V1[i, k]·T[k, c]
  for (var i = 0u; i < width; i++) {
    var sum = 0.0;
    for (var k = i; k < width; k++) {
      sum += inverses[v1 + i * params.inverse_pitch + k] * staged[((k & 63u) << 6u) + (thread & 63u)];
    }
    inverses[v1 + i * params.inverse_pitch + width + thread] = -sum;
  }
}
