/** Every call that breaks the contract of src/device/device.ts is refused, and by every device in the same words. */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { devicesUnderTest } from "../helpers/devices.js";
import { LARGEST_PANEL, LARGEST_ROW_SYSTEM, type Device, type KeepMask, type Matrix } from "../../src/device/device.js";
import { InternalError } from "../../src/errors.js";
import { LARGEST_GROUP } from "../../src/sparsity/pattern.js";

/** What illegal calls are made of. All matrices are zero; sizes are rows × columns. */
interface Operands {
  readonly device: Device;
  /** 4 × 6 */
  readonly a: Matrix;
  readonly b: Matrix;
  readonly c: Matrix;
  readonly d: Matrix;
  readonly e: Matrix;
  readonly f: Matrix;
  readonly mask: KeepMask;
  /** 6 × 4 */
  readonly flipped: Matrix;
  /** 6 × 6 */
  readonly square: Matrix;
  readonly otherSquare: Matrix;
  /** 1 × 6 and 1 × 4 */
  readonly six: Matrix;
  readonly four: Matrix;
  /** 1 × 1 */
  readonly one: Matrix;
  readonly otherOne: Matrix;
  /** 4 × 5 */
  readonly narrowMask: KeepMask;
  /** 4 × 7: one column more than `a` */
  readonly wide: Matrix;
  /** Wider than the widest panel and block: [rows, 2] with a mask of [2, rows] */
  readonly longPanel: Matrix;
  readonly longMask: KeepMask;
  readonly two: Matrix;
  /** Disposed, and of another device. */
  readonly gone: Matrix;
  readonly goneMask: KeepMask;
  readonly foreign: Matrix;
  readonly foreignMask: KeepMask;
}

interface Illegal {
  readonly code: "E_SHAPE" | "E_VIEW" | "E_DISPOSED" | "E_FOREIGN_MATRIX" | "E_FOREIGN_MASK";
  readonly call: (operands: Operands) => unknown;
}

const shape = (call: Illegal["call"]): Illegal => ({ code: "E_SHAPE", call });
const LONG = LARGEST_ROW_SYSTEM + 2;
/** A panel of 4 columns and 6 rows, its inverse, mask and losses: what a legal sweep is told. */
const sweep = ({ a, square, six }: Operands, mask: KeepMask) => ({
  panel: { matrix: a },
  inverse: { matrix: square },
  firstColumn: 0,
  columns: 4,
  keepMask: mask,
  maskColumn: 0,
  losses: six,
});
/** A block of 4 columns and 6 rows, as legal row systems are told. */
const systems = ({ a, b, square, otherSquare, six }: Operands, mask: KeepMask) => ({
  panel: { matrix: a },
  matrix: { matrix: square, rows: 4, columns: 4 },
  inverse: { matrix: otherSquare, rows: 4, columns: 4 },
  keepMask: mask,
  maskColumn: 0,
  multipliers: { matrix: b },
  losses: six,
});
/** A step with a pull and a mask, without the mask. */
const adam = ({ a, b, c, d, e, f }: Operands) => ({
  values: a,
  gradient: b,
  first: c,
  second: d,
  gradientScale: 1,
  rate: 0.1,
  decay: [0.9, 0.99] as const,
  epsilon: 1e-8,
  step: 1,
  pull: { split: e, dual: f, strength: 1 },
});
const PAIR = { kept: [1, 0], pruned: [0, 1] } as const;

