/**
 * The linear sum assignment problem, solved exactly by shortest augmenting paths (Jonker and Volgenant 1987): the dual
 * variables of rows and columns keep all reduced costs at 0 or above, and every row that the reduction leaves free is
 * matched along a shortest path of reduced costs. O(n³) time, O(n) memory beside the matrix.
 */

/**
 * A column for every row, each column once, such that the chosen values have the largest sum.
 *
 * @param values [size, size], row-major, finite
 * @returns the column of each row; the same for the same values
 */
export function assignLargest(values: Float64Array, size: number): Int32Array {
  const { columnDual, rowOf, columnOf } = reduce(values, size);
  const distance = new Float64Array(size);
  const reachedFrom = new Int32Array(size);
  const isScanned = new Uint8Array(size);
  for (let free = 0; free < size; free++) {
    if (columnOf[free] >= 0) continue;
    // Dijkstra over columns from the free row, until a free column is the nearest.
    isScanned.fill(0);
    reachedFrom.fill(free);
    for (let j = 0; j < size; j++) distance[j] = -values[free * size + j] - columnDual[j];
    let end = -1;
    let shortest = 0;
    while (end < 0) {
      let nearest = -1;
      for (let j = 0; j < size; j++)
        if (isScanned[j] === 0 && (nearest < 0 || distance[j] < distance[nearest])) nearest = j;
      shortest = distance[nearest];
      if (rowOf[nearest] < 0) {
        end = nearest;
        break;
      }
      isScanned[nearest] = 1;
      const row = rowOf[nearest];
      const offset = shortest + values[row * size + nearest] + columnDual[nearest];
      for (let j = 0; j < size; j++) {
        if (isScanned[j] !== 0) continue;
        const through = offset - values[row * size + j] - columnDual[j];
        if (through < distance[j]) {
          distance[j] = through;
          reachedFrom[j] = row;
        }
      }
    }
    for (let j = 0; j < size; j++) if (isScanned[j] !== 0) columnDual[j] += distance[j] - shortest;
    for (let column = end, row = -1; row !== free;) {
      row = reachedFrom[column];
      rowOf[column] = row;
      [columnOf[row], column] = [column, columnOf[row]];
    }
  }
  return columnOf;
}

/** Column reduction: every column's dual is its least cost, and rows take a column in which they are the cheapest. */
function reduce(
  values: Float64Array,
  size: number,
): { columnDual: Float64Array; rowOf: Int32Array; columnOf: Int32Array } {
  const columnDual = new Float64Array(size);
  const rowOf = new Int32Array(size).fill(-1);
  const columnOf = new Int32Array(size).fill(-1);
  for (let j = 0; j < size; j++) {
    let cheapest = 0;
    for (let i = 1; i < size; i++) if (values[i * size + j] > values[cheapest * size + j]) cheapest = i;
    columnDual[j] = -values[cheapest * size + j];
    if (columnOf[cheapest] >= 0) continue;
    columnOf[cheapest] = j;
    rowOf[j] = cheapest;
  }
  return { columnDual, rowOf, columnOf };
}
