/** Zero counts and N:M patterns of handmade tensors. */
import assert from "node:assert/strict";
import { describe, test, type TestContext } from "node:test";
import fc from "fast-check";
import { openCheckpoint } from "../../src/checkpoint/checkpoint.js";
import type { InspectionReport, TensorInspection } from "../../src/contract.js";
import { inspectCheckpoint } from "../../src/inspection/inspect.js";
import { temporaryDirectory, writeCheckpoint, type TestTensor } from "../helpers/checkpoints.js";

type Axes = Readonly<Record<string, 0 | 1>>;

async function inspect(
  directory: string,
  tensors: Readonly<Record<string, TestTensor>>,
  prunable: Axes = {},
): Promise<Omit<InspectionReport, "further">> {
  await writeCheckpoint(directory, { tensors });
  await using checkpoint = await openCheckpoint(directory);
  return await inspectCheckpoint(
    checkpoint,
    new Map(Object.entries(prunable).map(([name, inputAxis]) => [name, { inputAxis }])),
  );
}

async function inspectOne(t: TestContext, tensor: TestTensor, inputAxis: 0 | 1 = 1): Promise<TensorInspection> {
  const report = await inspect(temporaryDirectory(t), { w: tensor }, { w: inputAxis });
  const [found] = report.tensors;
  assert.ok(found !== undefined);
  return found;
}

/** A matrix from rows such as "10 01": 1 is a kept weight. */
function matrix(dtype: string, ...rows: readonly string[]): TestTensor {
  const cells = rows.map((row) => [...row.replaceAll(" ", "")].map((cell) => (cell === "1" ? 0.5 : 0)));
  return { dtype, shape: [cells.length, cells[0]?.length ?? 0], values: Float32Array.from(cells.flat()) };
}

describe("zeros", () => {
  for (const [dtype, bytes, zeros] of [
    ["F32", Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0x80, 1, 0, 0, 0, 1, 0, 0, 0x80), 2],
    ["F16", Uint8Array.of(0, 0, 0, 0x80, 1, 0, 1, 0x80), 2],
    ["BF16", Uint8Array.of(0, 0, 0, 0x80, 0x80, 0, 0, 0x40), 2],
    [
      "F64",
      Uint8Array.of(
        ...new Array<number>(15).fill(0),
        0x80,
        1,
        ...new Array<number>(7).fill(0),
        ...new Array<number>(6).fill(0),
        1,
        0,
      ),
      2,
    ],
    ["F8_E4M3", Uint8Array.of(0, 0x80, 1, 0x81), 2],
    ["F8_E5M2FNUZ", Uint8Array.of(0, 0x80, 1, 0x81), 1],
    ["F8_E8M0", Uint8Array.of(0, 1, 2, 3), 0],
    ["I8", Uint8Array.of(0, 0x80, 1, 0xff), 1],
    ["BOOL", Uint8Array.of(0, 1, 0, 1), 2],
    ["I16", Uint8Array.of(0, 0x80, 0, 0, 1, 0, 0, 1), 1],
    ["U32", Uint8Array.of(0, 0, 0, 0x80, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0), 1],
    [
      "I64",
      Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0),
      1,
    ],
    ["C64", Uint8Array.of(0, 0, 0, 0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 1, 0, ...new Array<number>(16).fill(7)), 1],
    ["Q5_X", Uint8Array.of(0, 0, 0), 0],
  ] as const) {
    test(`${dtype} has ${zeros} zeros among four elements`, async (t) => {
      const found = await inspectOne(t, { dtype, shape: [4], values: bytes });
      assert.deepEqual(found, { name: "w", dtype, shape: [4], zeros, prunable: true, patterns: [] });
    });
  }

  test("totals count the prunable tensors only", async (t) => {
    const tensors = {
      a: matrix("BF16", "10", "00"),
      b: matrix("F16", "0001"),
      norm: matrix("F32", "00"),
      e: { dtype: "F32", shape: [0, 2], values: new Float32Array() },
    };
    const directory = temporaryDirectory(t);
    const report = await inspect(directory, tensors, { a: 1, b: 1, e: 1, absent: 1 });
    assert.equal(report.schema, "prune.inspect/v1");
    assert.equal(report.model, directory);
    assert.deepEqual([report.zeros, report.elements, report.sparsity], [6, 8, 0.75]);
    assert.deepEqual(report.tensors.map(({ name, zeros, prunable }) => [name, zeros, prunable]).sort(), [
      ["a", 3, true],
      ["b", 3, true],
      ["e", 0, true],
      ["norm", 2, false],
    ]);
  });

  test("without prunable tensors the sparsity is 0", async (t) => {
    const report = await inspect(temporaryDirectory(t), { a: matrix("F32", "0") });
    assert.deepEqual([report.zeros, report.elements, report.sparsity], [0, 0, 0]);
  });
});

