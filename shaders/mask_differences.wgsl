// mask_differences: number of bits in which two masks differ.
//   inputs    a, b   [count] words   bits
//   outputs   total  [1]             u32, added to; integers, so the order of the additions does not matter
//   params    count (words); threads (of the whole grid: a thread takes every so manieth word)
//   grid      workgroups of 64 threads, as many as the host thinks fit
//   memory    4 bytes of workgroup storage
//   accuracy  exact

struct Params {
  count: u32,
  threads: u32,
}
@group(0) @binding(0) var<storage, read> a: array<u32>;
@group(0) @binding(1) var<storage, read> b: array<u32>;
@group(0) @binding(2) var<storage, read_write> total: array<atomic<u32>>;
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> part: atomic<u32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) workgroup: vec3u, @builtin(num_workgroups) grid: vec3u,
        @builtin(local_invocation_index) thread: u32) {
  if (thread == 0u) { atomicStore(&part, 0u); }
  workgroupBarrier();
  let first = linear_workgroup(workgroup, grid) * 64u + thread;
  var differences = 0u;
  // The fold may leave surplus workgroups: their words would be counted twice.
  if (first < params.threads) {
    for (var i = first; i < params.count; i += params.threads) { differences += countOneBits(a[i] ^ b[i]); }
  }
  atomicAdd(&part, differences);
  workgroupBarrier();
  if (thread == 0u) { atomicAdd(&total[0], atomicLoad(&part)); }
}
