"""The area between a loss curve and its final level, against areas known by other means."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncamix.epiplexity import area_bits, epiplexities
from ncamix.run_record import StageRecord


def stage(losses: np.ndarray, tokens: int = 100) -> StageRecord:
    """A stage whose source `a` has these losses, not a number where it is not drawn."""
    at = 1000.0 + tokens * np.arange(1, len(losses) + 1)
    drawn = np.isfinite(losses)
    return StageRecord(
        name="one",
        first_token=1000,
        num_tokens=tokens * len(losses),
        num_batches=len(losses),
        batch_size=1,
        mixture_progress=np.zeros(0),
        mixture={},
        rate_progress=np.zeros(0),
        rate=np.zeros(0),
        tokens=at,
        learning_rate=np.zeros(0),
        counts={},
        loss_tokens={"a": np.cumsum(drawn * tokens).astype(float)},
        losses={"a": (at[drawn], losses[drawn])},
    )


def test_a_straight_fall_is_a_triangle() -> None:
    losses = np.concatenate([np.linspace(4, 2, 950, endpoint=False), np.full(50, 2.0)])
    bits, level = area_bits(losses, np.full(1000, 256.0))
    assert level == 2.0
    assert bits == pytest.approx(950 * 256 * 1.0 / math.log(2), rel=2e-3)  # half of 2 nats a token


def test_an_exponential_fall_has_its_closed_area() -> None:
    at = np.arange(20_000)
    bits, level = area_bits(3 + 5 * np.exp(-at / 200), np.full(20_000, 8.0))
    assert level == pytest.approx(3)
    assert bits == pytest.approx(5 / (1 - math.exp(-1 / 200)) * 8 / math.log(2))


@given(st.floats(0.1, 20), st.integers(1, 400), st.integers(1, 10**6))
def test_nothing_is_learned_where_the_loss_stays(level: float, batches: int, tokens: int) -> None:
    bits, found = area_bits(np.full(batches, level), np.full(batches, float(tokens)))
    assert found == pytest.approx(level)
    assert abs(bits) <= 1e-9 * batches * tokens * level


@given(st.lists(st.floats(0, 20), min_size=2, max_size=60), st.floats(-3, 3))
def test_a_constant_more_changes_nothing(values: list[float], shift: float) -> None:
    losses, counts = np.array(values), np.arange(1.0, len(values) + 1)
    first, second = area_bits(losses, counts), area_bits(losses + shift, counts)
    assert second[0] == pytest.approx(first[0], abs=1e-6)
    assert second[1] == pytest.approx(first[1] + shift)


def test_only_batches_with_the_source_count() -> None:
    losses = np.where(np.arange(100) % 2 == 0, np.linspace(4, 2, 100), np.nan)
    (found,) = epiplexities([stage(losses)])
    bits, level = area_bits(losses[::2], np.full(50, 100.0))
    assert (found.stage, found.source, found.num_tokens) == ("one", "a", 5000)
    assert (found.bits, found.final_loss) == (bits, level)


def test_a_run_that_does_not_say_its_loss_tokens_has_no_estimate() -> None:
    whole = stage(np.linspace(4, 2, 100))
    assert len(epiplexities([whole])) == 1
    silent = replace(whole, loss_tokens={"a": np.zeros(100)})
    assert epiplexities([silent]) == []
    assert epiplexities([stage(np.array([3.0]))]) == []
