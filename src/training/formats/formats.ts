/**
 * How the state of training is kept between steps: f32 arrays packed into fewer bytes and back, on the host. Elsa-L keeps
 * z in FP8, u in BF16 and Adam's moments in block-wise 8 bits; computing is always done on unpacked f32 values.
 *
 * A format is plain functions over arrays, so that a store can take any of them. All round to nearest; what ties go to,
 * and where the scale lies, each says itself. Zeros come back as +0 from every format but fp32, which keeps every bit.
 */
import { narrow, widen } from "../../checkpoint/dtype.js";
import { dynamicFormat } from "./dynamic-code.js";
import { fp8Format } from "./fp8.js";
import { largestOf, notFinite, requireLengths } from "./magnitude.js";

export interface StateFormat {
  /** Unique; what reports and recipes call it. */
  readonly name: string;
  /** Bytes of that many elements, scales included. */
  bytesFor(elements: number): number;
  /**
   * @param values borrowed, not changed
   * @param bytes as many as `bytesFor` says, at any offset of their ArrayBuffer; overwritten
   * @throws NumericalError E_STATE_NOT_FINITE where a value is infinite or not a number, or would become so (fp32 takes all); E_STATE_NEGATIVE
   *   where one is negative and the format has no signs
   * @throws RangeError when the lengths do not fit each other
   */
  pack(values: Float32Array, bytes: Uint8Array): void;
  /**
   * @param bytes written by `pack` for as many elements as `values` has
   * @throws RangeError when the lengths do not fit each other
   */
  unpack(bytes: Uint8Array, values: Float32Array): void;
}

/** 4 bytes per element: every bit, also of NaN. */
export const FP32: StateFormat = {
  name: "fp32",
  bytesFor: (elements) => 4 * elements,
  pack(values, bytes) {
    requireLengths(FP32, values, bytes);
    bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  },
  unpack(bytes, values) {
    requireLengths(FP32, values, bytes);
    widen(bytes, "F32", values);
  },
};

/** 2 bytes per element: the upper half of an f32, ties to even. */
export const BF16: StateFormat = {
  name: "bf16",
  bytesFor: (elements) => 2 * elements,
  pack(values, bytes) {
    requireLengths(BF16, values, bytes);
    largestOf(values); // for its refusal
    if (narrow(values, "BF16", bytes).overflowed > 0) throw notFinite("a value beyond the largest BF16");
  },
  unpack(bytes, values) {
    requireLengths(BF16, values, bytes);
    widen(bytes, "BF16", values);
  },
};

/** 1 byte per element and 4 per tensor; 3 fraction bits, 18 binary orders of magnitude. */
export const FP8_E4M3: StateFormat = fp8Format({ name: "fp8-e4m3", fractionBits: 3, bias: 7, largest: 448 });

/** 1 byte per element and 4 per tensor; 2 fraction bits, 32 binary orders of magnitude. */
export const FP8_E5M2: StateFormat = fp8Format({ name: "fp8-e5m2", fractionBits: 2, bias: 15, largest: 57344 });

/** 1 byte per element and 4 per block of 256: for Adam's first moment. */
export const DYNAMIC8: StateFormat = dynamicFormat({ name: "dynamic8", isSigned: true });

/** As `DYNAMIC8` with no codes for negative values, of which it refuses any: for Adam's second moment. */
export const DYNAMIC8_UNSIGNED: StateFormat = dynamicFormat({ name: "dynamic8-unsigned", isSigned: false });

export const STATE_FORMATS: readonly StateFormat[] = [FP32, BF16, FP8_E4M3, FP8_E5M2, DYNAMIC8, DYNAMIC8_UNSIGNED];
