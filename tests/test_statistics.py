"""Statistics: against scipy, against definitions, and in simulated studies."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Iterator
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ncamix.statistics import (
    Interval,
    detectable_effect,
    document_difference,
    holm,
    largest_sd,
    mean_interval,
    paired_test,
    power,
    resampled_ratios,
    sd_range,
    seeds_needed,
)

VALUES = st.floats(-1e6, 1e6).map(lambda x: round(x, 6))
SAMPLES = st.lists(VALUES, min_size=2, max_size=30)
ANY = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=8)
CONFIDENCES = st.sampled_from([0.5, 0.9, 0.95, 0.99])
P_VALUES = st.lists(st.floats(0, 1), max_size=6)


@pytest.fixture(autouse=True)
def loud() -> Iterator[None]:
    """What numpy would merely warn of fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


# ---- between seeds


@given(SAMPLES, SAMPLES, CONFIDENCES)
def test_the_paired_test_is_scipys(a: list[float], b: list[float], confidence: float) -> None:
    n = min(len(a), len(b))
    first, second = np.array(a[:n]), np.array(b[:n])
    found = paired_test(first - second, confidence)
    assert found.num_pairs == n
    sd = np.std(first - second, ddof=1)
    if sd < 1e-9 * np.abs(first - second).max() or sd == 0:
        return  # scipy's own rounding; equal values have a test of their own
    expected = stats.ttest_rel(first, second)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert found.sd == pytest.approx(sd)
    low, high = expected.confidence_interval(confidence)
    scale = abs(low) + abs(high)
    assert found.interval.low == pytest.approx(low, rel=1e-9, abs=1e-9 * scale)
    assert found.interval.high == pytest.approx(high, rel=1e-9, abs=1e-9 * scale)
    assert found.mean == pytest.approx(expected._estimate, rel=1e-9, abs=1e-9 * scale)


@given(ANY, CONFIDENCES)
def test_any_finite_differences_have_a_test(values: list[float], confidence: float) -> None:
    found = paired_test(values, confidence)
    assert 0 <= found.p <= 1
    assert found.interval.low <= found.mean <= found.interval.high
    assert found.sd >= 0


@given(st.floats(-1e300, 1e300), st.integers(2, 20))
def test_equal_differences_have_no_width(value: float, n: int) -> None:
    found = paired_test([value] * n)
    assert (found.mean, found.sd) == (value, 0)
    assert found.interval == Interval(value, value, 0.95)
    assert found.p == (1 if value == 0 else 0)


@given(SAMPLES, CONFIDENCES)
def test_p_is_below_the_level_where_the_interval_leaves_out_0(
    values: list[float], confidence: float
) -> None:
    found = paired_test(values, confidence)
    if abs(found.p - (1 - confidence)) > 1e-9:
        assert (found.p < 1 - confidence) != found.interval.holds(0)


