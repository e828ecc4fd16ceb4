// linear_workgroup: one index for a grid that the host folded into x, y and z because of the 65,535 limit.
// The fold may leave surplus workgroups at the end: every kernel compares the index with its own count.

fn linear_workgroup(id: vec3u, grid: vec3u) -> u32 {
  return id.x + grid.x * (id.y + grid.y * id.z);
}
