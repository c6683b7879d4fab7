"""Shuffling without a list: where a permutation of 0..n-1 sends a few of its numbers, for any n.

A Feistel network (Luby, Rackoff 1988) is a permutation of the numbers of some bits whatever its round function is; here
that is a hash. A number that comes out beyond n goes through once more until it is below (cycle walking: Black, Rogaway
2002), which leaves a permutation of 0..n-1. So the order of an epoch of 10^8 clips costs no memory, and a batch of it
a millisecond or two.
"""

from __future__ import annotations

import numpy as np

from cclslr.data.draw import hash_words

_ROUNDS = 12  # even, so that both halves have their widths again


def permute(numbers_N: np.ndarray, n: int, *words: int | np.ndarray) -> np.ndarray:
    """Where the permutation of 0..n-1 that `words` choose sends each of `numbers_N`.

    Args:
        numbers_N: integers from 0 to n-1.
        words: integers, or one for each number: which permutation. Others are as good as independent of it.

    Returns:
        (N,) int64.
    """
    bits = max((n - 1).bit_length(), 2)  # so that at most half of the numbers lie beyond n, if n > 2
    keys_RN = [np.broadcast_to(hash_words(*words, number), numbers_N.shape) for number in range(_ROUNDS)]
    x_N = _network(numbers_N.astype(np.uint64), bits, keys_RN)
    while len(beyond := np.flatnonzero(x_N >= np.uint64(n))):
        x_N[beyond] = _network(x_N[beyond], bits, [keys_N[beyond] for keys_N in keys_RN])
    return x_N.astype(np.int64)


def _network(x_N: np.ndarray, bits: int, keys_RN: list[np.ndarray]) -> np.ndarray:
    """A permutation of the numbers of `bits` bits: uint64 (N,) → uint64 (N,)."""
    upper, lower = np.uint64(bits - bits // 2), np.uint64(bits // 2)
    one = np.uint64(1)
    for keys_N in keys_RN:
        right_N = x_N & ((one << lower) - one)
        left_N = (x_N >> lower) ^ (hash_words(keys_N ^ right_N) & ((one << upper) - one))
        x_N = (right_N << upper) | left_N
        upper, lower = lower, upper
    return x_N
