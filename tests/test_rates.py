"""Learning rates of every batch, against closed forms."""

from __future__ import annotations

from fractions import Fraction
from math import cos, pi, sqrt
from typing import Any

import pytest

from ncamix.rates import RateCurve, resolve_rate
from ncamix.reading import parse_document
from ncamix.schedule import Clock
from ncamix.trainer import Optimizer

BASE = Fraction(1, 100)
CLOCK = Clock(num_batches=200, tokens_per_batch=256)


def rate(text: str, clock: Clock = CLOCK, **more: Any) -> RateCurve:
    written = parse_document(f"ncamix: 1\na: {text}\n", "x.yaml").tree.plain()["a"]
    return resolve_rate(Optimizer.model_validate({"lr": written, **more}), BASE, clock)


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
