"""Measures, bands and how random rules spread over them."""

import json
from fractions import Fraction

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ncamix.automata import (
    Automaton,
    Band,
    Spread,
    complexity,
    measure_spread,
    shipped_spread,
    spread_from_json,
    whole,
)


def chi_square(counts, others):
    """Two-sample statistic of histograms of equal totals, and its degrees of freedom."""
    counts, others = np.asarray(counts, float), np.asarray(others, float)
    seen = counts + others > 0
    return (((counts - others) ** 2) / (counts + others).clip(1))[seen].sum(), seen.sum() - 1


@pytest.mark.parametrize(
    ("alphabet", "shares"),
    [  # 4,000 rules of the reference implementation, per band of 10%, the last from 70%
        (2, (0.674, 0.278, 0.048, 0, 0, 0, 0, 0)),
        (3, (0.451, 0.238, 0.197, 0.114, 0, 0, 0, 0)),
        (10, (0.142, 0.055, 0.071, 0.096, 0.179, 0.341, 0.116, 0)),
        (15, (0.097, 0.041, 0.036, 0.068, 0.110, 0.256, 0.384, 0.008)),
    ],
)
def test_scores_spread_as_the_reference_has_them(alphabet, shares):
    spread = measure_spread(Automaton(alphabet))
    ours = spread.shares()
    ours = np.array([*ours[:7], sum(ours[7:])]) * 4000
    statistic, freedom = chi_square(ours, np.array(shares) * 4000)
    quantile_999 = {2: 13.8, 3: 16.3, 6: 22.5, 7: 24.3}  # one in a thousand exceeds it
    assert statistic < quantile_999[int(freedom)]


def test_the_table_is_what_measuring_gives():
    for alphabet in (3, 15):
        assert measure_spread(Automaton(alphabet)) == shipped_spread(Automaton(alphabet))
    assert shipped_spread(Automaton(3, stride=2)) is None
    assert shipped_spread(Automaton(3), "zstd") is None


def test_scores_do_not_depend_on_rounds_and_threads():
    automaton = Automaton(4)
    told = []
    spread = measure_spread(automaton, num_rules=1100, seed=3, num_threads=1, told=told.append)
    scores = automaton.scores(3, 1100)
    assert np.array_equal(scores[700:], automaton.scores(3, 400, first=700))
    assert spread.counts == {
        round(s * 1440): int(n) for s, n in zip(*np.unique(scores, return_counts=True), strict=True)
    }
    assert told == [500 / 1100, 1000 / 1100, 1.0]


def test_measures_are_what_they_say():
    automaton = Automaton(5, (6, 8), temperature=0.05)
    frames = automaton._frames(automaton.rules(1, range(20)), 1, np.arange(20), 10)
    changed = complexity.measure_frames(automaton, "change_rate", frames)
    for row, cells in zip(changed, frames, strict=True):
        assert row == sum((a != b).sum() for a, b in zip(cells, cells[1:], strict=False))
    assert whole(automaton, "change_rate") == 9 * 48 and 0 < changed.max() <= 9 * 48
    tokens = automaton.tokens(frames.reshape(20, 10, 6, 8), 140).reshape(20, 10, 14)[:, :, 1:-1]
    packed = complexity.measure_frames(automaton, "zstd", frames)
    for size, row in zip(packed, tokens, strict=True):
        data = row.astype("<i4").tobytes()
        assert len(data) == whole(automaton, "zstd") == 480
        assert size == len(zstandard.compress(data, 3))
    gzip = complexity.measure_frames(automaton, "gzip", frames)
    assert np.corrcoef(gzip, packed)[0, 1] > 0.9


def test_a_blinking_rule_changes_everywhere():
    frames = np.zeros((1, 10, 4), np.uint8)
    frames[:, ::2] = 1
    automaton = Automaton(2, (2, 2))
    assert complexity.measure_frames(automaton, "change_rate", frames) == whole(
        automaton, "change_rate"
    )
    first, end = Band(0.9, 1, "change_rate").amounts(36)
    assert first <= 36 < end  # nothing lies above an upper end of 1


@given(st.fractions(0, 1), st.fractions(0, 1), st.integers(1, 5000))
def test_a_band_is_decided_in_whole_numbers(low, high, size):
    if low >= high:
        return
    first, end = Band(low, high).amounts(size)
    for amount in {0, 1, first - 1, first, end - 1, end, size // 2, size} & set(range(size + 1)):
        inside = low <= Fraction(amount, size) and (amount < high * size or high == 1)
        assert inside == (first <= amount < end)


def test_ends_of_a_band_are_the_decimals_that_are_written():
    assert Band(0.1, 0.7).amounts(1440) == (144, 1008)
    assert Band(0.1, 0.7) == Band(Fraction(1, 10), Fraction(7, 10))
    for wrong in ((0.3, 0.3), (0.4, 0.3), (-0.1, 0.3), (0.3, 1.1), (float("nan"), 1)):
        with pytest.raises(ValueError):
            Band(*wrong)


COUNTS = st.dictionaries(st.integers(0, 1440), st.integers(1, 50), min_size=1, max_size=30)


@given(COUNTS, st.lists(st.fractions(0, 1), min_size=1, max_size=5))
def test_bands_between_quantiles_hold_every_rule_once(counts, ends):
    spread = Spread(Automaton(), "gzip", counts)
    scores = [spread.quantile(q) for q in sorted({Fraction(0), Fraction(1), *ends})]
    assert scores[0] == 0 and scores[-1] == 1 and scores == sorted(scores)
    bands = [Band(a, b) for a, b in zip(scores, scores[1:], strict=False) if a < b]
    assert sum(spread.share(band) for band in bands) == pytest.approx(1)
    for q in ends:
        if q < 1:
            below = sum(n for amount, n in counts.items() if amount < spread.quantile(q) * 1440)
            until = sum(n for amount, n in counts.items() if amount <= spread.quantile(q) * 1440)
            assert below <= q * spread.num_rules
            assert until > q * spread.num_rules or q == 0


def test_halves_of_an_alphabet_hold_about_half_of_its_rules():
    for alphabet in (2, 10, 15):
        spread = shipped_spread(Automaton(alphabet))
        upper = Band(spread.quantile(Fraction(1, 2)), 1)
        assert spread.share(upper) == pytest.approx(0.5, abs=0.1)  # two states share few scores


@pytest.mark.parametrize("measure", ["gzip", "change_rate"])
def test_a_spread_survives_json(measure):
    automaton = Automaton(3, (6, 4))
    spread = measure_spread(automaton, measure, num_rules=50)
    written = json.loads(json.dumps(spread.to_json()))
    assert spread_from_json(automaton, written) == spread
    assert written["rules"] == 50 and written["automaton"]["grid"] == [6, 4]
    counts = "compressed_byte_counts" if measure == "gzip" else "changed_cell_counts"
    assert sum(written[counts].values()) == 50


def test_a_spread_needs_rules():
    with pytest.raises(ValueError, match="at least one rule"):
        measure_spread(Automaton(), num_rules=0)
