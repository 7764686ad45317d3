"""Multi-head positional encoding: which position each key head of an anchor turns by."""

from functools import lru_cache

import numpy as np


def heads_per_position(m: int, n: int) -> np.ndarray:
    """(m) How many of `n` heads each of the `m` tokens of a line gets: shares in proportion to the
    cube of the place, whole parts first, then the largest remainders, earlier places first where
    they tie. Integers throughout, so that no remainder is a matter of rounding."""
    weights = np.arange(1, m + 1, dtype=np.int64) ** 3
    total = int(weights.sum())
    shares = n * weights
    counts = shares // total
    left = n - int(counts.sum())
    by_remainder = np.argsort(-(shares % total), kind="stable")
    counts[by_remainder[:left]] += 1
    return counts


@lru_cache(maxsize=8)
def shift_table(longest: int, n: int) -> np.ndarray:
    """(longest + 1, n) For an anchor behind a line of m tokens, how far each of `n` key heads
    turns back from the anchor's own position: -m (the line's first token) to -1 (its last), and 0
    everywhere for m = 0."""
    table = np.zeros((longest + 1, n), dtype=np.int32)
    for m in range(1, longest + 1):
        table[m] = np.repeat(np.arange(-m, 0, dtype=np.int32), heads_per_position(m, n))
    return table
