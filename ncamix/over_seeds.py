"""Means over seeds and the intervals that they lie in, of single figures and along training.

Intervals are Student's t of the mean, as in `statistics`. A single seed has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ncamix.log_columns import Floats
from ncamix.run_results import Points
from ncamix.statistics import Interval, mean_interval

Estimate = tuple[float, Interval | None]


@dataclass(frozen=True)
class Band:
    """A figure over training: places where all of `num_seeds` runs have it, in tokens and in
    natural tokens, its mean and the interval of that; not a number with one seed. All float64
    [points]."""

    tokens: Floats
    natural: Floats
    mean: Floats
    low: Floats
    high: Floats
    num_seeds: int


def estimate(values: Sequence[float], confidence: float) -> Estimate:
    """The mean of values and its interval, which one alone has not."""
    return (values[0], None) if len(values) == 1 else mean_interval(values, confidence)


def over_seeds(runs: Sequence[Points], confidence: float) -> Band | None:
    """The mean over seeds at the places that all runs have; None where there are none."""
    by_place = [{tuple(place): i for i, place in enumerate(run.places.tolist())} for run in runs]
    places = sorted(set.intersection(*map(set, by_place))) if runs else []
    if not places:
        return None
    rows = [
        [index[place] for place in places] for index in by_place
    ]  # [runs, points]: where each run has each place
    tokens, natural, values = (
        np.array([getattr(run, key)[at] for run, at in zip(runs, rows, strict=True)])
        for key in ("tokens", "natural", "values")
    )
    found = [estimate(column.tolist(), confidence) for column in values.T]
    bounds = [(i.low, i.high) if i else (math.nan, math.nan) for _, i in found]
    low, high = np.array(bounds, np.float64).T
    mean = np.array([value for value, _ in found])
    return Band(tokens.mean(0), natural.mean(0), mean, low, high, len(runs))
