"""Permutations: bijections of any size, equal to their plain twin; lists dealt out evenly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ncamix.keys import derive_key
from ncamix.permutations import deal, interleave, permute

SIZES = [1, 2, 3, 4, 5, 7, 64, 65, 1000, 4096, 4097]


def plainly(index: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """The same permutation in plain NumPy."""
    half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    value = index.astype(np.uint64)
    pending = np.arange(len(value))
    while len(pending):
        x = value[pending]
        left, right = x >> shift, x & mask
        for r in range(6):
            y = right ^ np.uint64(derive_key("round", key, r))
            y = (y ^ (y >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            y = (y ^ (y >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            left, right = right, left ^ ((y ^ (y >> np.uint64(31))) & mask)
        value[pending] = (left << shift) | right
        pending = pending[value[pending] >= size]
    return value.astype(np.int64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", [0, 1, 2**64 - 1])
def test_permute_is_a_bijection(size: int, key: int) -> None:
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(max_examples=60)
def test_permute_is_a_bijection_for_any_size_and_key(size: int, key: int) -> None:
    whole = permute(np.arange(size), size, key)
    assert np.array_equal(np.sort(whole), np.arange(size))
    some = np.arange(size)[::3]
    assert np.array_equal(permute(some, size, key), whole[some])


@given(st.integers(1, 2**62), st.integers(0, 2**64 - 1), st.integers(0, 2**62))
@settings(max_examples=60)
def test_permute_equals_its_plain_twin(size: int, key: int, start: int) -> None:
    index = (start + np.arange(20)) % size
    assert np.array_equal(permute(index, size, key), plainly(index, size, key))


def test_the_permutations_are_frozen() -> None:
    assert permute(np.arange(8), 8, 1).tolist() == [3, 0, 6, 5, 1, 2, 4, 7]
    large = [1408263194216, 2539080865603, 2403249687475, 1164899197323]
    assert permute(np.arange(4), 3 * 10**12, 2**64 - 1).tolist() == large
    assert interleave(12).tolist() == [0, 4, 8, 2, 6, 10, 1, 5, 9, 3, 7, 11]


def test_permute_moves_and_depends_on_its_key() -> None:
    first, second = (permute(np.arange(4097), 4097, k) for k in (1, 2))
    for a, b in ((first, np.arange(4097)), (first, second)):
        assert (a == b).sum() < 10  # one is expected
    assert abs(np.corrcoef(first, np.arange(4097))[0, 1]) < 0.06


def test_permute_reaches_beyond_32_bits() -> None:
    size = 3 * 10**12
    out = permute(np.arange(size - 1000, size), size, 4)
    assert len(set(out.tolist())) == 1000
    assert out.min() >= 0 and out.max() < size


@pytest.mark.parametrize("total", [1, 2, 7, 8, 12, 24, 97, 100, 256, 4096])
def test_every_card_is_dealt_once(total: int) -> None:
    for hands in (h for h in range(1, total + 1) if total % h == 0):
        assert sorted(deal(total, hands).ravel().tolist()) == list(range(total))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(1, 24))
def test_every_hand_holds_its_part_of_each_source(counts: list[int], hands: int) -> None:
    counts[0] += -sum(counts) % hands or (0 if sum(counts) else hands)
    source = np.repeat(np.arange(len(counts)), counts)
    held = np.array(
        [np.bincount(source[h], minlength=len(counts)) for h in deal(len(source), hands)]
    )
    assert (held.max(axis=0) - held.min(axis=0) <= 1).all()


@pytest.mark.parametrize("total", [8, 24, 96, 512])
def test_halves_and_their_halves_are_hands_of_the_one_order(total: int) -> None:
    """So that nothing moves between one, two, four and eight ranks."""
    for hands in (1, 2, 4, 8):
        assert np.array_equal(deal(total, hands).ravel(), interleave(total))
