/** A seeded source of random numbers: the same numbers on every machine, for repeatable tests. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
  }

  /** 32 random bits. */
  bits(): number {
    // A Weyl sequence, scrambled: every seed walks the same full period from another place.
    this.#state = (this.#state + 0x9e3779b9) | 0;
    let value = this.#state;
    value = Math.imul(value ^ (value >>> 16), 0x85ebca6b);
    value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35);
    return (value ^ (value >>> 16)) >>> 0;
  }

  /** In [0, 1). */
  uniform(): number {
    return this.bits() / 2 ** 32;
  }

  /** An integer in [low, high). */
  integer(low: number, high: number): number {
    return low + Math.floor(this.uniform() * (high - low));
  }

  /** Standard normal. */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    return radius * Math.cos(2 * Math.PI * this.uniform());
  }

  /** One of the choices. */
  pick<T>(choices: readonly T[]): T {
    return choices[this.integer(0, choices.length)] as T;
  }

  /** Cuts `length` into chunks of 1 to `longest`. */
  chunks(length: number, longest: number): number[] {
    const sizes: number[] = [];
    for (let left = length; left > 0; ) {
      const size = Math.min(left, this.integer(1, longest + 1));
      sizes.push(size);
      left -= size;
    }
    return sizes;
  }
}
