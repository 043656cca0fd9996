"""Statistics of a handful of runs: paired t, Holm, power, documents drawn anew.

    a difference for each seed -> paired t-test and interval -> p-values adjusted over a family
    an sd, so many seeds       -> the power of that test, the effect that it finds
    nats per held-out document -> an interval over documents, the runs given

Runs of different seeds are what varies, so intervals between seeds are Student's t: right for any
number of seeds where differences are normal, and near right where they are not far from it. (A
percentile bootstrap over five seeds finds a difference in far more than 5% of studies without one;
the tests show it.) Resampled documents answer another question: how much the same runs would
differ on other documents. Values are in any unit. What is not a finite number is refused with
ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncamix.keys import derive_key

Floats = NDArray[np.float64]

DRAWS = 10_000  # of a bootstrap
MOST_SEEDS = 10_000  # beyond these none are counted
_FARTHEST = 9.0  # standard deviations of a normal beyond which nothing is
_CHUNK = 1 << 21  # documents drawn at once


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`, with `confidence` such as 0.95."""

    low: float
    high: float
    confidence: float

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def within(self, bound: float) -> bool:
        """Whether all of it lies between -bound and bound."""
        return -bound <= self.low and self.high <= bound


@dataclass(frozen=True)
class PairedTest:
    """What differences say: their mean, its interval, the p-value of 0, and their sd (n - 1)."""

    mean: float
    interval: Interval
    p: float
    sd: float
    num_pairs: int


def paired_test(differences: Sequence[float] | Floats, confidence: float = 0.95) -> PairedTest:
    """The two-sided paired t-test (Student 1908) of n >= 2 differences.

    With mean m and sd s (n - 1): t = m / (s / sqrt(n)), p = 2 P(T > |t|) with n - 1 degrees of
    freedom, interval m +- t* s / sqrt(n). Where all differences are equal there is no variation
    to hold them against: the interval is that value, p is 1 if it is 0 and else 0. Whoever shows
    that should ask whether the seeds changed anything. ValueError for fewer than two.
    """
    from scipy.special import stdtr

    given, n = finite(differences), len(differences)
    mean, interval = mean_interval(given, confidence)
    sd = _sd(given, mean)
    if sd == 0:
        return PairedTest(mean, interval, 1.0 if mean == 0 else 0.0, sd, n)
    p = 2 * float(stdtr(n - 1, -abs(mean) / sd * math.sqrt(n)))
    return PairedTest(mean, interval, min(p, 1.0), sd, n)