/** By operation: the refused calls, each with the words that tell it from the others. */
const ILLEGAL: Readonly<Record<string, Readonly<Record<string, Illegal>>>> = {
  createMatrix: {
    "-1 rows": shape(({ device }) => device.createMatrix(-1, 3, "x")),
    "1.5 columns": shape(({ device }) => device.createMatrix(2, 1.5, "x")),
    "NaN rows": shape(({ device }) => device.createMatrix(NaN, 2, "x")),
  },
  createMask: {
    "-1 columns": shape(({ device }) => device.createMask(3, -1, "x")),
    "infinitely many rows": shape(({ device }) => device.createMask(Infinity, 1, "x")),
  },
  uploadMatrix: {
    "a value too few": shape(({ device }) => device.uploadMatrix(new Float32Array(5), 2, 3, "x")),
    "two negative sizes": shape(({ device }) => device.uploadMatrix(new Float32Array(6), -2, -3, "x")),
  },
  uploadMask: {
    "a word too many": shape(({ device }) => device.uploadMask(new Uint32Array(3), 2, 32, "x")),
    "-1 rows": shape(({ device }) => device.uploadMask(new Uint32Array(0), -1, 0, "x")),
  },
  copy: {
    "onto itself": shape(({ device, a }) => device.copy(a, a)),
    "to another shape": shape(({ device, a, flipped }) => device.copy(a, flipped)),
    "from another device": { code: "E_FOREIGN_MATRIX", call: ({ device, a, foreign }) => device.copy(foreign, a) },
    "to another device": { code: "E_FOREIGN_MATRIX", call: ({ device, a, foreign }) => device.copy(a, foreign) },
    "of what is gone": { code: "E_DISPOSED", call: ({ device, a, gone }) => device.copy(gone, a) },
  },
  download: {
    "a view of 1.5 rows": { code: "E_VIEW", call: ({ device, a }) => device.download({ matrix: a, rows: 1.5 }) },
    "a row too many": { code: "E_VIEW", call: ({ device, a }) => device.download({ matrix: a, firstRow: 1, rows: 4 }) },
    "a column before the first": {
      code: "E_VIEW",
      call: ({ device, a }) => device.download({ matrix: a, firstColumn: -1, columns: 2 }),
    },
    "from beyond the end": { code: "E_VIEW", call: ({ device, a }) => device.download({ matrix: a, firstRow: 5 }) },
    "of another device": {
      code: "E_FOREIGN_MATRIX",
      call: ({ device, foreign }) => device.download({ matrix: foreign }),
    },
    "what is gone": { code: "E_DISPOSED", call: ({ device, gone }) => device.download({ matrix: gone }) },
  },
  downloadMask: {
    "of another device": {
      code: "E_FOREIGN_MASK",
      call: ({ device, foreignMask }) => device.downloadMask(foreignMask),
    },
    "what is gone": { code: "E_DISPOSED", call: ({ device, goneMask }) => device.downloadMask(goneMask) },
    "a matrix": { code: "E_FOREIGN_MASK", call: ({ device, a }) => device.downloadMask(a) },
  },
  accumulateGram: {
    "into a smaller matrix": shape(({ device, wide, square }) => device.accumulateGram({ matrix: wide }, square)),
    "into a matrix that is not square": shape(({ device, a, b }) => device.accumulateGram({ matrix: a }, b)),
    "onto itself": shape(({ device, square }) => device.accumulateGram({ matrix: square }, square)),
  },
  accumulateSquareSums: {
    "into a column": shape(({ device, flipped, a }) =>
      device.accumulateSquareSums({ matrix: a }, device.createMatrix(flipped.rows, 1, "column")),
    ),
    "into too few": shape(({ device, a, four }) => device.accumulateSquareSums({ matrix: a }, four)),
    "onto itself": shape(({ device, six }) => device.accumulateSquareSums({ matrix: six }, six)),
  },
  downloadDiagonal: {
    "of a matrix that is not square": shape(({ device, a }) => device.downloadDiagonal(a)),
    "of another device": { code: "E_FOREIGN_MATRIX", call: ({ device, foreign }) => device.downloadDiagonal(foreign) },
  },
  setDiagonal: {
    "of a matrix that is not square": shape(({ device, a }) => device.setDiagonal(a, new Float32Array(4))),
    "a value too many": shape(({ device, square }) => device.setDiagonal(square, new Float32Array(7))),
  },
  scale: {
    "of another device": { code: "E_FOREIGN_MATRIX", call: ({ device, foreign }) => device.scale(foreign, 2) },
    "what is gone": { code: "E_DISPOSED", call: ({ device, gone }) => device.scale(gone, 2) },
  },
  scaleColumns: {
    "by too few": shape(({ device, a, four }) => device.scaleColumns(a, four)),
    "by itself": shape(({ device, six }) => device.scaleColumns(six, six)),
  },
  scaleRows: {
    "by too many": shape(({ device, a, six }) => device.scaleRows(a, six)),
    "by itself": shape(({ device, one }) => device.scaleRows(one, one)),
  },
  subtract: {
    "other shapes": shape(({ device, a, flipped, b }) =>
      device.subtract({ matrix: a }, { matrix: flipped }, { matrix: b }),
    ),
    "into part of itself": shape(({ device, a, b }) =>
      device.subtract({ matrix: a, rows: 3 }, { matrix: b, rows: 3 }, { matrix: a, firstRow: 1, rows: 3 }),
    ),
    "a view that leaves": {
      code: "E_VIEW",
      call: ({ device, a, b }) => device.subtract({ matrix: a, columns: 7 }, { matrix: b }, { matrix: b }),
    },
  },
  transpose: {
    "into the same shape": shape(({ device, a, b }) => device.transpose({ matrix: a }, { matrix: b })),
    "onto itself": shape(({ device, square }) => device.transpose({ matrix: square }, { matrix: square })),
  },
  gather: {
    "onto itself": shape(({ device, a }) => device.gather(a, a, {})),
    "an index too large": shape(({ device, a, b }) => device.gather(a, b, { rows: Uint32Array.of(0, 1, 2, 4) })),
    "an index too few": shape(({ device, a, b }) => device.gather(a, b, { columns: Uint32Array.of(0, 1, 2, 3, 4) })),
    "all columns of a wider matrix": shape(({ device, wide, a }) => device.gather(wide, a, {})),
  },
  mirrorLower: { "a matrix that is not square": shape(({ device, a }) => device.mirrorLower(a)) },
  applyMask: {
    "of another shape": shape(({ device, a, narrowMask }) => device.applyMask(a, narrowMask)),
    "of another device": {
      code: "E_FOREIGN_MASK",
      call: ({ device, a, foreignMask }) => device.applyMask(a, foreignMask),
    },
    "to a matrix of another device": {
      code: "E_FOREIGN_MATRIX",
      call: ({ device, foreign, mask }) => device.applyMask(foreign, mask),
    },
    "that is gone": { code: "E_DISPOSED", call: ({ device, a, goneMask }) => device.applyMask(a, goneMask) },
  },
  combine: {
    "a matrix with itself": shape(({ device, a, c, mask }) => device.combine({ a, b: a, out: c, mask, ...PAIR })),
    "other shapes": shape(({ device, a, flipped, c, mask }) =>
      device.combine({ a, b: flipped, out: c, mask, ...PAIR }),
    ),
    "by a mask of another shape": shape(({ device, a, b, c, narrowMask }) =>
      device.combine({ a, b, out: c, mask: narrowMask, ...PAIR }),
    ),
  },
  combinePair: {
    "into a": shape(({ device, a, b, mask }) => device.combinePair({ a, b, out: a, mask, toOut: PAIR, toA: PAIR })),
    "into b": shape(({ device, a, b, mask }) => device.combinePair({ a, b, out: b, mask, toOut: PAIR, toA: PAIR })),
    "a matrix with itself": shape(({ device, a, b, mask }) =>
      device.combinePair({ a, b: a, out: b, mask, toOut: PAIR, toA: PAIR }),
    ),
    "by a mask of another shape": shape(({ device, a, b, c, narrowMask }) =>
      device.combinePair({ a, b, out: c, mask: narrowMask, toOut: PAIR, toA: PAIR }),
    ),
  },
  countDifferences: {
    "of other shapes": shape(({ device, mask, narrowMask }) => device.countDifferences(mask, narrowMask)),
    "with another device's": {
      code: "E_FOREIGN_MASK",
      call: ({ device, mask, foreignMask }) => device.countDifferences(mask, foreignMask),
    },
  },
  rowDots: {
    "of other shapes": shape(({ device, a, flipped, four }) => device.rowDots(a, flipped, four)),
    "into too many": shape(({ device, a, b, six }) => device.rowDots(a, b, six)),
    "onto itself": shape(({ device, one, otherOne }) => device.rowDots(one, otherOne, one)),
  },
  conjugateStep: {
    "one matrix four times": shape(({ device, a, mask }) =>
      device.conjugateStep({ solution: a, residual: a, direction: a, product: a, keepMask: mask }),
    ),
    "one matrix twice": shape(({ device, a, b, c, mask }) =>
      device.conjugateStep({ solution: a, residual: b, direction: c, product: b, keepMask: mask }),
    ),
    "other shapes": shape(({ device, a, b, c, flipped, mask }) =>
      device.conjugateStep({ solution: a, residual: b, direction: c, product: flipped, keepMask: mask }),
    ),
    "by a mask of another shape": shape(({ device, a, b, c, d, narrowMask }) =>
      device.conjugateStep({ solution: a, residual: b, direction: c, product: d, keepMask: narrowMask }),
    ),
  },
  selectRows: {
    "more than there are": shape(({ device, a, six, mask }) => device.selectRows(a, six, 7, mask)),
    "-1 of them": shape(({ device, a, six, mask }) => device.selectRows(a, six, -1, mask)),
    "2.5 of them": shape(({ device, a, six, mask }) => device.selectRows(a, six, 2.5, mask)),
    "too few scales": shape(({ device, a, four, mask }) => device.selectRows(a, four, 1, mask)),
    "into a mask of another shape": shape(({ device, a, six, narrowMask }) => device.selectRows(a, six, 1, narrowMask)),
  },
  selectMatrix: {
    "more than there are": shape(({ device, a, six, mask }) => device.selectMatrix(a, six, 25, mask)),
    "into a mask of another shape": shape(({ device, a, six, narrowMask }) =>
      device.selectMatrix(a, six, 1, narrowMask),
    ),
  },
  selectGroups: {
    "keep 0 of 2": shape(({ device, a, six, mask }) => device.selectGroups(a, six, 0, 2, mask)),
    "keep 3 of 2": shape(({ device, a, six, mask }) => device.selectGroups(a, six, 3, 2, mask)),
    "groups of 1": shape(({ device, a, six, mask }) => device.selectGroups(a, six, 1, 1, mask)),
    "groups that do not divide the columns": shape(({ device, a, six, mask }) =>
      device.selectGroups(a, six, 2, 4, mask),
    ),
    "a group of 128": shape(({ device }) => {
      const wide = device.createMatrix(1, 2 * LARGEST_GROUP, "wide");
      const mask = device.createMask(1, 2 * LARGEST_GROUP, "wide mask");
      device.selectGroups(wide, wide, 1, 2 * LARGEST_GROUP, mask);
    }),
  },
  selectPanel: {
    "more than there are": shape(({ device, flipped, six, mask }) =>
      device.selectPanel({ matrix: flipped }, { matrix: six }, 25, mask, 0),
    ),
    "beyond the mask's columns": shape(({ device, flipped, six, mask }) =>
      device.selectPanel({ matrix: flipped }, { matrix: six }, 2, mask, 1),
    ),
    "before the mask's columns": shape(({ device, flipped, six, mask }) =>
      device.selectPanel({ matrix: flipped }, { matrix: six }, 2, mask, -1),
    ),
    "scales in a column": shape(({ device, flipped, square, mask }) =>
      device.selectPanel({ matrix: flipped }, { matrix: square, columns: 1 }, 2, mask, 0),
    ),
    "of other rows than the mask": shape(({ device, square, six, mask }) =>
      device.selectPanel({ matrix: square }, { matrix: six }, 2, mask, 0),
    ),
  },
  selectRemaining: {
    "more than there are": shape(({ device, flipped, six, mask }) =>
      device.selectRemaining({ matrix: flipped, firstRow: 2 }, { matrix: six, columns: 4 }, 25, mask, 2),
    ),
    "beyond the mask's columns": shape(({ device, flipped, six, mask }) =>
      device.selectRemaining({ matrix: flipped }, { matrix: six }, 2, mask, 0.5),
    ),
  },
  matmul: {
    "inner dimensions that differ": shape(({ device, a, b, square }) =>
      device.matmul({ a: { matrix: a }, b: { matrix: b }, out: { matrix: square } }),
    ),
    "an output of another shape": shape(({ device, a, flipped, square }) =>
      device.matmul({ a: { matrix: a }, b: { matrix: flipped }, out: { matrix: square } }),
    ),
    "a view of 1.5 rows": {
      code: "E_VIEW",
      call: ({ device, a, b, square }) =>
        device.matmul({ a: { matrix: a, rows: 1.5 }, b: { matrix: square }, out: { matrix: b, rows: 1.5 } }),
    },
    "a matrix of another device": {
      code: "E_FOREIGN_MATRIX",
      call: ({ device, foreign, square, b }) =>
        device.matmul({ a: { matrix: foreign }, b: { matrix: square }, out: { matrix: b } }),
    },
  },
  choleskyReversed: {
    "a matrix that is not square": shape(({ device, a }) => device.choleskyReversed(a, 128)),
    "an odd panel": shape(({ device, square }) => device.choleskyReversed(square, 7)),
    "a panel of 0": shape(({ device, square }) => device.choleskyReversed(square, 0)),
    "a panel too wide": shape(({ device, square }) => device.choleskyReversed(square, LARGEST_PANEL + 2)),
    "of nothing": shape(({ device }) => device.choleskyReversed(device.createMatrix(0, 0, "nothing"), 128)),
  },
  triangularInverse: {
    "into the factor": shape(({ device, square, otherSquare, six }) =>
      device.triangularInverse({ factor: square, panelInverses: otherSquare, panelWidth: 6, diagonal: six }, square),
    ),
    "into the panels' inverses": shape(({ device, square, otherSquare, six }) =>
      device.triangularInverse(
        { factor: square, panelInverses: otherSquare, panelWidth: 6, diagonal: six },
        otherSquare,
      ),
    ),
    "into another shape": shape(({ device, a, square, otherSquare, six }) =>
      device.triangularInverse({ factor: square, panelInverses: otherSquare, panelWidth: 6, diagonal: six }, a),
    ),
    "with panels of another width": shape(({ device, square, otherSquare, six }) =>
      device.triangularInverse(
        { factor: square, panelInverses: otherSquare, panelWidth: 4, diagonal: six },
        device.createMatrix(6, 6, "out"),
      ),
    ),
  },
  invertPositiveDefinite: {
    "a matrix that is not square": shape(({ device, a }) => device.invertPositiveDefinite(a)),
    nothing: shape(({ device }) => device.invertPositiveDefinite(device.createMatrix(0, 0, "nothing"))),
    "of another device": {
      code: "E_FOREIGN_MATRIX",
      call: ({ device, foreign }) => device.invertPositiveDefinite(foreign),
    },
  },
  sweepPanel: {
    "beyond the panel": shape(({ device, ...rest }) =>
      device.sweepPanel({ ...sweep({ device, ...rest }, rest.longMask), keepMask: maskOf(device), columns: 5 }),
    ),
    "from a fraction of a column": shape((operands) =>
      operands.device.sweepPanel({ ...sweep(operands, maskOf(operands.device)), firstColumn: 0.5, columns: 1 }),
    ),
    "an inverse too small": shape((operands) =>
      operands.device.sweepPanel({
        ...sweep(operands, maskOf(operands.device)),
        inverse: { matrix: operands.square, rows: 3, columns: 3 },
      }),
    ),
    "a mask of other rows": shape((operands) => operands.device.sweepPanel(sweep(operands, operands.mask))),
    "beyond the mask's columns": shape((operands) =>
      operands.device.sweepPanel({ ...sweep(operands, maskOf(operands.device)), maskColumn: 1 }),
    ),
    "losses of other rows": shape((operands) =>
      operands.device.sweepPanel({ ...sweep(operands, maskOf(operands.device)), losses: operands.four }),
    ),
    "keep 0 of 2": shape((operands) =>
      operands.device.sweepPanel({ ...sweep(operands, maskOf(operands.device)), choose: { keep: 0, group: 2 } }),
    ),
    "groups that do not divide the range": shape((operands) =>
      operands.device.sweepPanel({ ...sweep(operands, maskOf(operands.device)), choose: { keep: 1, group: 3 } }),
    ),
    "an inverse in the panel's matrix": shape((operands) =>
      operands.device.sweepPanel({
        ...sweep(operands, maskOf(operands.device)),
        panel: { matrix: operands.square, rows: 4 },
      }),
    ),
    "a panel too wide": shape(({ device, longPanel, longMask, two }) =>
      device.sweepPanel({
        panel: { matrix: longPanel, rows: LARGEST_PANEL + 2 },
        inverse: { matrix: device.createMatrix(LARGEST_PANEL + 2, LARGEST_PANEL + 2, "inverse") },
        firstColumn: 0,
        columns: 2,
        keepMask: longMask,
        maskColumn: 0,
        losses: two,
      }),
    ),
  },
  solveRowSystems: {
    "a matrix of another width": shape((operands) =>
      operands.device.solveRowSystems({
        ...systems(operands, maskOf(operands.device)),
        matrix: { matrix: operands.square },
      }),
    ),
    "multipliers of another shape": shape((operands) =>
      operands.device.solveRowSystems({
        ...systems(operands, maskOf(operands.device)),
        multipliers: { matrix: operands.b, columns: 5 },
      }),
    ),
    "multipliers in the panel's matrix": shape((operands) =>
      operands.device.solveRowSystems({
        ...systems(operands, maskOf(operands.device)),
        multipliers: { matrix: operands.a },
      }),
    ),
    "a mask of other rows": shape((operands) => operands.device.solveRowSystems(systems(operands, operands.mask))),
    "beyond the mask's columns": shape((operands) =>
      operands.device.solveRowSystems({ ...systems(operands, maskOf(operands.device)), maskColumn: 3 }),
    ),
    "too few scales": shape((operands) =>
      operands.device.solveRowSystems({
        ...systems(operands, maskOf(operands.device)),
        choose: { keep: 1, group: 2, scale: { matrix: operands.six } },
      }),
    ),
    "groups that do not divide the block": shape((operands) =>
      operands.device.solveRowSystems({
        ...systems(operands, maskOf(operands.device)),
        choose: { keep: 1, group: 3, scale: { matrix: operands.four } },
      }),
    ),
    "a block too wide": shape(({ device, longPanel, longMask, two }) => {
      const side = device.createMatrix(LONG, LONG, "side");
      device.solveRowSystems({
        panel: { matrix: longPanel },
        matrix: { matrix: side },
        inverse: { matrix: side },
        keepMask: longMask,
        maskColumn: 0,
        multipliers: { matrix: device.createMatrix(LONG, 2, "multipliers") },
        losses: two,
      });
    }),
  },
  addInto: {
    "onto itself": shape(({ device, a }) => device.addInto(a, a)),
    "to another shape": shape(({ device, a, flipped }) => device.addInto(a, flipped)),
    "from another device": { code: "E_FOREIGN_MATRIX", call: ({ device, a, foreign }) => device.addInto(foreign, a) },
  },
  adamStep: {
    "a gradient of another shape": shape((operands) =>
      operands.device.adamStep({ ...adam(operands), gradient: operands.flipped }),
    ),
    "one matrix for both moments": shape((operands) =>
      operands.device.adamStep({ ...adam(operands), second: operands.c }),
    ),
    "a pull towards itself": shape((operands) =>
      operands.device.adamStep({
        ...adam(operands),
        pull: { split: operands.a, dual: operands.f, strength: 1 },
      }),
    ),
    "a pull of another shape": shape((operands) =>
      operands.device.adamStep({
        ...adam(operands),
        pull: { split: operands.e, dual: operands.wide, strength: 0 },
      }),
    ),
    "a mask of another shape": shape((operands) =>
      operands.device.adamStep({ ...adam(operands), mask: operands.narrowMask }),
    ),
    "step 0": shape((operands) => operands.device.adamStep({ ...adam(operands), step: 0 })),
    "step 1.5": shape((operands) => operands.device.adamStep({ ...adam(operands), step: 1.5 })),
    "a decay of 1": shape((operands) => operands.device.adamStep({ ...adam(operands), decay: [1, 0.9] })),
    "a decay below 0": shape((operands) => operands.device.adamStep({ ...adam(operands), decay: [0.9, -0.1] })),
    "a decay that is 1 in f32": shape((operands) =>
      operands.device.adamStep({ ...adam(operands), decay: [0.9, 1 - 1e-9] }),
    ),
    "an epsilon that is 0 in f32": shape((operands) => operands.device.adamStep({ ...adam(operands), epsilon: 1e-60 })),
    "a rate that is not a number": shape((operands) => operands.device.adamStep({ ...adam(operands), rate: NaN })),
    "an infinite strength": shape((operands) =>
      operands.device.adamStep({
        ...adam(operands),
        pull: { split: operands.e, dual: operands.f, strength: Infinity },
      }),
    ),
    "values of another device": {
      code: "E_FOREIGN_MATRIX",
      call: (operands) => operands.device.adamStep({ ...adam(operands), values: operands.foreign }),
    },
    "moments that are gone": {
      code: "E_DISPOSED",
      call: (operands) => operands.device.adamStep({ ...adam(operands), first: operands.gone }),
    },
  },
  sumOfSquares: {
    "of another device": { code: "E_FOREIGN_MATRIX", call: ({ device, foreign }) => device.sumOfSquares(foreign) },
    "of what is gone": { code: "E_DISPOSED", call: ({ device, gone }) => device.sumOfSquares(gone) },
  },
  projectionScores: {
    "into their own values": shape(({ device, a }) => device.projectionScores({ values: a, out: a })),
    "into the second moment": shape(({ device, a, b }) => device.projectionScores({ values: a, second: b, out: b })),
    "a dual of another shape": shape(({ device, a, b, flipped }) =>
      device.projectionScores({ values: a, dual: flipped, out: b }),
    ),
  },
  dualStep: {
    "the same matrix twice": shape(({ device, a, b, mask }) => device.dualStep({ values: a, split: b, dual: b, mask })),
    "a mask of another shape": shape(({ device, a, b, c, narrowMask }) =>
      device.dualStep({ values: a, split: b, dual: c, mask: narrowMask }),
    ),
    "a mask that is gone": {
      code: "E_DISPOSED",
      call: ({ device, a, b, c, goneMask }) => device.dualStep({ values: a, split: b, dual: c, mask: goneMask }),
    },
  },
};

