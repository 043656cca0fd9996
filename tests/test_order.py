"""One order: permutations, batches, positions, shares; all of it pure and lazy."""

from __future__ import annotations

import pickle
import random
import tracemalloc

import numpy as np
import pytest

from ncamix.order import SourceOrder, StageOrder


def small_order() -> StageOrder:
    """203 batches of 24 from an endless, a small finite and a finite source that starts late."""
    rng = np.random.default_rng(5)
    counts = rng.multinomial(24, [0.5, 0.3, 0.2], size=203).astype(np.int32)
    counts[40:60, 1] += counts[40:60, 0]
    counts[40:60, 0] = 0
    sources = (SourceOrder(100), SourceOrder(0, 37, 11), SourceOrder(55, 500, 12))
    return StageOrder(counts, sources)


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


@pytest.mark.parametrize("size", [0, 17, 1000])
def test_a_replay_deals_no_draw_twice_before_all_came_again(size: int) -> None:
    replayed = 50
    order = SourceOrder(0, size, 9, replayed, 4)
    drawn = SourceOrder(0, size, 9).samples(np.arange(replayed))
    rounds = order.samples(np.arange(3 * replayed)).reshape(3, replayed)
    assert all(sorted(r.tolist()) == sorted(drawn.tolist()) for r in rounds)
    assert len({tuple(r.tolist()) for r in (*rounds, drawn)}) == 4  # an order of its own each
    other = SourceOrder(0, size, 9, replayed, 5).samples(np.arange(replayed))
    assert not np.array_equal(other, rounds[0])


def test_any_number_of_ranks_shares_the_same_batch() -> None:
    order = small_order()
    for t in (0, 50, 202):
        whole = list(zip(*map(np.ndarray.tolist, order.batch(t)), strict=True))
        for ranks in (1, 2, 4, 8, 24):  # halves of halves: not a place changes
            assert list(zip(*map(np.ndarray.tolist, order.batch(t, ranks)), strict=True)) == whole
        for ranks in (3, 6, 12):
            shared = order.batch(t, ranks)
            assert sorted(zip(*map(np.ndarray.tolist, shared), strict=True)) == sorted(whole)
            held = [np.bincount(s, minlength=3) for s in shared[0].reshape(ranks, -1)]
            assert np.ptp(held, axis=0).max() <= 1


def test_short_and_long_counts_mean_the_same() -> None:
    order = small_order()
    short = StageOrder(order.counts.astype(np.int16), order.sources)
    for t in range(0, 203, 20):
        assert np.array_equal(order.batch(t), short.batch(t))


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
    for position in [0, 1, 23, 24, 24 * 64 - 1, 24 * 64, 24 * 203 - 1, *range(2000, 2048)]:
        source, sample = order.batch(position // 24)
        assert order.at(position) == (source[position % 24], sample[position % 24])


def test_the_order_does_not_depend_on_how_it_is_asked() -> None:
    order = small_order()
    in_turn = [order.batch(t) for t in range(order.num_batches)]
    asked = random.Random(1).sample(range(order.num_batches), order.num_batches)
    other = pickle.loads(pickle.dumps(small_order()))
    for t in asked:
        assert all(np.array_equal(a, b) for a, b in zip(other.batch(t), in_turn[t], strict=True))


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
