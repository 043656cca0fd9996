"""Bands and alphabets nearest to scores: rules find themselves, and distances are earth movers'."""

from __future__ import annotations

import numpy as np
import pytest

from ncamix.automata import Band
from ncamix.loading import read_source
from ncamix.measure.nearness import (
    ALPHABETS,
    WINDOW_BYTES,
    Nearest,
    authors_band,
    ceiling,
    nearest_bands,
    spread_of_alphabet,
)
from ncamix.reading import parse_part
from ncamix.sources import NcaSource


def rule_sizes(alphabet: int, band: Band) -> np.ndarray:
    first, end = band.amounts(WINDOW_BYTES)
    counts = spread_of_alphabet(alphabet).counts
    return np.array([size for size, n in counts.items() if first <= size < end for _ in range(n)])


@pytest.mark.parametrize(
    ("alphabet", "low", "high"),
    [(2, 0.1, 0.25), (4, 0.25, 0.4), (10, 0.5, 0.6), (10, 0.2, 0.5), (15, 0.6, 0.7)],
)
def test_rules_of_a_band_find_it_at_no_distance(alphabet: int, low: float, high: float) -> None:
    found = nearest_bands(rule_sizes(alphabet, Band(low, high)))
    assert found[0].alphabet == alphabet and found[0].distance == pytest.approx(0, abs=1e-12)
    assert (float(found[0].band.low), float(found[0].band.high)) == (low, high)
    assert sorted(near.alphabet for near in found) == sorted(ALPHABETS)
    assert [near.distance for near in found] == sorted(near.distance for near in found)


def test_the_distance_is_that_of_the_best_pairing() -> None:
    rng = np.random.default_rng(2)
    sizes = rng.integers(300, 800, 400)
    for near in nearest_bands(sizes):
        rules = np.sort(rule_sizes(near.alphabet, near.band))
        # Every window stands for as many as there are rules, and the other way round.
        pairs = np.abs(np.sort(sizes).repeat(len(rules)) - rules.repeat(len(sizes)))
        assert near.distance == pytest.approx(pairs.mean() / WINDOW_BYTES, abs=1e-9)
        assert near.share == pytest.approx(len(rules) / 4000)


def test_no_band_is_nearer() -> None:
    sizes = np.random.default_rng(4).normal(600, 60, 300).astype(int)
    grid = [(i / 20, j / 20) for i in range(20) for j in range(i + 1, 21)]

    def distance(low: float, high: float) -> float:
        rules = np.sort(rule_sizes(6, Band(low, high)))
        if len(rules) < 40:
            return 1.0
        pairs = np.abs(np.sort(sizes).repeat(len(rules)) - rules.repeat(len(sizes)))
        return float(pairs.mean()) / WINDOW_BYTES

    best = next(near for near in nearest_bands(sizes) if near.alphabet == 6)
    assert best.distance == pytest.approx(min(distance(*ends) for ends in grid))


def test_what_no_rule_comes_near_is_far() -> None:
    found = nearest_bands(np.full(50, 1400))
    assert found[0].alphabet == 15 and found[0].distance > 0.2


def test_the_source_can_be_pasted_into_a_curriculum() -> None:
    near = Nearest(8, Band(0.05, 0.5), 0.0, 0.5, 0.6)
    assert near.source == "{kind: nca, alphabet: 8, band: {gzip: [0.05, 0.5]}}"
    source = read_source(parse_part(near.source, "SOURCE"))
    assert isinstance(source, NcaSource)
    assert (source.alphabet, source.band) == (8, Band(0.05, 0.5))


def test_more_ids_have_a_higher_ceiling() -> None:
    found = [ceiling(n) for n in (1, 2, 16, 257, 4096, 50_000)]
    assert found == sorted(found)
    assert found[0] < 0.03  # a constant
    assert found[4] == pytest.approx(0.62, abs=0.01)


@pytest.mark.parametrize(
    ("ratio", "ends"),
    [(0.32, (0.3, 0.4)), (0.3, (0.3, 0.4)), (0.65, (0.5, 1)), (0.5, (0.5, 1)), (0.01, (0, 0.1))],
)
def test_the_authors_mapping(ratio: float, ends: tuple[float, float]) -> None:
    assert authors_band(ratio) == Band(*ends)
