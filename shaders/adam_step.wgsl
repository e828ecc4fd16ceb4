// adam_step: one step of Adam, with a pull towards split - dual and a mask where they are asked for.
//   g' = gradient_scale·g + strength·((x - z) + u),  m = b1·m + (1 - b1)·g',  v = b2·v + (1 - b2)·g'²,
//   x -= step_size·m / (√v·root_scale + epsilon); pruned entries of x, m and v become +0
//   inputs    keep_mask    [all rows, words]      bits, 1 = kept; the whole mask, not read unless MASK
//             gradient     [rows, columns] slab   f32, g
//             split, dual  [rows, columns] slabs  f32, z and u, not read unless PULL
//   outputs   values, first, second  [rows, columns] slabs  f32, x, m and v, updated in place; padding becomes unspecified
//   params    vectors (vec4 per row that hold columns), row_pitch (vec4), count (vectors · rows),
//             first_row (index of the slabs' first row), words (per mask row), the scalars of adam.ts
//   constants PULL, MASK
//   grid      one thread per vec4, 64 per workgroup
//   accuracy  a few roundings per value, √ and ÷ within 3 units in the last place; subnormal v may be 0

override PULL: bool = false;
override MASK: bool = false;

struct Params {
  vectors: u32,
  row_pitch: u32,
  count: u32,
  first_row: u32,
  words: u32,
  gradient_scale: f32,
  strength: f32,
  keep_first: f32,
  add_first: f32,
  keep_second: f32,
  add_second: f32,
  step_size: f32,
  root_scale: f32,
  epsilon: f32,
}
@group(0) @binding(0) var<storage, read> keep_mask: array<u32>;
@group(0) @binding(1) var<storage, read> gradient: array<vec4f>;
@group(0) @binding(2) var<storage, read> split: array<vec4f>;
@group(0) @binding(3) var<storage, read> dual: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> values: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> first: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> second: array<vec4f>;
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  let i = linear_workgroup(workgroup, grid) * 64u + thread;
  if (i >= params.count) { return; }
  let at = masked_vector(i);
  let x = values[at];
  var slope = params.gradient_scale * gradient[at];
  if (PULL) { slope += params.strength * ((x - split[at]) + dual[at]); }
  var mean = params.keep_first * first[at] + params.add_first * slope;
  var square = params.keep_second * second[at] + params.add_second * (slope * slope);
  var moved = x - params.step_size * mean / (sqrt(square) * params.root_scale + params.epsilon);
  if (MASK) {
    let kept = kept_of(i);
    mean = select(vec4f(), mean, kept);
    square = select(vec4f(), square, kept);
    moved = select(vec4f(), moved, kept);
  }
  values[at] = moved;
  first[at] = mean;
  second[at] = square;
}
