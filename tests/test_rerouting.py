"""Rerouting against maximum flows: it finds a way exactly where there is one."""

from __future__ import annotations

import random
from fractions import Fraction
from math import ceil, floor

import networkx as nx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ncamix.rerouting import ACTIVE, LOOSE, UP, reroute

Quotas = list[list[Fraction]]


def has_flow(quotas: Quotas, sizes: list[int]) -> bool:
    """Whether there are counts within the floors and ceilings of cumulative quotas.

    A circulation with lower bounds, as a maximum flow from an extra source to an extra sink.
    """
    graph: nx.DiGraph = nx.DiGraph()
    excess: dict[object, int] = {}

    def arc(tail: object, head: object, low: int, high: int) -> None:
        graph.add_edge(tail, head, capacity=high - low)
        excess[head] = excess.get(head, 0) + low
        excess[tail] = excess.get(tail, 0) - low

    cumulative = [Fraction(0)] * len(quotas[0])
    for t, (quota, size) in enumerate(zip(quotas, sizes, strict=True)):
        arc("source", ("batch", t), size, size)
        for s, q in enumerate(quota):
            cumulative[s] += q
            if q:
                arc(("batch", t), (t, s), 0, size)
            after = (t + 1, s) if t + 1 < len(quotas) else "sink"
            arc((t, s), after, floor(cumulative[s]), ceil(cumulative[s]))
    arc("sink", "source", 0, sum(sizes))
    for node, amount in excess.items():
        if amount > 0:
            graph.add_edge("more", node, capacity=amount)
        elif amount < 0:
            graph.add_edge(node, "less", capacity=-amount)
    wanted = sum(amount for amount in excess.values() if amount > 0)
    return not wanted or nx.maximum_flow_value(graph, "more", "less") == wanted


def counts_at_random(
    quotas: Quotas, sizes: list[int], rng: random.Random
) -> tuple[np.ndarray | None, int]:
    """Counts by choices at random and rerouting, None where that fails; and how often it helped.

    Random choices get stuck far more often than good ones.
    """
    num_sources = len(quotas[0])
    counts = np.zeros((len(quotas), num_sources), np.int32)
    flags = np.zeros((len(quotas), num_sources + 1), np.uint8)
    cumulative, given_, helped = [Fraction(0)] * num_sources, [0] * num_sources, 0
    for t, (quota, size) in enumerate(zip(quotas, sizes, strict=True)):
        cumulative = [c + q for c, q in zip(cumulative, quota, strict=True)]
        row = [
            max(0, floor(c) - g) if q else 0
            for c, g, q in zip(cumulative, given_, quota, strict=True)
        ]
        free = [
            s for s in range(num_sources) if quota[s] and ceil(cumulative[s]) > given_[s] + row[s]
        ]
        rng.shuffle(free)
        for s in free[: max(0, size - sum(row))]:
            row[s] += 1
        counts[t] = row
        for s, q in enumerate(quota):
            given_[s] += row[s]
            flags[t, s] = ACTIVE * (q > 0) | LOOSE * (cumulative[s].denominator > 1)
            flags[t, s] |= UP * (given_[s] > floor(cumulative[s]))
        while counts[t].sum() != size:
            change = 1 if counts[t].sum() < size else -1
            s = reroute(counts, flags, t, change)
            if s < 0:
                return None, helped
            given_[s] += change
            helped += 1
    return counts, helped


def check(counts: np.ndarray, quotas: Quotas, sizes: list[int]) -> None:
    assert counts.sum(axis=1).tolist() == sizes
    assert counts.min() >= 0
    cumulative = [Fraction(0)] * len(quotas[0])
    for so_far, row, quota in zip(counts.cumsum(axis=0).tolist(), counts, quotas, strict=True):
        assert all(n == 0 for n, q in zip(row, quota, strict=True) if not q)
        cumulative = [c + q for c, q in zip(cumulative, quota, strict=True)]
        assert all(abs(n - c) < 1 for n, c in zip(so_far, cumulative, strict=True))


def random_quotas(rng: random.Random, size: int) -> Quotas:
    """Quotas of batches of one size, with many zeros and many ties."""
    rows = []
    for _ in range(rng.randint(1, 25)):
        weights = [rng.choice([0, 0, 1, 1, 2, 7]) for _ in range(rng.randint(2, 6))]
        rows.append(weights)
    num_sources = max(map(len, rows))
    rows = [row + [0] * (num_sources - len(row)) for row in rows]
    for row in rows:
        row[rng.randrange(num_sources)] += 1
    return [[Fraction(w * size, sum(row)) for w in row] for row in rows]


@settings(max_examples=150)
@given(st.randoms(use_true_random=False))
def test_batches_of_one_size_always_work_out(rng: random.Random) -> None:
    size = rng.choice([1, 2, 3, 8])
    quotas = random_quotas(rng, size)
    sizes = [size] * len(quotas)
    assert has_flow(quotas, sizes)
    counts, _ = counts_at_random(quotas, sizes, rng)
    assert counts is not None
    check(counts, quotas, sizes)


@settings(max_examples=150)
@given(st.randoms(use_true_random=False))
def test_a_way_is_found_where_the_maximum_flow_has_one(rng: random.Random) -> None:
    """Batches whose quotas do not sum to their size may work out, or not."""
    quotas = random_quotas(rng, 2)[:8]
    sizes = [2] * len(quotas)
    for row in quotas:
        s = rng.randrange(len(row))
        row[s] = max(Fraction(0), row[s] + rng.choice([-1, 0, 0, 1]) * Fraction(1, 3))
    counts, _ = counts_at_random(quotas, sizes, rng)
    assert (counts is not None) == has_flow(quotas, sizes)
    if counts is not None:
        check(counts, quotas, sizes)


def test_random_choices_do_get_stuck_and_are_mended() -> None:
    helped = 0
    for seed in range(60):
        rng = random.Random(seed)
        quotas = random_quotas(rng, 1)
        helped += counts_at_random(quotas, [1] * len(quotas), rng)[1]
    assert helped >= 8


def test_a_way_through_a_long_stretch_of_zeros() -> None:
    """a or b, then c or d; e alone for long; then a and c are due at once if b and d came first."""
    half = Fraction(1, 2)
    rows = ["ab", "cd", *["e"] * 500, "ac", "bd"]
    quotas = [[half if s in row else Fraction(0) for s in "abcde"] for row in rows]
    for row in quotas[2:-2]:
        row[4] = Fraction(1)
    stuck = 0
    for seed in range(8):
        counts, helped = counts_at_random(quotas, [1] * len(rows), random.Random(seed))
        assert counts is not None
        check(counts, quotas, [1] * len(rows))
        stuck += helped
    assert 0 < stuck < 8


def test_nothing_is_left_behind_by_a_search() -> None:
    """A single source of weight zero: no way, and the flags are as they were."""
    counts, flags = np.zeros((1, 1), np.int32), np.zeros((1, 2), np.uint8)
    assert reroute(counts, flags, 0, 1) == -1
    assert not flags.any()
    assert not counts.any()
