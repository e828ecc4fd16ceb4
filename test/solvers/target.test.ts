/** Counts of zeros from a sparsity. */
import { test } from "node:test";
import assert from "node:assert/strict";
import fc from "fast-check";
import { pruneCount, pruneCountOfRange } from "../../src/sparsity/target.js";

test("decimal fractions give the count of their decimal value, not of their binary rounding", () => {
  assert.equal(pruneCount(10, 0.7), 7);
  assert.equal(pruneCount(100, 0.29), 29); // 0.29 * 100 is 28.999999999999996
  assert.equal(pruneCount(1000, 0.57), 570);
  assert.equal(pruneCount(4096, 0.6), 2457); // 2457.6
  assert.equal(pruneCount(64, 0.6), 38);
  assert.equal(pruneCount(11008 * 4096, 0.7), 31562137); // 31562137.6
});

test("counts of fractions p/100 are exact for every size", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 99 }), fc.integer({ min: 0, max: 500_000_000 }), (percent, elements) => {
      assert.equal(pruneCount(elements, percent / 100), Number((BigInt(elements) * BigInt(percent)) / 100n));
    }),
    { seed: 3 },
  );
});

test("counts of consecutive ranges add up to the count of the whole", () => {
  fc.assert(
    fc.property(
      fc.double({ min: 0, max: 0.99, noNaN: true }),
      fc.array(fc.nat(5000), { maxLength: 20 }),
      (sparsity, widths) => {
        let start = 0;
        let total = 0;
        for (const width of widths) {
          const count = pruneCountOfRange(start, start + width, sparsity);
          assert.ok(count >= 0 && count <= width);
          total += count;
          start += width;
        }
        assert.equal(total, pruneCount(start, sparsity));
      },
    ),
    { seed: 4 },
  );
});

test("sparsity 0 prunes nothing", () => {
  assert.equal(pruneCount(1234, 0), 0);
});
