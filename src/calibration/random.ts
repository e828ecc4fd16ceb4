/**
 * MT19937 with CPython's seeding, `random` and `randint`, so that a seed draws the same calibration windows as the papers'
 * released code, which uses Python's `random` module. Check values: test/calibration/random.test.ts.
 *
 * Source: Matsumoto & Nishimura 1998, "Mersenne Twister"; CPython Lib/random.py (`_randbelow_with_getrandbits`) and
 * Modules/_randommodule.c (`init_by_array`). Not a source of secrets.
 */

const STATE_WORDS = 624;
const SHIFT_WORDS = 397;

/** Python's `random.Random(seed)`, reduced to what sampling needs. */
export class MersenneTwister {
  readonly #state = new Uint32Array(STATE_WORDS);
  #next = STATE_WORDS;

  /** @param seed a non-negative safe integer */
  constructor(seed: number) {
    if (!Number.isSafeInteger(seed) || seed < 0)
      throw new RangeError(`seed must be a non-negative integer, not ${seed}`);
    // CPython seeds by the little-endian 32-bit words of |seed|; zero is one word of 0.
    const high = Math.floor(seed / 2 ** 32);
    seedByArray(this.#state, high === 0 ? [seed >>> 0] : [seed >>> 0, high]);
  }

  /** The top `bits` bits (1..32) of the next 32-bit output. */
  getRandomBits(bits: number): number {
    if (this.#next === STATE_WORDS) {
      twist(this.#state);
      this.#next = 0;
    }
    let y = this.#state[this.#next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    y ^= y >>> 18;
    return (y >>> 0) >>> (32 - bits);
  }

  /** Uniform in [0, 1), 53 bits, as CPython's `random()`. */
  random(): number {
    const high = this.getRandomBits(27);
    return (high * 2 ** 26 + this.getRandomBits(26)) / 2 ** 53;
  }

  /** Uniform integer in [first, last], both inclusive, by rejection as CPython draws it. At most 2^32 - 1 values. */
  randomInteger(first: number, last: number): number {
    const count = last - first + 1;
    if (!Number.isSafeInteger(count) || count < 1 || count >= 2 ** 32) {
      throw new RangeError(`cannot draw from [${first}, ${last}]`);
    }
    const bits = 32 - Math.clz32(count);
    let drawn = this.getRandomBits(bits);
    while (drawn >= count) drawn = this.getRandomBits(bits);
    return first + drawn;
  }
}

function seedByArray(state: Uint32Array, key: readonly number[]): void {
  state[0] = 19650218;
  for (let i = 1; i < STATE_WORDS; i++) state[i] = Math.imul(1812433253, mixed(state, i)) + i;
  let i = 1;
  const advance = (): void => {
    i += 1;
    if (i === STATE_WORDS) {
      state[0] = state[STATE_WORDS - 1];
      i = 1;
    }
  };
  for (let step = 0; step < Math.max(STATE_WORDS, key.length); step++) {
    const j = step % key.length;
    state[i] = (state[i] ^ Math.imul(mixed(state, i), 1664525)) + key[j] + j;
    advance();
  }
  for (let step = 0; step < STATE_WORDS - 1; step++) {
    state[i] = (state[i] ^ Math.imul(mixed(state, i), 1566083941)) - i;
    advance();
  }
  state[0] = 0x80000000;
}

/** The word before `i`, its top bits folded into the low ones. */
function mixed(state: Uint32Array, i: number): number {
  const previous = state[i - 1];
  return previous ^ (previous >>> 30);
}

function twist(state: Uint32Array): void {
  for (let k = 0; k < STATE_WORDS; k++) {
    const y = (state[k] & 0x80000000) | (state[(k + 1) % STATE_WORDS] & 0x7fffffff);
    const far = state[(k + SHIFT_WORDS) % STATE_WORDS];
    state[k] = far ^ (y >>> 1) ^ ((y & 1) === 1 ? 0x9908b0df : 0);
  }
}

/** In an order drawn from `random` (Fisher and Yates). */
export function shuffled<Item>(items: readonly Item[], random: MersenneTwister): Item[] {
  const result = [...items];
  for (let last = result.length - 1; last > 0; last--) {
    const other = random.randomInteger(0, last);
    [result[last], result[other]] = [result[other] as Item, result[last] as Item];
  }
  return result;
}