/** A mask that fits `sweep` and `systems`: 6 × 4. */
function maskOf(device: Device): KeepMask {
  return device.createMask(6, 4, "panel mask");
}

function operandsOn(device: Device, other: Device): Operands {
  const gone = device.createMatrix(4, 6, "gone");
  const goneMask = device.createMask(4, 6, "gone mask");
  gone[Symbol.dispose]();
  goneMask[Symbol.dispose]();
  return {
    device,
    a: device.createMatrix(4, 6, "a"),
    b: device.createMatrix(4, 6, "b"),
    c: device.createMatrix(4, 6, "c"),
    d: device.createMatrix(4, 6, "d"),
    e: device.createMatrix(4, 6, "e"),
    f: device.createMatrix(4, 6, "f"),
    mask: device.createMask(4, 6, "mask"),
    flipped: device.createMatrix(6, 4, "flipped"),
    square: device.createMatrix(6, 6, "square"),
    otherSquare: device.createMatrix(6, 6, "other square"),
    six: device.createMatrix(1, 6, "six"),
    four: device.createMatrix(1, 4, "four"),
    one: device.createMatrix(1, 1, "one"),
    otherOne: device.createMatrix(1, 1, "other one"),
    narrowMask: device.createMask(4, 5, "narrow mask"),
    wide: device.createMatrix(4, 7, "wide"),
    longPanel: device.createMatrix(LONG, 2, "long panel"),
    longMask: device.createMask(2, LONG, "long mask"),
    two: device.createMatrix(1, 2, "two"),
    gone,
    goneMask,
    foreign: other.createMatrix(4, 6, "foreign"),
    foreignMask: other.createMask(4, 6, "foreign mask"),
  };
}

