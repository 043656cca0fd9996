"""Learning rates of every batch, against closed forms."""

from __future__ import annotations

import json
from fractions import Fraction
from math import cos, pi, sqrt
from typing import Any

import pytest

from ncamix.quantities import parse_quantity
from ncamix.rates import RateCurve, resolve_rate
from ncamix.reading import parse_document
from ncamix.schedule import Clock
from ncamix.trainer import LearningRate, Optimizer

BASE = Fraction(1, 100)
CLOCK = Clock(num_batches=200, tokens_per_batch=256)


def rate(text: str, clock: Clock = CLOCK, **more: Any) -> RateCurve:
    written = parse_document(f"ncamix: 1\na: {text}\n", "x.yaml").tree.plain()["a"]
    return resolve_rate(Optimizer.model_validate({"lr": written, **more}), BASE, clock)


def continued(start: str | None, clock: Clock = CLOCK, **more: Any) -> RateCurve:
    """A rate that continues where the last stage left it."""
    keys = {k: parse_quantity(v) if k in ("peak", "warmup") else v for k, v in more.items()}
    lr = LearningRate(start="continue", **keys)
    optimizer = Optimizer.model_construct(lr=lr)
    return resolve_rate(optimizer, BASE, clock, Fraction(start) if start else None)


def test_a_bare_rate_is_constant() -> None:
    assert {rate("3e-4").at(t) for t in range(200)} == {3e-4}
    assert rate("0.2x").at(0) == 0.002
    assert rate("{}").at(7) == 0.01


def test_warmup_rises_linearly_from_zero_at_batch_midpoints() -> None:
    for warmup in ("10%", "20ba", "5120tok"):
        curve = rate(f"{{peak: 1x, warmup: {warmup}}}")
        assert curve.at(0) == pytest.approx(0.01 * 0.5 / 20, rel=1e-15)
        assert curve.at(19) == pytest.approx(0.01 * 19.5 / 20, rel=1e-15)
        assert [curve.at(t) for t in (20, 199)] == [0.01, 0.01]


def test_cosine_and_linear_decay_end_at_the_floor() -> None:
    for decay in ("cosine", "linear"):
        curve = rate(f"{{peak: 1x, warmup: 20ba, decay: {decay}, floor: 0.1x}}")
        for t in (20, 77, 199):
            u = (t + 0.5 - 20) / 180
            fallen = (1 - cos(pi * u)) / 2 if decay == "cosine" else u
            assert curve.at(t) == pytest.approx(0.01 - 0.009 * fallen, rel=1e-12)


def test_inverse_sqrt_falls_from_the_end_of_the_warmup() -> None:
    curve = rate("{peak: 1x, warmup: 20ba, decay: inverse_sqrt}")
    assert curve.at(10) == pytest.approx(0.01 * 10.5 / 20, rel=1e-15)
    for t in (20, 50, 199):
        assert curve.at(t) == pytest.approx(0.01 * sqrt(20 / (t + 0.5)), rel=1e-14)
    assert rate("{decay: inverse_sqrt}").at(0) == 0.01


def test_keyframes_and_cycles() -> None:
    curve = rate("{0%: 1x, 100%: 0}", cycle="10ba")
    assert [curve.at(t) for t in range(10)] == [curve.at(t) for t in range(190, 200)]
    assert curve.at(0) == pytest.approx(0.0095, rel=1e-15)


def test_a_warmup_of_the_whole_stage_has_no_decay() -> None:
    curve = rate("{peak: 1x, warmup: 100%, decay: cosine}")
    assert curve.at(199) == pytest.approx(0.01 * 199.5 / 200, rel=1e-15)


def test_a_warmup_beyond_the_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="the warm-up of 201ba is longer than the stage"):
        rate("{peak: 1x, warmup: 201ba}")


@pytest.mark.parametrize("text", ["{peak: 1x, warmup: 50%, decay: cosine}", "{0%: 0, 100%: 1x}"])
def test_a_stage_of_one_batch_has_a_rate(text: str) -> None:
    assert 0 < rate(text, Clock(1, 256)).at(0) <= 0.01


def test_the_rate_that_a_stage_leaves() -> None:
    assert rate("{peak: 1x, decay: linear, floor: 0.3x}").after(200) == Fraction(3, 1000)
    assert rate("{peak: 1x, decay: linear}").after(50) == Fraction(3, 400)
    assert rate("{peak: 1x, warmup: 10%}").after(200) == BASE
    assert rate("3e-4").after(1) == Fraction(3, 10_000)
    left = rate("{peak: 1x, warmup: 50ba, decay: inverse_sqrt}").after(200)
    assert left == Fraction(1, 200)  # the root of a quarter is exact


def test_a_cycle_leaves_the_rate_that_it_ends_with() -> None:
    curve = rate("{0%: 1x, 100%: 0.2x}", cycle="10ba")
    assert curve.after(200) == curve.after(10) == Fraction(2, 1000)
    assert curve.after(5) == Fraction(6, 1000)


def test_a_rate_continues_where_the_last_stage_left_it() -> None:
    warm = continued("1/500", peak="1x", warmup="20ba")
    assert warm.at(0) == pytest.approx(0.002 + 0.008 * 0.5 / 20, rel=1e-15)
    assert warm.at(20) == warm.at(199) == 0.01
    same = continued("1/500", peak=None)
    assert {same.at(t) for t in range(200)} == {0.002}
    fading = continued("1/500", peak=None, decay="linear")
    assert fading.at(0) == pytest.approx(0.002 * 199.5 / 200, rel=1e-15)
    assert fading.after(200) == 0
    with pytest.raises(ValueError, match="no stage before this one"):
        continued(None)


def test_meanings_tell_curves_apart() -> None:
    texts = [
        "3e-4",
        "4e-4",
        "{peak: 1x, warmup: 10%}",
        "{peak: 1x, warmup: 11%}",
        "{peak: 1x, decay: cosine}",
        "{peak: 1x, decay: linear}",
        "{peak: 1x, decay: inverse_sqrt}",
        "{peak: 1x, warmup: 1ba, decay: inverse_sqrt}",
    ]
    meanings = [json.dumps(rate(text).meaning()) for text in texts]
    assert len(set(meanings)) == len(texts)
    assert rate("{0%: 1x, 100%: 0}").meaning() != rate("{0%: 1x, 100%: 0}", cycle="10ba").meaning()
    assert rate("{peak: 1x, decay: linear}").meaning() == rate("{0%: 1x, 200ba: 0}").meaning()
    assert rate("{0%: 1x, 50%: 0.1x}").meaning() == {
        "positions": ["0", "100"],
        "values": ["1/100", "1/1000"],
        "eases": ["linear"],
        "cycle": "0",
        "tail": [],
    }
