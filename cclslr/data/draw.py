"""Random numbers without a generator: a number is a hash of what it is for, so any can be had alone, in any order.

The hash absorbs its 64-bit words one by one through the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

import numpy as np

_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)


class Purpose(IntEnum):
    """What a random number is for. The values are part of every stream; new draws are named instead (`purpose`)."""

    ORDER = 0
    SHARE = 1
    LABELS = 2
    SUBSTITUTE = 3
    LENGTH = 4
    START = 5
    AREA = 6
    RATIO = 7
    CROP_X = 8
    CROP_Y = 9
    FLIP = 10
    BRIGHTNESS = 11
    CONTRAST = 12
    SATURATION = 13
    HUE = 14
    MASK = 15
    ROTATION = 16
    SCALE = 17
    HIDDEN_COUNT = 18
    HIDDEN_JOINT = 19
    EVERY_CLIP = 20
    SHUFFLE_BN = 21
    KEY_DROPOUT = 22
    QUERY_DROPOUT = 23
    HOLD_OUT = 24


def purpose(name: str) -> int:
    """The purpose of a new draw, by its name: no other draw moves, and nothing need be numbered."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def hash_words(*words: int | np.ndarray) -> np.ndarray:
    """A uint64 for each element of the broadcast integer `words`; the order of the words matters.

    Words are taken modulo 2**64, so negative integers are as good as others.
    """
    state = np.asarray(_INCREMENT)
    with np.errstate(over="ignore"):
        for word in words:
            state = (state ^ np.asarray(word).astype(np.uint64)) + _INCREMENT
            state = (state ^ (state >> np.uint64(30))) * _MULTIPLY_1
            state = (state ^ (state >> np.uint64(27))) * _MULTIPLY_2
            state = state ^ (state >> np.uint64(31))
    return state


def uniform(*words: int | np.ndarray) -> np.ndarray:
    """float64 in [0, 1) for each element of the broadcast integer `words`: the upper 53 bits of their hash."""
    return (hash_words(*words) >> np.uint64(11)) * 2.0**-53