@given(SAMPLES)
def test_the_mean_of_values_has_students_interval(values: list[float]) -> None:
    mean, interval = mean_interval(values, 0.9)
    error = stats.sem(values)
    scale = max(map(abs, values)) + 1e-12
    if error < 1e-9 * scale:
        assert interval.high - interval.low < 1e-6 * scale
        return
    low, high = stats.t.interval(0.9, len(values) - 1, np.mean(values), error)
    assert mean == pytest.approx(np.mean(values), rel=1e-9, abs=1e-9 * scale)
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-9, abs=1e-9 * scale)


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_too_few_values_and_none_at_all_are_refused(values: list[float]) -> None:
    for function in (paired_test, mean_interval):
        with pytest.raises(ValueError):
            function(values)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_a_confidence_lies_between_0_and_1(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        paired_test([1.0, 2.0], confidence)
    with pytest.raises(ValueError, match="confidence"):
        power(1, 1, 5, confidence)


@given(st.integers(2, 200), CONFIDENCES)
def test_the_true_sd_lies_within_chi_squared(n: int, confidence: float) -> None:
    low, high = sd_range(n, confidence)
    tails = stats.chi2.ppf([0.5 + confidence / 2, 0.5 - confidence / 2], n - 1)
    assert (low, high) == pytest.approx(np.sqrt((n - 1) / tails))


# ---- adjusted p-values


@given(P_VALUES)
def test_holm_is_bonferroni_over_every_family_that_a_comparison_is_in(p: list[float]) -> None:
    """The closed test: true of Holm's by proof, and nothing of how it is computed."""
    families = [
        family for size in range(1, len(p) + 1) for family in combinations(range(len(p)), size)
    ]
    expected = [
        max(min(1.0, len(f) * min(p[j] for j in f)) for f in families if i in f)
        for i in range(len(p))
    ]
    assert holm(p) == pytest.approx(expected, abs=1e-15)


@given(P_VALUES, st.randoms(use_true_random=False))
def test_holm_keeps_order_and_lowers_nothing(p: list[float], random: object) -> None:
    adjusted = holm(p)
    assert all(a >= x for a, x in zip(adjusted, p, strict=True))
    assert all(0 <= a <= 1 for a in adjusted)
    for (x, a), (y, b) in combinations(zip(p, adjusted, strict=True), 2):
        assert (a - b) * (x - y) >= 0
    order = list(range(len(p)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert holm([p[i] for i in order]) == [adjusted[i] for i in order]


@pytest.mark.parametrize("p", [[0.5, -0.1], [1.1], [math.nan]])
def test_what_is_no_p_value_is_refused(p: list[float]) -> None:
    with pytest.raises(ValueError):
        holm(p)


# ---- power


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 8, 12, 30, 200])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_power_is_that_of_the_noncentral_t(n: int, confidence: float) -> None:
    bound = stats.t.ppf(0.5 + confidence / 2, n - 1)
    checked = 0
    for size in (0.01, 0.1, 0.3, 0.6, 1, 1.5, 2, 3):
        centre = size * math.sqrt(n)
        if centre > 6:  # beyond, scipy's has places that are no numbers
            continue
        expected = stats.nct.sf(bound, n - 1, centre) + stats.nct.cdf(-bound, n - 1, centre)
        assert power(size * 0.01, 0.01, n, confidence) == pytest.approx(expected, abs=1e-9)
        assert power(-size, 1, n, confidence) == pytest.approx(expected, abs=1e-9)
        checked += 1
    assert checked > 2


@pytest.mark.parametrize(("n", "size"), [(2, 5.0), (3, 1.0), (5, 0.5), (5, 1.682), (10, 1.0)])
def test_power_is_how_often_an_effect_is_found(n: int, size: float) -> None:
    drawn = np.random.default_rng(n).normal(size, 1, (40_000, n))
    share = (stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean()
    expected = power(size, 1, n)
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / len(drawn))


@given(
    st.floats(1e-12, 1e12),
    st.floats(1e-12, 1e12),
    st.integers(2, 5000),
    st.floats(0.01, 0.9999),
)
def test_power_grows_with_effect_and_seeds(
    effect: float, sd: float, n: int, confidence: float
) -> None:
    found = power(effect, sd, n, confidence)
    assert 1 - confidence - 1e-9 <= found <= 1
    assert power(effect * 1.1, sd, n, confidence) >= found - 1e-9
    assert power(effect, sd, n + 1, confidence) >= found - 1e-9


@given(
    st.floats(1e-6, 1e3), st.integers(2, 300), st.sampled_from([0.5, 0.8, 0.9, 0.99]), CONFIDENCES
)
def test_effect_sd_and_power_are_each_others_inverse(
    sd: float, n: int, wanted: float, confidence: float
) -> None:
    effect = detectable_effect(sd, n, wanted, confidence)
    if wanted <= 1 - confidence:  # even nothing is found so often
        assert effect == 0
        assert largest_sd(1.0, n, wanted, confidence) == math.inf
        return
    assert power(effect, sd, n, confidence) == pytest.approx(wanted, abs=1e-9)
    assert largest_sd(effect, n, wanted, confidence) == pytest.approx(sd)


@given(st.floats(0.05, 20), st.sampled_from([0.5, 0.8, 0.95]), CONFIDENCES)
def test_the_seeds_needed_are_the_fewest(size: float, wanted: float, confidence: float) -> None:
    n = seeds_needed(size, 1, wanted, confidence)
    if wanted <= 1 - confidence:
        assert n == 2
        return
    assert n is not None
    assert power(size, 1, n, confidence) >= wanted
    assert n == 2 or power(size, 1, n - 1, confidence) < wanted


def test_power_at_its_limits() -> None:
    assert power(0, 1, 5) == pytest.approx(0.05)
    assert power(1e-9, 0, 5) == 1
    assert power(1e300, 1e-300, 2) == 1
    assert power(1e-300, 1e300, 2) == pytest.approx(0.05)
    assert power(1, 0.1, 1) == 0
    assert detectable_effect(0, 5) == 0
    assert detectable_effect(0, 1) == detectable_effect(1, 1) == math.inf
    assert largest_sd(0.01, 1) == 0
    assert seeds_needed(1, 0) == 2
    assert seeds_needed(1e-9, 1) is None
    for effect, sd in ((math.nan, 1), (1, math.inf), (1, -1)):
        with pytest.raises(ValueError):
            power(effect, sd, 5)


# ---- why Student's t


def test_a_percentile_bootstrap_over_five_seeds_finds_what_is_not_there() -> None:
    """All 5^5 resamples of each of 2,000 studies whose arms do not differ."""
    studies = np.random.default_rng(11).normal(0, 1, (2000, 5))
    resamples = np.array(list(product(range(5), repeat=5)))
    times = np.stack([(resamples == i).sum(1) for i in range(5)]) / 5  # [seeds, resamples]
    low, high = np.quantile(studies @ times, [0.025, 0.975], axis=1)
    by_bootstrap = ((low > 0) | (high < 0)).mean()
    by_t = np.mean([not paired_test(study).interval.holds(0) for study in studies])
    assert 0.10 < by_bootstrap < 0.25
    assert abs(by_t - 0.05) < 4 * math.sqrt(0.05 * 0.95 / len(studies))


# ---- over documents


def documents(num: int = 200, seeds: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nats of two arms, [seeds, documents], and bytes of the documents."""
    rng = np.random.default_rng(5)
    sizes = rng.integers(50, 5000, num).astype(float)
    hard = rng.gamma(20, 0.05, num)  # what a document costs a byte, in every run
    a, b = (sizes * hard * rng.normal(mean, 0.05, (seeds, num)) for mean in (1.0, 0.99))
    return a, b, sizes


def document_interval(
    a: np.ndarray, b: np.ndarray, units: np.ndarray, seed: int, confidence: float = 0.95,
    draws: int = 10_000,
) -> tuple[float, Interval]:  # fmt: skip
    """Of two arms, [seeds, documents] or [documents] each."""
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    ratios = resampled_ratios(np.concatenate([a, b]), units, seed, draws)
    return document_difference(*ratios, range(len(a)), range(len(a), len(a) + len(b)), confidence)


def test_the_interval_over_documents_is_scipys_bootstrap() -> None:
    a, b, sizes = documents()

    def difference(x: np.ndarray, y: np.ndarray, n: np.ndarray, axis: int) -> np.ndarray:
        return x.sum(axis) / n.sum(axis) - y.sum(axis) / n.sum(axis)

    expected = stats.bootstrap(
        (a.mean(0), b.mean(0), sizes), difference, paired=True, vectorized=True,
        n_resamples=20_000, method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    value, interval = document_interval(a, b, sizes, seed=7)
    ratios = [x.sum() / sizes.sum() for x in (a.mean(0), b.mean(0))]
    assert value == pytest.approx(ratios[0] - ratios[1])
    width = expected.high - expected.low
    assert abs(interval.low - expected.low) < 0.04 * width
    assert abs(interval.high - expected.high) < 0.04 * width
    assert interval.low < value < interval.high


def test_the_interval_over_documents_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    held = 0
    for seed in range(400):
        sizes = rng.integers(50, 500, 100).astype(float)
        a, b = (sizes * rng.normal(mean, 0.1, 100) for mean in (1.02, 1.0))
        held += document_interval(a, b, sizes, seed, draws=500)[1].holds(0.02)
    assert abs(held / 400 - 0.95) < 0.045  # four standard errors, and 500 draws


def test_documents_are_drawn_for_both_arms_together() -> None:
    a, _, sizes = documents()
    assert document_interval(a, a, sizes, 1) == (0, Interval(0, 0, 0.95))
    value, interval = document_interval(a + 0.1 * sizes, a, sizes, 1)
    assert (value, interval.low, interval.high) == pytest.approx((0.1, 0.1, 0.1))


def test_draws_follow_from_their_seed() -> None:
    a, b, sizes = documents()
    again = document_interval(a, b, sizes, 1)
    assert document_interval(a, b, sizes, 1) == again
    assert document_interval(a, b, sizes, 2) != again
    assert document_interval(a, b, sizes, 1, confidence=0.5)[1].high < again[1].high
    one_seed = document_interval(a[0], b[0], sizes, 1)
    assert one_seed == document_interval(a[:1], b[:1], sizes, 1)


def test_the_first_draws_do_not_depend_on_how_many_there_are() -> None:
    a, _, sizes = documents(3000)
    value, many = resampled_ratios(a, sizes, 3, draws=2000)  # in several chunks
    _, few = resampled_ratios(a, sizes, 3, draws=10)
    np.testing.assert_allclose(many[:, :10], few, rtol=1e-12)
    np.testing.assert_allclose(value, a.sum(1) / sizes.sum())
    assert many.shape == (3, 2000)


def test_documents_without_a_byte_say_nothing() -> None:
    a, b, sizes = documents(20)
    padded = [np.concatenate([x, np.zeros((3, 5))], 1) for x in (a, b)]
    bytes_too = np.concatenate([sizes, np.zeros(5)])
    assert document_interval(*padded, bytes_too, 1) == document_interval(a, b, sizes, 1)


def test_what_cannot_be_drawn_is_refused() -> None:
    a, b, sizes = documents(20)
    bad = [
        (a, b[:, :-1], sizes),
        (a, b, sizes[:-1]),
        (a, b, -sizes),
        (a * math.nan, b, sizes),
        (a[:, :1], b[:, :1], sizes[:1]),
        (a, b, sizes * 0),
    ]
    for first, second, units in bad:
        with pytest.raises(ValueError), np.errstate(all="ignore"):
            document_interval(first, second, units, 1)


def test_scipy_is_imported_when_it_is_needed() -> None:
    code = "import sys, ncamix.findings; print('scipy' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("False\n", "")
