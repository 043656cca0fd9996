"""Apportionment against exact fractions and a maximum flow: sums, zeros, quotas, deviations."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mixture import Definition, random_run
from test_rerouting import has_flow

from ncamix import apportionment as module
from ncamix import mixture as mixtures_module
from ncamix.apportionment import Apportionment, apportion
from ncamix.mixture import STAGE, ClockedCurve, Mixture, StageShape, resolve_mixtures
from ncamix.quantities import Quantity
from ncamix.schedule import SCALE, Curve, normalised, parse_mixture

Rows = Sequence[Sequence[Fraction]]


def mixture_of(rows: Rows, batch_size: int) -> Mixture:
    """A mixture whose batches have given weights: a step at every batch."""
    leaves = tuple("abcdefghij"[: len(rows[0])])
    values = tuple(normalised([int(w * SCALE) for w in row]) for row in rows)
    positions = tuple(range(0, 2 * len(rows), 2))
    curve = ClockedCurve(leaves, Curve(positions, values, ("step",) * len(rows), 2), 1, 2)
    return Mixture({STAGE: curve}, leaves, len(rows), batch_size)


def mixture(written: object, num_batches: int, batch_size: int) -> Mixture:
    shape = StageShape(parse_mixture(written), None, num_batches, num_batches, batch_size, 16, 0)
    return resolve_mixtures([shape], {})[0]


def deviation(result: Apportionment, rows: Rows, batch_size: int) -> Fraction:
    """Largest distance of a cumulative count from the integral of exact weights."""
    quota, given_ = [Fraction(0)] * len(rows[0]), [0] * len(rows[0])
    worst = Fraction(0)
    for row, shares in zip(result.counts.tolist(), rows, strict=True):
        quota = [q + w * batch_size for q, w in zip(quota, shares, strict=True)]
        given_ = [g + n for g, n in zip(given_, row, strict=True)]
        worst = max([worst, *(abs(g - q) for g, q in zip(given_, quota, strict=True))])
    return worst


def check(result: Apportionment, rows: Rows, batch_size: int) -> None:
    """Sums, zeros, and the bound of one sample."""
    for row, shares in zip(result.counts.tolist(), rows, strict=True):
        assert sum(row) == batch_size
        assert min(row) >= 0
        assert all(count == 0 for count, w in zip(row, shares, strict=True) if w == 0)
    worst = deviation(result, rows, batch_size)
    assert worst < 1
    assert result.largest_deviation == pytest.approx(float(worst), abs=1e-9)
    assert result.largest_deviation < 1


def random_rows(rng: random.Random) -> list[list[Fraction]]:
    """Weights of unrelated batches, mostly zeros, with many ties and some tiny weights."""
    num_sources, units = rng.randint(3, 6), rng.choice([2, 3, 4, 6])
    tiny = rng.choice([0, 0, Fraction(1, 10**7)])
    rows = []
    for _ in range(rng.randint(1, 60)):
        weights = [rng.choice([Fraction(0), Fraction(tiny)]) for _ in range(num_sources)]
        for _ in range(units):
            weights[rng.randrange(num_sources)] += 1
        rows.append([w / sum(weights) for w in weights])
    return rows * rng.randint(1, 3)


# -- the bound -----------------------------------------------------------------------------------


@settings(max_examples=150)
@given(st.randoms(use_true_random=False))
def test_any_weights_stay_within_one_sample(rng: random.Random) -> None:
    rows, size = random_rows(rng), rng.choice([1, 1, 2, 3, 8, 64])
    _, result = apportion(mixture_of(rows, size))
    check(result, rows, size)


@settings(max_examples=100)
@given(st.randoms(use_true_random=False))
def test_schedules_stay_within_one_sample_of_their_integral(rng: random.Random) -> None:
    """Keyframes, steps, cycles and blends, integrated in exact fractions at batch midpoints."""
    stages, blends = random_run(rng)
    exact = Definition(stages, blends)
    for mixed, stage, weights in zip(
        resolve_mixtures(stages, blends), stages, exact.weights, strict=True
    ):
        rows = [[w.get(name, Fraction(0)) for name in mixed.leaves] for w in weights]
        _, result = apportion(mixed)
        check(result, rows, stage.batch_size)


@settings(max_examples=50)
@given(st.randoms(use_true_random=False))
def test_the_counts_are_a_maximum_flow(rng: random.Random) -> None:
    """The oracle finds that counts exist; these are such counts."""
    rows, size = random_rows(rng)[:25], rng.choice([1, 2, 3])
    quotas = [[w * size for w in row] for row in rows]
    assert has_flow(quotas, [size] * len(rows))
    _, result = apportion(mixture_of(rows, size))
    check(result, rows, size)


def test_the_largest_remainder_alone_gets_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rerouting there would be batches of the wrong size."""
    rerouted = []

    def spy(self: module.PlainCounter, batch: int, change: int) -> int:
        rerouted.append(batch)
        return reroute(self, batch, change)

    reroute = module.PlainCounter.reroute
    monkeypatch.setattr(module.PlainCounter, "reroute", spy)
    for seed in range(60):
        rng = random.Random(seed)
        rows = random_rows(rng)
        check(apportion(mixture_of(rows, 1))[1], rows, 1)
    assert len(rerouted) > 5


