"""One order: permutations, batches, positions, shares; all of it pure and lazy."""

from __future__ import annotations

import pickle
import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncamix.order import SourceOrder, StageOrder
from ncamix.permutations import interleave, permute

SIZES = [1, 2, 3, 4, 5, 7, 64, 65, 1000, 4096, 4097]


def small_order() -> StageOrder:
    """203 batches of 24 from an endless, a small finite and a finite source that starts late."""
    rng = np.random.default_rng(5)
    counts = rng.multinomial(24, [0.5, 0.3, 0.2], size=203).astype(np.int32)
    counts[40:60, 1] += counts[40:60, 0]
    counts[40:60, 0] = 0
    sources = (SourceOrder(100), SourceOrder(0, 37, 11), SourceOrder(55, 500, 12))
    return StageOrder(counts, sources)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("key", [0, 1, 2**64 - 1])
def test_permute_is_a_bijection(size: int, key: int) -> None:
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(deadline=None, max_examples=60)
def test_permute_is_a_bijection_for_any_size_and_key(size: int, key: int) -> None:
    whole = permute(np.arange(size), size, key)
    assert np.array_equal(np.sort(whole), np.arange(size))
    some = np.arange(size)[::3]
    assert np.array_equal(permute(some, size, key), whole[some])


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


@pytest.mark.parametrize("size", [1, 3, 37, 1000])
@pytest.mark.parametrize("first", [0, 5])
def test_no_sample_comes_twice_before_all_came_once(size: int, first: int) -> None:
    order = SourceOrder(first, size, 9)
    seen = order.samples(np.arange(3 * size)).reshape(3, size)
    assert all(sorted(epoch.tolist()) == list(range(size)) for epoch in seen)
    if size > 3:
        assert len({tuple(epoch.tolist()) for epoch in seen}) == 3
    later = order.samples(np.arange(size // 2, 2 * size + 1))  # a call across epochs
    assert np.array_equal(later, seen.ravel()[size // 2 : 2 * size + 1])


def test_batches_hold_their_counts_and_no_sample_twice() -> None:
    order = small_order()
    seen: list[list[int]] = [[], [], []]
    for t in range(order.num_batches):
        source, sample = order.batch(t)
        assert np.array_equal(np.bincount(source, minlength=3), order.counts[t])
        for s in range(3):
            seen[s] += sample[source == s].tolist()
    totals = order.counts.sum(axis=0)
    assert sorted(seen[0]) == list(range(100, 100 + totals[0]))
    for s, size in ((1, 37), (2, 500)):
        first = order.sources[s].first
        expected = order.sources[s].samples(np.arange(first, first + totals[s]))
        assert sorted(seen[s]) == sorted(expected.tolist())
        assert max(np.bincount(seen[s])) <= -(-(first + totals[s]) // size)


def test_a_position_is_a_place_of_its_batch() -> None:
    order = small_order()
    for position in [0, 1, 23, 24, 24 * 64 - 1, 24 * 64, 24 * 203 - 1]:
        source, sample = order.batch(position // 24)
        assert order.at(position) == (source[position % 24], sample[position % 24])


def test_before_is_the_sum_at_every_batch() -> None:
    for num_batches in (1, 63, 64, 65, 128, 203):
        full = small_order()
        order = StageOrder(full.counts[:num_batches], full.sources)
        sums = np.concatenate([np.zeros((1, 3), np.int64), order.counts.cumsum(axis=0)])
        for t in range(num_batches + 1):
            assert np.array_equal(order.before(t), sums[t])


def test_the_order_does_not_depend_on_how_it_is_asked() -> None:
    order = small_order()
    in_turn = [order.batch(t) for t in range(order.num_batches)]
    asked = random.Random(1).sample(range(order.num_batches), order.num_batches)
    other = pickle.loads(pickle.dumps(small_order()))
    for t in asked:
        assert all(np.array_equal(a, b) for a, b in zip(other.batch(t), in_turn[t], strict=True))


@pytest.mark.parametrize("total", [1, 2, 7, 8, 12, 24, 97, 100, 256, 4096])
def test_interleave_is_a_permutation(total: int) -> None:
    assert sorted(interleave(total).tolist()) == list(range(total))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.sampled_from([2, 4, 8, 16]))
@settings(deadline=None)
def test_every_share_holds_its_part_of_each_source(counts: list[int], ranks: int) -> None:
    counts[0] += -sum(counts) % ranks or (0 if sum(counts) else ranks)
    total = sum(counts)
    source = np.repeat(np.arange(len(counts)), counts)[interleave(total)]
    for share in source.reshape(ranks, -1):
        held = np.bincount(share, minlength=len(counts))
        assert (np.abs(held - np.array(counts) / ranks) < 1).all()


def test_a_hundred_million_samples_cost_no_memory() -> None:
    batches, size = 400_000, 256
    counts = np.tile(np.array([[200, 56]], np.int32), (batches, 1))
    order = StageOrder(counts, (SourceOrder(0), SourceOrder(0, 10**6, 3)))
    tracemalloc.start()
    try:
        for position in (0, 12_345_678, batches * size - 1, 99_999_999):
            batch, place = divmod(position, size)
            source, sample = order.at(position)
            first = batch * (200, 56)[source]
            if source == 0:
                assert first <= sample < first + 200
            else:
                epochs, index = np.divmod(np.arange(first, first + 56), 10**6)
                assert 0 <= sample < 10**6 and len(index) == 56
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