def mean_interval(
    values: Sequence[float] | Floats, confidence: float = 0.95
) -> tuple[float, Interval]:
    """The mean of n >= 2 values and its t-interval, as in `paired_test`. ValueError for fewer."""
    given, n = finite(values), len(values)
    if n < 2:
        raise ValueError(f"an interval takes two values at least, not {n}")
    mean = given[0] if len(set(given)) == 1 else math.fsum(x / n for x in given)
    half = _t(n - 1, confidence) * _sd(given, mean) / math.sqrt(n)
    return mean, Interval(mean - half, mean + half, confidence)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted over their family (Holm 1979), in the order given.

    Of m in ascending order, p(1) ... p(m), the i-th becomes the maximum over j <= i of
    min(1, (m - j + 1) p(j)). Whatever the dependence, those below a level are all true
    differences, but for a chance of that level.
    """
    given = finite(p_values)
    if not all(0 <= p <= 1 for p in given):
        raise ValueError("a p-value lies between 0 and 1")
    adjusted, largest = [0.0] * len(given), 0.0
    for rank, i in enumerate(sorted(range(len(given)), key=given.__getitem__)):
        largest = max(largest, min(1.0, (len(given) - rank) * given[i]))
        adjusted[i] = largest
    return adjusted


def power(effect: float, sd: float, num_pairs: int, confidence: float = 0.95) -> float:
    """How often the two-sided paired t-test finds a true mean difference of `effect`.

    sd: of the paired difference between seeds, the true one. With n pairs the test's statistic is
    noncentral t with n - 1 degrees of freedom and noncentrality sqrt(n) effect / sd, and the power
    is the probability that it is beyond the t of the confidence on either side (Cohen 1988). For
    an effect of 0 that is 1 - confidence, for an sd of 0 it is 1; fewer than two pairs find
    nothing.
    """
    finite([effect, sd])
    _check(confidence=confidence)
    if sd < 0:
        raise ValueError("an sd is not negative")
    if num_pairs < 2:
        return 0.0
    if effect == 0:
        return 1 - confidence
    return _power(abs(effect) / sd if sd else math.inf, num_pairs, confidence)


def detectable_effect(
    sd: float, num_pairs: int, power: float = 0.8, confidence: float = 0.95
) -> float:
    """The smallest effect that so many pairs find with that power, in the unit of `sd`.

    Proportional to the sd; infinite for fewer than two pairs, however small it is.
    """
    finite([sd])
    if sd < 0:
        raise ValueError("an sd is not negative")
    size = _detectable_size(num_pairs, power, confidence)
    return size if math.isinf(size) else sd * size


def largest_sd(
    effect: float, num_pairs: int, power: float = 0.8, confidence: float = 0.95
) -> float:
    """The sd of the paired difference at which an effect is just found with that power."""
    finite([effect])
    size = _detectable_size(num_pairs, power, confidence)
    return abs(effect) / size if size else math.inf


def seeds_needed(
    effect: float, sd: float, power: float = 0.8, confidence: float = 0.95
) -> int | None:
    """The fewest pairs that find an effect with that power; None for more than `MOST_SEEDS`."""
    finite([effect, sd])
    _check(confidence=confidence, power=power)
    size = abs(effect) / sd if sd else math.inf if effect else 0.0

    def suffice(num_pairs: int) -> bool:
        return _power(size, num_pairs, confidence) >= power

    too_few, enough = 1, 2
    while not suffice(enough):
        too_few, enough = enough, enough * 2
        if too_few >= MOST_SEEDS:
            return None
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if suffice(middle) else (middle, enough)
    return enough if enough <= MOST_SEEDS else None


def sd_range(num_values: int, confidence: float = 0.95) -> tuple[float, float]:
    """Between which multiples of an sd seen over n >= 2 values the true one lies.

    (n - 1) s^2 / sigma^2 is chi-squared with n - 1 degrees of freedom where values are normal.
    """
    from scipy.special import gammaincinv

    _check(confidence=confidence)
    if num_values < 2:
        raise ValueError("an sd takes two values at least")
    half = (num_values - 1) / 2
    tails = gammaincinv(half, np.array([0.5 + confidence / 2, 0.5 - confidence / 2]))
    low, high = np.sqrt(half / tails)
    return float(low), float(high)


def resampled_ratios(
    nats: Floats, units: Floats, seed: int, draws: int = DRAWS
) -> tuple[Floats, Floats]:
    """Sum of nats / sum of units of each run, over its documents and over documents drawn anew.

    nats: float64 [runs, documents]; units: [documents] -> float64 [runs] and [runs, draws]. A draw
    is the same documents for all runs. Philox, keyed by `seed`: the same arguments give the same
    draws. Documents without units are left out. Costs about 20 ns for each document and draw.
    """
    nats, units = np.asarray(nats, np.float64), np.asarray(units, np.float64)
    if units.ndim != 1 or nats.ndim != 2 or nats.shape[1] != len(units):
        raise ValueError("nats are [runs, documents], units [documents]")
    if not (np.isfinite(nats).all() and np.isfinite(units).all()) or (units < 0).any():
        raise ValueError("nats and units of documents are finite, and units not negative")
    nats, units = nats[:, units > 0], units[units > 0]
    if len(units) < 2:
        raise ValueError("two documents at least are needed to draw them anew")
    columns = np.concatenate([nats, units[None]]).T  # [documents, runs + 1]
    generator = np.random.Generator(np.random.Philox(key=derive_key("documents", seed)))
    num, rows = len(units), max(1, _CHUNK // len(units))
    sums = np.empty((draws, columns.shape[1]))
    for first in range(0, draws, rows):
        count = min(rows, draws - first)
        drawn = generator.integers(num, size=(count, num)) + num * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * num).reshape(count, num)
        sums[first : first + count] = times.astype(np.float64) @ columns
    return nats.sum(1) / units.sum(), (sums[:, :-1] / sums[:, -1:]).T


def document_difference(
    ratios: Floats,
    drawn: Floats,
    first: Sequence[int],
    second: Sequence[int],
    confidence: float = 0.95,
) -> tuple[float, Interval]:
    """How much two arms differ, and a percentile bootstrap over documents.

    ratios, drawn: float64 [runs] and [runs, draws], as `resampled_ratios` gives them. first,
    second: the rows of each arm's runs. The value is the difference of the means over runs, the
    first arm's less the second's. Documents are drawn for both arms and all seeds together; the
    interval lies between the (1 -+ confidence) / 2 quantiles of the difference (Efron 1979). It
    takes the runs as given: it does not say what other seeds would do.
    """
    _check(confidence=confidence)
    a, b = list(first), list(second)
    differences = drawn[a].mean(0) - drawn[b].mean(0)
    low, high = np.quantile(differences, [0.5 - confidence / 2, 0.5 + confidence / 2])
    interval = Interval(float(low), float(high), confidence)
    return float(ratios[a].mean() - ratios[b].mean()), interval


def finite(values: Sequence[float] | Floats) -> list[float]:
    """Values as plain numbers. ValueError where one is not finite."""
    given = [float(x) for x in values]
    if not all(map(math.isfinite, given)):
        raise ValueError(f"not a finite number among {given[:8]}")
    return given


def _check(**shares: float) -> None:
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ValueError(f"{name} lies between 0 and 1, not {share}")


def _sd(values: Sequence[float], mean: float) -> float:
    return math.hypot(*(x - mean for x in values)) / math.sqrt(len(values) - 1)


@lru_cache(maxsize=1024)
def _t(freedom: int, confidence: float) -> float:
    """What Student's t stays below on both sides with that confidence."""
    from scipy.special import stdtrit

    _check(confidence=confidence)
    return float(stdtrit(freedom, 0.5 + confidence / 2))