def test_two_fractions_owed_at_once_are_not_both_put_off() -> None:
    """a is frozen at 0.6 while b rises to 0.6 and freezes later: c cannot stand in for both."""
    parts = [
        (10, Fraction(6, 100), Fraction(5, 100)),
        (10, Fraction(0), Fraction(1, 100)),
        (2, Fraction(3, 10), Fraction(1, 1000)),
        (8, Fraction(3, 10), Fraction(0)),
        (10, Fraction(3, 10), Fraction(5, 100)),
    ]
    rows = [[a, b, 1 - a - b] for n, a, b in parts for _ in range(n)]
    _, result = apportion(mixture_of(rows, 1))
    check(result, rows, 1)


# -- tiny weights, zeros, ties -------------------------------------------------------------------


def test_tiny_weights_get_their_quota_in_the_end() -> None:
    mixed = mixture({"a": 10**6 - 3, "b": 2, "c": 1}, 10_000, 1000)
    _, result = apportion(mixed)
    assert result.totals == [9_999_970, 20, 10]
    assert result.largest_deviation < 1


@pytest.mark.parametrize("weight", ["1e-6", "1e-9"])
def test_weights_of_a_millionth_and_less_over_a_long_run(weight: str) -> None:
    """1.024 thousand million samples."""
    _, result = apportion(mixture({"a": 1, "b": Decimal(weight)}, 250_000, 4096))
    quota = Fraction(weight) / (1 + Fraction(weight)) * 250_000 * 4096
    assert abs(result.totals[1] - quota) < 1
    assert result.totals[1] >= 1
    assert result.counts.dtype == np.int16


def test_a_weight_of_zero_gets_nothing() -> None:
    _, result = apportion(mixture({"0%": {"a": 1, "b": 1}, "50%": {"a": 1}}, 100, 3))
    assert not result.counts[50:, 1].any()
    assert result.counts[:50, 1].any()


def test_ties_are_exact() -> None:
    """A third of three samples is one sample, although thirds have no fixed point."""
    _, result = apportion(mixture({"a": 1, "b": 1, "c": 1}, 5000, 3))
    assert result.counts.tolist() == [[1, 1, 1]] * 5000
    assert result.largest_deviation == pytest.approx(0, abs=1e-9)


def test_a_single_source_takes_everything() -> None:
    _, result = apportion(mixture({"a": 0, "b": 1}, 5, 3))
    assert result.counts.tolist() == [[0, 3]] * 5
    assert result.totals == [0, 15]
    assert result.largest_deviation == 0


def test_large_batches_have_wider_counts() -> None:
    _, result = apportion(mixture({"a": 1, "b": 1}, 4, 100_001))
    assert result.counts.dtype == np.int32
    assert result.counts.sum(axis=1).tolist() == [100_001] * 4


# -- stages that end early, are reversed or flattened --------------------------------------------


