"""Speed-ups: where ends cross, what is said where they do not, and the mean over seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ncamix.speedups import Crossing, End, Speedup, crossing, measured, speedup

METRIC = "loss/code"
CONTROL = (1000.0, 2.0)


def ends(*values: float) -> list[End]:
    """Ends at 0.5x, 1x and 2x of the control's tokens."""
    return list(zip((500.0, 1000.0, 2000.0), values, strict=False))


def test_value_is_linear_in_log_tokens_between_ends() -> None:
    assert crossing(CONTROL, ends(2.1, 1.9, 1.8)).ratio == pytest.approx(math.sqrt(2))
    assert crossing(CONTROL, ends(2.4, 2.1, 1.8)).ratio == pytest.approx(2 ** -(1 / 3))
    assert crossing(CONTROL, ends(2.1, 2.0, 1.8)) == Crossing(pytest.approx(1.0))  # type: ignore
    assert crossing(CONTROL, reversed(ends(2.1, 1.9, 1.8))).ratio == pytest.approx(math.sqrt(2))


@given(st.floats(0.26, 3.9), st.floats(0.01, 5), st.floats(-10, 10))
def test_a_planted_speedup_is_found(ratio: float, slope: float, level: float) -> None:
    """Of an arm whose loss is the control's, `ratio` times sooner: linear in log tokens."""

    def loss(tokens: float) -> float:
        return level - slope * math.log(tokens)

    arm = [(t, loss(ratio * t)) for t in (250.0, 500.0, 1000.0, 2000.0, 4000.0)]
    found = crossing((1000.0, loss(1000.0)), arm)
    assert found.ratio == pytest.approx(ratio, rel=1e-6)
    assert found.monotone and not found.at_least


def test_nothing_is_extrapolated() -> None:
    assert crossing(CONTROL, ends(2.5, 2.2, 2.01)) == Crossing(None)
    assert crossing(CONTROL, ends(1.99, 1.9, 1.8)) == Crossing(2.0, at_least=True)
    assert crossing(CONTROL, ends(2.0, 1.9, 1.8)) == Crossing(2.0)
    assert crossing(CONTROL, []) == Crossing(None)
    assert crossing(CONTROL, [(1000.0, 1.9)]) == Crossing(1.0, at_least=True)


def test_of_ends_that_go_up_and_down_the_first_crossing_counts() -> None:
    found = crossing(CONTROL, ends(2.1, 1.9, 2.05))
    assert found == Crossing(pytest.approx(math.sqrt(2)), monotone=False)  # type: ignore[arg-type]
    assert crossing(CONTROL, ends(1.9, 2.1, 1.8)) == Crossing(2.0, True, False)


@pytest.mark.parametrize(
    "bad", [[(0.0, 1.0)], [(-1.0, 1.0)], [(1.0, math.nan)], [(1.0, 1.0), (1.0, 2.0)]]
)
def test_what_is_no_end_is_refused(bad: list[End]) -> None:
    with pytest.raises(ValueError):
        crossing(CONTROL, bad)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=10))
def test_the_mean_over_seeds_is_geometric_with_students_interval(ratios: list[float]) -> None:
    found = speedup([Crossing(ratio) for ratio in ratios], 0.9)
    assert found is not None and found[1] is not None
    logs = np.log(ratios)
    assert found[0] == pytest.approx(stats.gmean(ratios))
    if stats.sem(logs) > 1e-9:
        low, high = stats.t.interval(0.9, len(logs) - 1, logs.mean(), stats.sem(logs))
        assert (math.log(found[1].low), math.log(found[1].high)) == pytest.approx((low, high))


def test_a_seed_that_is_not_reached_or_only_bounded_leaves_no_mean() -> None:
    assert speedup([Crossing(1.5), Crossing(None)]) is None
    assert speedup([Crossing(1.5), Crossing(2.0, at_least=True)]) is None
    assert speedup([]) is None
    assert speedup([Crossing(1.5)]) == (pytest.approx(1.5), None)


def told(*arms: list[End], num_seeds: int = 0) -> Speedup:
    found = {seed: (CONTROL, arm) for seed, arm in enumerate(arms, 1)}
    return measured("up", "scratch", "natural tokens", found, num_seeds or len(arms), METRIC)


def test_words_of_a_speedup_in_every_seed() -> None:
    found = told(ends(2.1, 1.9, 1.8), ends(2.1, 1.85, 1.8), ends(2.1, 1.95, 1.8))
    assert found.ratio is not None and found.interval is not None
    assert (found.reached, found.num_seeds) == (3, 3)
    low, high = found.interval.low, found.interval.high
    assert found.words == (
        "Speed-up of up to where scratch ends (nats per token on code), in natural tokens: "
        f"{found.ratio:.2f}x (95% interval {low:.2f}x to {high:.2f}x; "
        "paired t over logarithms, not adjusted, 3 seeds)."
    )
    assert found.interval.low > 1
    unsure = told(ends(2.1, 1.9, 1.8), ends(2.1, 2.05, 1.8), num_seeds=3)
    assert unsure.words.endswith("2 of 3 seeds), so no speed-up is shown.")
    slow = told(ends(2.4, 2.2, 1.8), ends(2.4, 2.25, 1.8), ends(2.4, 2.15, 1.8))
    assert slow.interval is not None and slow.interval.high < 1
    assert slow.words.endswith("3 seeds), which is slower.")


def test_words_where_seeds_do_not_get_there() -> None:
    found = told(ends(2.5, 2.2, 2.1), ends(2.1, 1.9, 1.8), ends(2.5, 2.2, 2.01), num_seeds=5)
    assert (found.ratio, found.interval, found.reached, found.num_seeds) == (None, None, 1, 3)
    assert found.words == (
        "Speed-up of up to where scratch ends (nats per token on code), in natural tokens: not "
        "reached in 2 of 3 seeds, with 2x its tokens at most; 1.41x in 1 of 3 seeds: so there is "
        "no mean and no interval. Of 5 seeds, 2 lack a run and are left out."
    )


def test_words_where_the_shortest_run_is_better_already() -> None:
    found = told(ends(1.9, 1.8, 1.7), ends(2.1, 1.9, 1.8))
    assert (found.ratio, found.reached) == (None, 2)
    assert "at least 2.00x in 1 of 2 seeds, where the shortest run is already better" in found.words


def test_words_of_few_and_of_uneven_ends() -> None:
    assert told(num_seeds=5).words.endswith("not measured, as no seed has every run that it takes.")
    one = told(ends(2.1, 1.9, 2.05))
    assert one.ratio == pytest.approx(math.sqrt(2)) and one.interval is None
    assert "1.41x in 1 seed, which takes no interval." in one.words
    assert one.words.endswith("with seed 1; the first crossing counts, which favours up.")
