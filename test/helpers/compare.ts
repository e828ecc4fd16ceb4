/** Comparisons of device results with twins; a failure names the first few differing entries. */
import assert from "node:assert/strict";

/** Unit roundoff of f32: the relative error of one correctly rounded operation is at most this. */
export const F32_ROUNDOFF = 2 ** -24;

/** |actual[i] - expected[i]| <= bound(i) for all i. */
export function assertWithin(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  bound: (index: number) => number,
  what: string,
): void {
  assert.equal(actual.length, expected.length, `${what}: length`);
  const faults: string[] = [];
  let count = 0;
  for (let i = 0; i < actual.length; i++) {
    const limit = bound(i);
    if (Math.abs(actual[i] - expected[i]) <= limit) continue;
    count += 1;
    if (faults.length < 5) faults.push(`[${i}] is ${actual[i]}, expected ${expected[i]} ± ${limit.toExponential(2)}`);
  }
  assert.equal(count, 0, `${what}: ${count} of ${actual.length} entries differ: ${faults.join("; ")}`);
}

/** Equal to the bit: distinguishes -0 from +0 and NaNs by payload. */
export function assertSameBits(actual: Float32Array, expected: Float32Array, what: string): void {
  assert.equal(actual.length, expected.length, `${what}: length`);
  const a = new Uint32Array(actual.buffer, actual.byteOffset, actual.length);
  const b = new Uint32Array(expected.buffer, expected.byteOffset, expected.length);
  for (let i = 0; i < a.length; i++) {
    if (a[i] !== b[i]) assert.fail(`${what}: entry ${i} is ${actual[i]}, expected ${expected[i]} to the bit`);
  }
}

/** Masks as one byte per weight; names the first differing row and column. */
export function assertSameMask(actual: Uint8Array, expected: Uint8Array, columns: number, what: string): void {
  assert.equal(actual.length, expected.length, `${what}: length`);
  for (let i = 0; i < actual.length; i++) {
    if (actual[i] !== expected[i]) {
      const place = `row ${Math.floor(i / columns)}, column ${i % columns}`;
      assert.fail(`${what}: ${place} is ${actual[i] === 1 ? "kept" : "pruned"}, expected the opposite`);
    }
  }
}
