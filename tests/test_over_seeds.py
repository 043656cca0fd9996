"""Means over seeds and their intervals, against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ncamix.over_seeds import estimate, over_seeds
from ncamix.run_results import Points


def points(values: list[float], places: list[tuple[int, int]] | None = None) -> Points:
    places = places or [(0, i) for i in range(len(values))]
    tokens = np.array([100.0 * (stage + 1) * batch for stage, batch in places])
    return Points(np.array(places, np.int64), tokens, tokens / 2, np.array(values))


def test_a_band_is_the_t_interval_at_every_point() -> None:
    table = np.random.default_rng(4).normal(3, 0.2, (6, 9))
    band = over_seeds([points(row.tolist()) for row in table], 0.9)
    assert band is not None and band.num_seeds == 6
    low, high = stats.t.interval(0.9, 5, table.mean(0), stats.sem(table))
    np.testing.assert_allclose(band.mean, table.mean(0))
    np.testing.assert_allclose(band.low, low)
    np.testing.assert_allclose(band.high, high)
    np.testing.assert_array_equal(band.natural, band.tokens / 2)


def test_only_places_that_all_runs_have_count() -> None:
    """A mean over changing seeds would jump where one of them ends."""
    first = points([5.0, 4.0, 3.0, 2.0], [(0, 0), (0, 7), (1, 0), (1, 9)])
    second = points([6.0, 2.0, 1.0], [(0, 0), (1, 0), (1, 4)])
    band = over_seeds([first, second], 0.95)
    assert band is not None
    assert band.mean.tolist() == [5.5, 2.5]
    assert over_seeds([first, points([1.0], [(3, 3)])], 0.95) is None
    assert over_seeds([], 0.95) is None


def test_one_seed_has_no_interval() -> None:
    band = over_seeds([points([3.0, 2.0])], 0.95)
    assert band is not None and band.num_seeds == 1
    assert np.isnan(band.low).all() and np.isnan(band.high).all()
    assert estimate([2.5], 0.95) == (2.5, None)
    mean, interval = estimate([1.0, 2.0, 3.0], 0.95)
    assert mean == 2.0 and interval is not None
    low, high = stats.t.interval(0.95, 2, 2.0, stats.sem([1, 2, 3]))
    assert (interval.low, interval.high) == pytest.approx((low, high))
