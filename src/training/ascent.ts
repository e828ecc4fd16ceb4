/**
 * A step up the gradient and back: parameters at x + ρ g/‖g‖, the worst place of a small ball around x to first order, where
 * the gradient says how to make the whole ball better (Foret et al. 2021, arXiv:2010.01412). On the device it costs copies.
 */
import type { Device, Matrix } from "../device/device.js";
import type { Parameter, Parameters } from "./parameters.js";

/** Keeps a gradient of 0 from being divided by. */
const SMALLEST_NORM = 1e-12;

export class Ascent implements Disposable {
  readonly #device: Device;
  readonly #parameters: Parameters;
  /** x, while the parameters are elsewhere. */
  readonly #places: (readonly [Parameter, Matrix])[] = [];

  constructor(device: Device, parameters: Parameters) {
    this.#device = device;
    this.#parameters = parameters;
    try {
      for (const parameter of parameters) {
        const { rows, columns, label } = parameter.values.matrix;
        this.#places.push([parameter, device.createMatrix(rows, columns, `${label}: before the ascent`)]);
      }
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /** Go up by `radius` along the gradients that were uploaded, with one norm over all parameters. The gradients are used up. */
  async climb(radius: number): Promise<void> {
    const factor = radius / (Math.sqrt(await this.#parameters.gradientSquares()) + SMALLEST_NORM);
    for (const [{ values, gradient }, place] of this.#places) {
      this.#device.copy(values.matrix, place);
      this.#device.scale(gradient.matrix, factor);
      this.#device.addInto(gradient.matrix, values.matrix);
    }
    await this.#parameters.refresh();
  }

  /** Back to x, on the device: where graphs read them the values are still those above, until the next step. */
  goBack(): void {
    for (const [{ values }, place] of this.#places) this.#device.copy(place, values.matrix);
  }

  [Symbol.dispose](): void {
    for (const [, place] of this.#places) place[Symbol.dispose]();
  }
}
