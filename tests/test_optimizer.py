"""Optimizers and learning rates, as written."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from plan_files import refusals_of

from ncamix.optimizer import Averaging, LearningRate, Optimizer, parse_learning_rate, peaks
from ncamix.quantities import Quantity

optimizer = Optimizer.model_validate
FULL = Quantity(Fraction(1), "x")


def test_the_short_form() -> None:
    assert parse_learning_rate({}) == LearningRate(None, FULL)
    written = {"peak": "0.2x", "warmup": "10%", "decay": "cosine", "floor": Fraction(1, 10)}
    rate = parse_learning_rate(written)
    assert isinstance(rate, LearningRate)
    assert (rate.peak, rate.decay) == (Quantity(Fraction(1, 5), "x"), "cosine")
    assert (str(rate.warmup), str(rate.floor)) == ("10%", "0.1")
    assert peaks(rate) == [rate.peak]
    assert peaks(parse_learning_rate({"0%": 1, "100%": "2x"})) == [
        Quantity(Fraction(1), ""),
        Quantity(Fraction(2), "x"),
    ]


def test_a_rate_that_continues() -> None:
    going_on = parse_learning_rate({"start": "continue", "decay": "linear"})
    assert going_on == LearningRate("continue", None, decay="linear")
    assert isinstance(going_on, LearningRate) and peaks(going_on) == []
    rising = parse_learning_rate({"start": "continue", "peak": "1x", "warmup": "5ba"})
    assert rising == LearningRate("continue", FULL, Quantity(Fraction(5), "ba"))


@pytest.mark.parametrize(
    ("written", "place", "what", "remedy"),
    [
        ({"start": "0%"}, "start", "not a start", "start: continue"),
        ({"start": None}, "start", "not a start", "start: continue"),
        ({"start": "continue", "0%": 1}, "start", "not go together with keyframes", "first keyf"),
        ({"peek": 1}, "peek", "unknown key 'peek'", "did you mean 'peak'?"),
        ({"peak": -1}, "peak", "a rate is negative", "0 or more"),
        ({"peak": None}, "peak", "not understood", "3e-4 or 0.2x"),
        ({"warmup": "-1ba"}, "warmup", "within its stage", "10%"),
        ({"decay": "cos"}, "decay", "unknown decay 'cos'", "cosine"),
        ({"floor": 0}, "floor", "constant does not end anywhere", "decay: cosine"),
        ({"floor": 0, "decay": "inverse_sqrt"}, "floor", "inverse_sqrt does not end", "cosine"),
        ("fast", "", "not understood", "3e-4 or 0.2x"),
    ],
)
def test_what_is_no_rate(written: object, place: str, what: str, remedy: str) -> None:
    ((found, said, way_out),) = refusals_of(parse_learning_rate, written)
    assert found == place
    assert what in said
    assert remedy in way_out


def test_every_mistake_is_found() -> None:
    written = {"start": 1, "peak": "x", "warmup": "101%", "decay": "steep", "florr": 0}
    found = [place for place, _, _ in refusals_of(parse_learning_rate, written)]
    assert sorted(found) == ["decay", "florr", "peak", "start", "warmup"]


def test_a_stage_overrides_parts_of_the_optimizer() -> None:
    trainer = Optimizer.model_validate({"lr": {"0%": 1, "100%": 0}, "cycle": "5ba", "clip": 1})
    kept = trainer.under(Optimizer.model_validate({"weight_decay": 0}))
    assert (kept.lr, kept.cycle, kept.clip, kept.weight_decay) == (trainer.lr, trainer.cycle, 1, 0)
    replaced = trainer.under(Optimizer.model_validate({"lr": {"peak": "0.5x", "warmup": "0%"}}))
    assert isinstance(replaced.lr, LearningRate)
    assert replaced.cycle is None


@pytest.mark.parametrize(
    ("trainer", "peak", "expected"),
    [
        (
            {"peak": "3e-3", "warmup": "5%", "decay": "cosine", "floor": "3e-4"},
            "0.5x",
            {"peak": "1.5e-3", "warmup": "5%", "decay": "cosine", "floor": "1.5e-4"},
        ),
        ({"peak": "2e-3", "decay": "linear", "floor": "1e-3"}, "1e-3", None),
        ({"0%": "1e-3", "50%": "4e-3", "100%": "2e-3"}, "2e-3", {"0%": "5e-4", "50%": "2e-3"}),
        ("3e-3", "1e-3", "1e-3"),
    ],
)
def test_a_peak_alone_scales_the_trainers_rate(trainer: Any, peak: str, expected: Any) -> None:
    """What `--set stages.code.optimizer.lr.peak=...` changes, and nothing else."""
    merged = optimizer({"lr": trainer, "cycle": "5ba"} if "0%" in trainer else {"lr": trainer})
    scaled = merged.under(optimizer({"lr": {"peak": peak}}))
    assert scaled.cycle == merged.cycle
    if expected is None:
        expected = {"peak": "1e-3", "decay": "linear", "floor": "5e-4"}
    wanted = optimizer({"lr": expected}).lr
    assert scaled.lr[: len(wanted)] == wanted if isinstance(wanted, tuple) else scaled.lr == wanted
    longer = merged.under(optimizer({"lr": {"peak": peak, "warmup": "0%"}})).lr
    assert longer.decay == "constant"  # a schedule of its own


def test_muons_keys() -> None:
    muon = optimizer({"kind": "muon", "momentum": Decimal("0.9"), "adam_ratio": Decimal("0.015")})
    assert (muon.momentum, muon.adam_ratio) == (Fraction(9, 10), Fraction(15, 1000))
    assert optimizer({"momentum": 0}).momentum == 0, "the kind may be the trainer's"
    for kind in ("adam", "adamw"):
        ((place, what, remedy),) = refusals_of(optimizer, {"kind": kind, "momentum": 0})
        assert (place, what) == ("momentum", f"{kind} has no `momentum`") and "muon" in remedy
    for wrong in (1, -1, True, "0.9"):
        ((_, what, _),) = refusals_of(optimizer, {"kind": "muon", "momentum": wrong})
        assert "a momentum lies between 0 and 1" in what


def test_averages() -> None:
    assert Averaging.model_validate({"ema": Decimal("0.999")}).ema == Fraction(999, 1000)
    assert str(Averaging.model_validate({"last": "10%"}).last) == "10%"
    for written, said in (
        ({"ema": 1}, "decay of an average"),
        ({"ema": True}, "decay of an average"),
        ({"last": "0%"}, "a part of its stage"),
        ({"last": "101%"}, "a part of its stage"),
        ({"last": "1Mtok"}, "not understood"),
        ({}, "over all of a stage, or over its end"),
        ({"ema": Decimal("0.9"), "last": "10%"}, "over all of a stage, or over its end"),
    ):
        ((_, what, remedy),) = refusals_of(Averaging.model_validate, written)
        assert said in what and ("{ema: 0.999}" in remedy or "{last: 10%}" in remedy), what