describe("patterns", () => {
  const patternsOf = async (t: TestContext, tensor: TestTensor, axis: 0 | 1 = 1): Promise<readonly string[]> =>
    (await inspectOne(t, tensor, axis)).patterns;

  for (const dtype of ["F32", "F16", "BF16"]) {
    test(`2:4 holds in ${dtype} when every group of four has two zeros, and so does 4:8`, async (t) => {
      assert.deepEqual(await patternsOf(t, matrix(dtype, "1100 0011", "1010 0110")), ["2:4", "4:8"]);
    });
  }

  test("one group with a weight too many breaks its pattern, not the wider one", async (t) => {
    assert.deepEqual(await patternsOf(t, matrix("BF16", "1110 0001", "1010 0110")), ["4:8"]);
  });

  test("more zeros than needed still qualify", async (t) => {
    assert.deepEqual(await patternsOf(t, matrix("BF16", "1000 0000 0100 0000")), [
      "1:2",
      "2:4",
      "4:8",
      "8:16",
      "1:4",
      "2:8",
    ]);
  });

  test("1:4 and 2:8 keep a quarter", async (t) => {
    assert.deepEqual(await patternsOf(t, matrix("BF16", "1100 0000", "0001 0001")), ["2:4", "4:8", "2:8"]);
  });

  test("a pattern whose group does not divide the inputs does not hold", async (t) => {
    assert.deepEqual(await patternsOf(t, matrix("BF16", "10 01 10", "01 01 01")), ["1:2"]);
    assert.deepEqual(await patternsOf(t, matrix("BF16", "100", "010")), []);
  });

  test("groups run along the input axis: down the columns of an [in, out] matrix", async (t) => {
    const tensor = matrix("F16", "101", "101", "010", "010");
    assert.deepEqual(await patternsOf(t, tensor, 0), ["2:4"]);
    assert.deepEqual(await patternsOf(t, tensor, 1), []);
    const rotated = matrix("F16", "1100", "1100", "0011");
    assert.deepEqual(await patternsOf(t, rotated, 1), ["2:4"]);
    assert.deepEqual(await patternsOf(t, rotated, 0), []);
  });

  test("a dense matrix, a vector and a matrix of integers report no pattern", async (t) => {
    assert.deepEqual(await patternsOf(t, matrix("BF16", "1111")), []);
    assert.deepEqual(await patternsOf(t, { dtype: "F32", shape: [4], values: new Float32Array(4) }), []);
    assert.deepEqual(await patternsOf(t, { dtype: "U8", shape: [2, 4], values: new Uint8Array(8) }), []);
  });

  test("a -0 counts as a zero of a pattern", async (t) => {
    assert.deepEqual(
      await patternsOf(t, { dtype: "BF16", shape: [1, 2], values: Uint8Array.of(0, 0x80, 0x80, 0x3f) }),
      ["1:2"],
    );
  });

  test("any matrix reports what a plain count over its groups says", async (t) => {
    const directory = temporaryDirectory(t);
    const CANDIDATES = ["1:2", "2:4", "4:8", "8:16", "1:4", "2:8"];
    const shape = fc.tuple(fc.constantFrom(1, 3, 4, 8, 16), fc.constantFrom(2, 4, 5, 16, 24, 32));
    await fc.assert(
      fc.asyncProperty(
        shape,
        fc.constantFrom(0, 1),
        fc.constantFrom(2, 4, 8, 16),
        fc.nat(3),
        fc.infiniteStream(fc.nat(15)),
        async ([a, b], axis, group, keptShare, choices) => {
          const inputAxis = axis === 0 ? 0 : 1;
          const [inputs, outputs] = inputAxis === 1 ? [b, a] : [a, b];
          const at = (output: number, input: number): number =>
            inputAxis === 1 ? output * inputs + input : input * outputs + output;
          const values = new Float32Array(inputs * outputs);
          for (let output = 0; output < outputs; output++) {
            for (let first = 0; first < inputs; first += group) {
              // At most so many kept per group: makes patterns hold often.
              for (let k = 0; k < (group * keptShare) / 4; k++) {
                const input = first + (choices.next().value % group);
                if (input < inputs) values[at(output, input)] = 1;
              }
            }
          }
          const zeros = values.filter((value) => value === 0).length;
          const expected = CANDIDATES.filter((pattern) => {
            const [keep, size] = pattern.split(":").map(Number) as [number, number];
            if (zeros === 0 || inputs % size !== 0) return false;
            for (let output = 0; output < outputs; output++) {
              for (let first = 0; first < inputs; first += size) {
                let kept = 0;
                for (let i = 0; i < size; i++) if (values[at(output, first + i)] !== 0) kept++;
                if (kept > keep) return false;
              }
            }
            return true;
          });
          const report = await inspect(directory, { w: { dtype: "BF16", shape: [a, b], values } }, { w: inputAxis });
          assert.equal(report.zeros, zeros);
          assert.deepEqual(report.tensors[0]?.patterns, expected);
        },
      ),
    );
  });

  test("groups across the pieces a large matrix is read in are counted whole", async (t) => {
    // 3000 columns of BF16: the 1 MiB pieces end in the middle of rows.
    const [height, width] = [1024, 3000];
    const along = (axis: 0 | 1): TestTensor => {
      const values = new Float32Array(height * width);
      for (let row = 0; row < height; row++) {
        for (let column = 0; column < width; column++)
          values[row * width + column] = (axis === 0 ? row : column) % 4 < 2 ? 1 : 0;
      }
      return { dtype: "BF16", shape: [height, width], values };
    };
    const broken = along(0);
    broken.values[(height - 1) * width + 7] = 1; // the last group of column 7
    const report = await inspect(
      temporaryDirectory(t),
      { broken, columns: along(0), rows: along(1) },
      { broken: 0, columns: 0, rows: 1 },
    );
    assert.deepEqual(
      report.tensors.map(({ zeros, patterns }) => [zeros, patterns]),
      [
        [(height * width) / 2 - 1, []],
        [(height * width) / 2, ["2:4", "4:8", "8:16"]],
        [(height * width) / 2, ["2:4", "4:8"]], // 3000 is a multiple of 8, not of 16
      ],
    );
  });
});