@settings(max_examples=40)
@given(st.randoms(use_true_random=False))
def test_transforms_keep_totals_to_the_sample(rng: random.Random) -> None:
    for mixed in resolve_mixtures(*random_run(rng)):
        _, plain = apportion(mixed)
        back, backwards = apportion(mixed, transform="reverse")
        assert (backwards.counts == plain.counts[::-1]).all()
        assert back.at(0) == mixed.at(mixed.num_batches - 1)
        flat, even = apportion(mixed, transform="flatten")
        assert even.totals == plain.totals
        share = [Fraction(n, mixed.num_batches * mixed.batch_size) for n in plain.totals]
        check(even, [share] * mixed.num_batches, mixed.batch_size)
        for name, weight, exact in zip(flat.leaves, flat.at(0), share, strict=True):
            assert name in mixed.leaves
            assert weight / SCALE == pytest.approx(float(exact), abs=1e-15)


@pytest.mark.parametrize("transform", [None, "reverse", "flatten"])
def test_ending_early_changes_no_batch_before_the_end(transform: str | None) -> None:
    mixed = mixture({"0%": {"a": 1, "b": 1}, "40%": {"b": 2, "c": 1}, "100%": {"a": 1}}, 90, 7)
    shown, whole = apportion(mixed, transform=transform)
    cut_shown, cut = apportion(mixed, 31, transform)
    assert (cut.counts == whole.counts[:31]).all()
    assert cut_shown.at(30) == shown.at(30)
    assert cut.totals == whole.counts[:31].sum(axis=0).tolist()


# -- long stages ---------------------------------------------------------------------------------


def test_a_long_stage_by_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """30,000 batches of a schedule with zeros, eases and a cycle, by both forms."""
    written = [
        {"at": "0%", "mix": {"a": 1, "b": Decimal("0.01")}, "ease": "cosine"},
        {"at": "30%", "mix": {"b": 2, "c": 1}, "ease": "step"},
        {"at": "60%", "mix": {"a": 1, "d": Decimal("1e-5")}},
        {"at": "100%", "mix": {"c": 1, "e": 3}},
    ]
    mixed = mixture(written, 30_000, 5)
    _, fast = apportion(mixed)
    monkeypatch.setattr(module, "LONG", 1 << 40)
    monkeypatch.setattr(mixtures_module, "LONG", 1 << 40)
    _, plain = apportion(mixed)
    assert (fast.counts == plain.counts).all()
    assert fast.largest_deviation == plain.largest_deviation < 1


def test_the_oracle_knows_what_cannot_be() -> None:
    """Two samples due in one batch of one sample."""
    half = Fraction(1, 2)
    assert has_flow([[half, half], [half, half]], [1, 1])
    assert not has_flow([[Fraction(1), Fraction(1)]], [1])


@pytest.mark.parametrize(
    ("cycle", "weights", "digest"),
    [
        (
            None,
            (835938157126365329, 304204063348104551, 278646052375, 12779005486324721),
            "f391655c77740fe0",
        ),
        (
            Quantity(Fraction(37, 3), "ba"),
            (833452376631928480, 305585053064076244, 277817458877, 13883797093383375),
            "f9cde82df326fad2",
        ),
    ],
)
def test_the_bits_are_those_of_every_platform(
    cycle: Quantity | None, weights: tuple[int, ...], digest: str
) -> None:
    """Known answers, of compiled code: a platform that counts otherwise is found out."""
    schedule = parse_mixture(
        [
            {"at": "0%", "mix": {"a": 3, "b": 1, "c": "1e-6"}, "ease": "cosine"},
            {"at": "33.3%", "mix": {"b": 2, "d": 1}, "ease": "step"},
            {"at": "60%", "mix": {"a": 1, "b": 1, "c": 1, "d": 1}},
            {"at": "-1%", "mix": {"d": 1}},
        ]
    )
    (mixed,) = resolve_mixtures([StageShape(schedule, cycle, 20000, 20000, 24, 16, 0)], {})
    assert mixed.at(777) == weights
    counts = apportion(mixed)[1].counts.astype("<i4")
    assert hashlib.blake2b(counts.tobytes(), digest_size=8).hexdigest() == digest