/** What the call is refused with: synchronously, or where it returns a promise by rejecting. */
async function refusalOf(call: Illegal["call"], operands: Operands): Promise<InternalError> {
  try {
    await call(operands);
  } catch (error) {
    if (error instanceof InternalError) return error;
    throw error;
  }
  return assert.fail("the call was taken");
}

const targets = await devicesUnderTest();
const missing = targets.flatMap(({ name, skip }) => (skip === undefined ? [] : [`not asked: ${name}, ${skip}`]));
/** Two devices of each kind: one is asked, the other makes what is foreign to it. */
const pairs: { readonly device: Device; readonly other: Device }[] = [];

before(async () => {
  for (const { skip, create } of targets) {
    if (skip === undefined) pairs.push({ device: await create(), other: await create() });
  }
});

after(async () => {
  for (const { device, other } of pairs) {
    await device[Symbol.asyncDispose]();
    await other[Symbol.asyncDispose]();
  }
});

test("every operation has its illegal calls, and the legal ones they are made from are taken", async (context) => {
  missing.forEach((reason) => context.diagnostic(reason));
  for (const { device, other } of pairs) {
    const operands = operandsOn(device, other);
    const operations = Object.getOwnPropertyNames(Object.getPrototypeOf(device)).filter(
      (name) => !["constructor", "liveBytes", "synchronize"].includes(name),
    );
    assert.deepEqual(Object.keys(ILLEGAL).sort(), operations.sort());
    const eye = Float32Array.from({ length: 36 }, (_, i) => Number(i % 7 === 0));
    const mask = maskOf(device);
    for (const square of [operands.square, operands.otherSquare]) {
      using identity = device.uploadMatrix(eye, 6, 6, "identity");
      device.copy(identity, square);
    }
    device.sweepPanel(sweep(operands, mask));
    device.solveRowSystems(systems(operands, mask));
    device.adamStep({ ...adam(operands), mask: operands.mask });
    device.subtract(
      { matrix: operands.a, rows: 2 },
      { matrix: operands.b, rows: 2 },
      { matrix: operands.a, firstRow: 2 },
    );
    await device.synchronize();
  }
});

for (const [operation, calls] of Object.entries(ILLEGAL)) {
  test(`${operation} refuses, in the same words on every device: ${Object.keys(calls).join(", ")}`, async () => {
    const refusals: Record<string, string>[] = [];
    for (const { device, other } of pairs) {
      const operands = operandsOn(device, other);
      const said: Record<string, string> = {};
      for (const [name, { code, call }] of Object.entries(calls)) {
        const { code: given, message } = await refusalOf(call, operands).catch((error: unknown) =>
          assert.fail(`${name}: ${String(error)}`),
        );
        assert.equal(given, code, `${name}: ${message}`);
        assert.match(message, code === "E_DISPOSED" ? /"gone/ : new RegExp(`^device: ${operation}: `), name);
        said[name] = message;
      }
      await device.synchronize(); // nothing was queued that could fail
      refusals.push(said);
    }
    for (const said of refusals) assert.deepEqual(said, refusals[0]);
  });
}