@cache
def _legendre() -> tuple[Any, Any]:
    return np.polynomial.legendre.leggauss(20)


def _power(size: float, num_pairs: int, confidence: float) -> float:
    """The power for an effect of `size` sds.

    T = (Z + d) / S, with d the noncentrality, Z normal, and f S^2 chi-squared with f degrees of
    freedom. |T| > t where S < |Z + d| / t, so the power is the mean over Z of
    P(f / 2, f (Z + d)^2 / (2 t^2)), P the regularized incomplete gamma function. It is integrated
    piece by piece (Gauss-Legendre), cut where that function bends; scipy's noncentral t is not a
    number in places that are needed here.
    """
    from scipy.special import gammainc

    freedom, bound = num_pairs - 1, _t(num_pairs - 1, confidence)
    centre = min(size * math.sqrt(num_pairs), 50 * bound + _FARTHEST)  # from there on it is 1
    width = 5 / math.sqrt(2 * freedom)  # of the step of P, in units of t
    bends = np.array([-1 - width, -1, -1 + width, 0, 1 - width, 1, 1 + width]) * bound - centre
    cuts = np.concatenate([np.linspace(-_FARTHEST, _FARTHEST, 10), bends])
    cuts = np.unique(np.clip(cuts, -_FARTHEST, _FARTHEST))
    nodes, weights = _legendre()
    half = np.diff(cuts)[:, None] / 2
    z = cuts[:-1, None] + half * (1 + nodes)
    density = half * weights * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    found = gammainc(freedom / 2, freedom / 2 * ((z + centre) / bound) ** 2)
    return min(1.0, float((density * found).sum()))


@lru_cache(maxsize=1024)
def _detectable_size(num_pairs: int, power: float, confidence: float) -> float:
    """The effect in sds that is found with a power: where `_power`, which grows with it, is so."""
    _check(confidence=confidence, power=power)
    if num_pairs < 2:
        return math.inf
    if power <= 1 - confidence:
        return 0.0
    low, high = 0.0, 1.0
    while _power(high, num_pairs, confidence) < power:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (
            (low, middle) if _power(middle, num_pairs, confidence) >= power else (middle, high)
        )
    return high
