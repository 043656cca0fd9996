"""Apportionment against an oracle in exact fractions: sums, zeros, quotas, deviations."""

from __future__ import annotations

import random
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from ncamix.apportionment import Apportionment, apportion
from ncamix.schedule import SCALE, normalised

Weights = list[tuple[int, ...]]


def fixed(weights: list[int]) -> tuple[int, ...]:
    """Whole-number weights as fixed point, summing to exactly 1."""
    return normalised([w * SCALE // sum(weights) for w in weights])


def random_schedule(rng: random.Random, zeros: bool) -> tuple[Weights, int]:
    """Weights of every batch by linear interpolation, and a batch size; perhaps with zeros."""
    num_sources, num_batches = rng.randint(2, 6), rng.randint(1, 200)
    frames = []
    for _ in range(rng.randint(1, 5)):
        weights = [rng.randint(1, 1000) for _ in range(num_sources)]
        if zeros:
            kept = rng.randrange(num_sources)
            weights = [w if i == kept or rng.random() < 0.6 else 0 for i, w in enumerate(weights)]
        frames.append(weights)
    spans = max(1, len(frames) - 1)
    out = []
    for t in range(num_batches):
        place = Fraction(2 * t + 1, 2 * num_batches) * spans
        i = int(place)
        left, right = frames[min(i, len(frames) - 1)], frames[min(i + 1, len(frames) - 1)]
        u = place - i
        mixed = [
            Fraction(a, sum(left)) * (1 - u) + Fraction(b, sum(right)) * u
            for a, b in zip(left, right, strict=True)
        ]
        out.append(normalised([int(m * SCALE) for m in mixed]))
    return out, rng.randint(1, 64)


def deviation(result: Apportionment, weights: Weights, batch_size: int) -> Fraction:
    """Largest distance of a cumulative count from the integral of the weights."""
    quota, given = [Fraction(0)] * len(weights[0]), [0] * len(weights[0])
    worst = Fraction(0)
    for row, shares in zip(result.counts.tolist(), weights, strict=True):
        quota = [q + Fraction(w * batch_size, SCALE) for q, w in zip(quota, shares, strict=True)]
        given = [g + n for g, n in zip(given, row, strict=True)]
        worst = max([worst, *(abs(g - q) for g, q in zip(given, quota, strict=True))])
    return worst


def check_strict_rules(result: Apportionment, weights: Weights, batch_size: int) -> None:
    for row, shares in zip(result.counts.tolist(), weights, strict=True):
        assert sum(row) == batch_size
        assert min(row) >= 0
        assert all(count == 0 for count, w in zip(row, shares, strict=True) if w == 0)


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_within_one_sample_of_the_schedule(rng: random.Random) -> None:
    weights, batch_size = random_schedule(rng, zeros=False)
    result = apportion(weights.__getitem__, len(weights), batch_size)
    check_strict_rules(result, weights, batch_size)
    worst = deviation(result, weights, batch_size)
    assert worst < 1
    assert result.largest_deviation == float(worst)


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_zero_stretches_stay_empty_and_the_deviation_is_told(rng: random.Random) -> None:
    weights, batch_size = random_schedule(rng, zeros=True)
    result = apportion(weights.__getitem__, len(weights), batch_size)
    check_strict_rules(result, weights, batch_size)
    assert result.largest_deviation == float(deviation(result, weights, batch_size))


def test_zero_stretches_almost_always_stay_within_one_sample() -> None:
    rng = random.Random(1)
    beyond = []
    for _ in range(150):
        weights, batch_size = random_schedule(rng, zeros=True)
        result = apportion(weights.__getitem__, len(weights), batch_size)
        if result.largest_deviation >= 1:
            beyond.append(result.largest_deviation)
    assert len(beyond) <= 8, beyond
    assert max(beyond, default=0) < 2


def test_tiny_weights_get_their_quota_in_the_end() -> None:
    weights = fixed([10**6 - 3, 2, 1])
    result = apportion(lambda t: weights, 10_000, 1000, constant=True)
    assert result.totals == [9_999_970, 20, 10]
    assert result.largest_deviation < 1


def test_constant_weights_need_no_evaluation() -> None:
    weights = fixed([1, 2, 4])
    asked: list[int] = []

    def at(batch: int) -> tuple[int, ...]:
        asked.append(batch)
        return weights

    quick = apportion(at, 100, 7, constant=True)
    assert asked == [0]
    assert (quick.counts == apportion(at, 100, 7).counts).all()
    assert quick.counts.tolist() == [[1, 2, 4]] * 100


def test_a_single_source_takes_everything() -> None:
    result = apportion(lambda t: (0, SCALE), 5, 3, constant=True)
    assert result.counts.tolist() == [[0, 3]] * 5
    assert result.totals == [0, 15]
    assert result.largest_deviation == 0


def test_a_handover_between_sources_loses_nothing() -> None:
    half = fixed([1, 1])
    weights = [half] * 3 + [(0, SCALE)] * 2 + [half] * 3
    result = apportion(weights.__getitem__, len(weights), 3)
    check_strict_rules(result, weights, 3)
    assert sum(result.totals) == 24
    assert result.largest_deviation < 1


def test_the_same_weights_give_the_same_counts() -> None:
    weights, batch_size = random_schedule(random.Random(3), zeros=True)
    first, second = (apportion(weights.__getitem__, len(weights), batch_size) for _ in range(2))
    assert (first.counts == second.counts).all()
