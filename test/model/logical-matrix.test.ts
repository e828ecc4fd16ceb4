/** Linears inside stored tensors: whole, fused, transposed, stacked. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { LinearSpec } from "../../src/model/architecture.js";
import { countZeros, putMatrix, takeMatrix } from "../../src/model/logical-matrix.js";

const base = { name: "linear", role: "linear.weight" };

interface Case {
  readonly title: string;
  readonly shape: readonly number[];
  readonly linear: LinearSpec;
  /** Indices into the stored tensor, row by row of the linear's matrix. */
  readonly places: readonly number[];
}

const CASES: readonly Case[] = [
  {
    title: "a whole [out, in] tensor",
    shape: [2, 3],
    linear: { ...base, outFeatures: 2, inFeatures: 3, inputAxis: 1 },
    places: [0, 1, 2, 3, 4, 5],
  },
  {
    title: "two separate ranges of a fused tensor's outputs",
    shape: [5, 2],
    linear: {
      ...base,
      outFeatures: 3,
      inFeatures: 2,
      inputAxis: 1,
      outputs: [
        { first: 3, count: 1 },
        { first: 0, count: 2 },
      ],
    },
    places: [6, 7, 0, 1, 2, 3],
  },
  {
    title: "a part of a Conv1D [in, out] tensor",
    shape: [3, 4],
    linear: { ...base, outFeatures: 2, inFeatures: 3, inputAxis: 0, outputs: [{ first: 1, count: 2 }] },
    places: [1, 5, 9, 2, 6, 10],
  },
  {
    title: "the upper half of one expert's slab",
    shape: [2, 4, 2],
    linear: { ...base, outFeatures: 2, inFeatures: 2, inputAxis: 1, slab: 1, outputs: [{ first: 2, count: 2 }] },
    places: [12, 13, 14, 15],
  },
  {
    title: "an expert's slab stored [in, out]",
    shape: [2, 2, 3],
    linear: { ...base, outFeatures: 3, inFeatures: 2, inputAxis: 0, slab: 1 },
    places: [6, 9, 7, 10, 8, 11],
  },
];

for (const { title, shape, linear, places } of CASES) {
  test(`${title} is taken out and put back where it was`, () => {
    const size = shape.reduce((product, length) => product * length, 1);
    const stored = Float32Array.from({ length: size }, (_, i) => i + 1);
    assert.deepEqual(
      [...takeMatrix(stored, shape, linear)],
      places.map((place) => place + 1),
    );
    const matrix = Float32Array.from(places, (_, i) => (i % 2 === 0 ? 0 : -i));
    putMatrix(matrix, stored, shape, linear);
    for (let i = 0; i < size; i++) {
      const row = places.indexOf(i);
      assert.equal(stored[i], row < 0 ? i + 1 : matrix[row], `stored value ${i}`);
    }
    assert.equal(countZeros(stored, shape, linear), Math.ceil(places.length / 2));
  });
}
