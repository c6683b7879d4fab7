"""Counter-based random numbers: what they are, and that they look random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cclslr.data.draw import Purpose, hash_words, purpose, uniform

_WORD = st.integers(-(2**63), 2**63 - 1)


def _reference(words: list[int]) -> int:
    """SplitMix64's finaliser after each word, in plain integers."""
    modulo, increment = 1 << 64, 0x9E3779B97F4A7C15
    state = increment
    for word in words:
        state = ((state ^ word % modulo) + increment) % modulo
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % modulo
        state = (state ^ state >> 27) * 0x94D049BB133111EB % modulo
        state ^= state >> 31
    return state


@settings(deadline=None)
@given(st.lists(_WORD, min_size=1, max_size=6))
def test_hash_is_the_reference(words: list[int]) -> None:
    assert int(hash_words(*words)) == _reference(words)


@settings(deadline=None)
@given(st.integers(0, 2**40), st.lists(st.integers(0, 2**40), min_size=1, max_size=20))
def test_a_number_does_not_depend_on_its_neighbours(seed: int, ids: list[int]) -> None:
    together = uniform(seed, np.array(ids)[None], np.arange(2)[:, None])
    for v in range(2):
        for i, clip in enumerate(ids):
            assert together[v, i] == uniform(seed, clip, v)


def test_uniform_by_clip_epoch_view_and_purpose() -> None:
    for numbers in (
        uniform(0, 0, np.arange(50_000), 0, Purpose.START),
        uniform(0, np.arange(50_000), 7, 1, Purpose.FLIP),
        uniform(np.arange(50_000), 3, 7, 1, Purpose.FLIP),
        uniform(1, 2, np.arange(2_500)[:, None], 0, np.arange(20)).ravel(),
    ):
        assert 0 <= numbers.min() < numbers.max() < 1
        assert stats.kstest(numbers, "uniform").pvalue > 1e-3
        pairs, *_ = np.histogram2d(numbers[:-1], numbers[1:], bins=16)
        assert stats.chisquare(pairs.ravel()).pvalue > 1e-3


@pytest.mark.parametrize("other", [(0, 0, 1, 0, 4), (0, 0, 0, 1, 4), (0, 1, 0, 0, 4), (1, 0, 0, 0, 4), (0, 0, 0, 0, 5)])
def test_streams_are_uncorrelated(other: tuple[int, ...]) -> None:
    """Neighbouring clips, views, epochs, seeds and purposes: |r| < 4.5 standard errors, also of the squares."""
    step = np.arange(40_000) * 2
    a = uniform(0, 0, step, 0, 4)
    b = uniform(other[0], other[1], step + other[2], other[3], other[4])
    for x, y in ((a, b), (a**2, b), (abs(a - 0.5), abs(b - 0.5))):
        assert abs(np.corrcoef(x, y)[0, 1]) < 4.5 / np.sqrt(len(a))


@pytest.mark.parametrize("word", range(3))
def test_every_input_bit_flips_half_of_the_output(word: int) -> None:
    words = [np.arange(2_000), np.arange(2_000) * 3, np.arange(2_000) * 7]
    before = hash_words(*words)
    for bit in range(63):
        words_after = [w ^ (1 << bit) if i == word else w for i, w in enumerate(words)]
        flipped = np.bitwise_count(before ^ hash_words(*words_after))
        assert abs(flipped.mean() - 32) < 5 * 4 / np.sqrt(2_000)


def test_order_of_the_words_matters() -> None:
    assert hash_words(1, 2) != hash_words(2, 1)


def test_purposes_are_distinct() -> None:
    assert len({int(purpose) for purpose in Purpose}) == len(Purpose.__members__)


def test_a_new_draw_is_named_and_is_like_no_other():
    """An augmentation that is added moves no stream: its purpose is a hash of its name, far from the numbers."""
    drawn = {name: uniform(0, 0, np.arange(1000), purpose(name)) for name in ("grey", "blur")}
    numbered = [uniform(0, 0, np.arange(1000), each) for each in Purpose]
    assert purpose("grey") == purpose("grey") > len(Purpose)
    for x in drawn.values():
        assert abs(x.mean() - 0.5) < 0.05
        assert all(abs(np.corrcoef(x, y)[0, 1]) < 0.15 for y in numbered)
    assert abs(np.corrcoef(*drawn.values())[0, 1]) < 0.15
