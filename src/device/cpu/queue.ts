/**
 * The CPU device's queue. ONNX Runtime's run is asynchronous in form, so operations go one after another on one chain of
 * promises. The first failure is kept, later work is skipped, and the next wait throws it.
 */
import { InternalError } from "../../errors.js";

export class WorkQueue {
  #tail: Promise<void> = Promise.resolve();
  #failure: { readonly error: unknown } | undefined;

  /** `work` holds the arrays it needs: the objects they belong to may be disposed before it runs. */
  enqueue(work: () => void | Promise<void>): void {
    this.#tail = this.#tail.then(async () => {
      if (this.#failure !== undefined) return;
      try {
        await work();
      } catch (error) {
        this.#failure = { error };
      }
    });
  }

  /** What `work` gives, after everything queued before it; throws what failed until then. */
  async resultOf<Result>(work: () => Result | Promise<Result>): Promise<Result> {
    let result: { readonly value: Result } | undefined;
    this.enqueue(async () => {
      result = { value: await work() };
    });
    await this.synchronize();
    if (result === undefined)
      throw new InternalError("E_QUEUE", "cpu device: the queue skipped work without a failure.");
    return result.value;
  }

  /** Wait for everything queued; throws the first failure since the last wait. */
  async synchronize(): Promise<void> {
    await this.#tail;
    const failure = this.#failure;
    this.#failure = undefined;
    if (failure !== undefined) throw failure.error;
  }

  /** Wait for everything queued, whatever became of it. */
  async idle(): Promise<void> {
    await this.#tail;
  }
}
