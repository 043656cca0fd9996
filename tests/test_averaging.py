"""Averages of weights: what they come to, in place and out of it, saved and loaded."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_transitions import small, values

from ncamix.optimizer import Averaging
from ncamix.training.averaging import Averages

HOWS = [{"ema": Decimal("0.75")}, {"last": "3ba"}]


def move(model: torch.nn.Module, t: int) -> None:
    stream = torch.Generator().manual_seed(t)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=stream))


def after(batches: int) -> Any:
    """The part of Composer's state that says how far a stage is."""
    return SimpleNamespace(timestamp=SimpleNamespace(batch=SimpleNamespace(value=batches)))


@pytest.mark.parametrize("how", HOWS, ids=["ema", "last"])
def test_what_they_come_to(how: dict[str, object]) -> None:
    model = small()
    averages, seen = Averages(model, Averaging.model_validate(how), 0), []
    for t in range(4):
        move(model, t)
        averages.add()
        seen.append({name: value.double() for name, value in values(model).items()})
    shares = [0.75**3, 0.25 * 0.75**2, 0.25 * 0.75, 0.25] if "ema" in how else [0.25] * 4
    before = values(model)
    with averages.in_place():
        inside = values(model)
    for name, value in values(model).items():
        assert torch.equal(value, before[name])
        wanted = sum(share * at[name] for share, at in zip(shares, seen, strict=True))
        torch.testing.assert_close(inside[name].double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", HOWS, ids=["ema", "last"])
def test_saved_and_loaded_they_go_on_to_the_bit(how: dict[str, object]) -> None:
    model, averaging = small(), Averaging.model_validate(how)
    whole = Averages(model, averaging, 0)
    resumed = whole
    for t in range(5):
        move(model, t)
        whole.add()
        if t == 2:
            resumed = Averages(model, averaging, 0)
            resumed.load_state_dict(whole.state_dict())
            resumed.fit_start(after(3), None)  # type: ignore[arg-type]
        elif t > 2:
            resumed.add()
    one, other = whole.state_dict(), resumed.state_dict()
    assert one["number"] == other["number"] == 5 and resumed is not whole
    assert all(torch.equal(value, other["values"][name]) for name, value in one["values"].items())


def test_what_was_begun_for_a_shorter_stage_is_dropped() -> None:
    model, averaging = small(), Averaging.model_validate(HOWS[1])
    begun = Averages(model, averaging, 2)
    begun.add()
    for batches, number in ((4, 1), (3, 0), (2, 0)):
        longer = Averages(model, averaging, 3)
        longer.load_state_dict(begun.state_dict())
        longer.fit_start(after(batches), None)  # type: ignore[arg-type]
        assert longer.number == number


def test_without_any_the_weights_stay() -> None:
    model = small()
    averages = Averages(model, Averaging.model_validate(HOWS[0]), 0)
    before = values(model)
    with averages.in_place():
        assert all(torch.equal(value, before[name]) for name, value in values(model).items())
    loaded = Averages(model, Averaging.model_validate(HOWS[0]), 0)
    loaded.load_state_dict(averages.state_dict())
    assert loaded.number == 0


@pytest.mark.parametrize(
    ("how", "num_batches", "first"),
    [
        ({"ema": Decimal("0.9")}, 10, 0),
        ({"last": "10%"}, 1000, 900),
        ({"last": "3ba"}, 10, 7),
        ({"last": "30ba"}, 10, 0),
        ({"last": "1%"}, 10, 9),
        ({"last": "100%"}, 10, 0),
    ],
)
def test_where_they_begin(how: dict[str, object], num_batches: int, first: int) -> None:
    assert Averaging.model_validate(how).first_batch(num_batches) == first
