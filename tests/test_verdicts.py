"""Verdicts: which one, in which words, and what is promised before anything runs."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncamix.statistics import Interval, detectable_effect, largest_sd, paired_test, power
from ncamix.verdicts import (
    VERDICTS,
    Comparison,
    comparison_words,
    figures,
    percent,
    power_words,
    unit_of,
    verdict,
)

COMPARE = Comparison(("up", "even"), "bits_per_byte/code", 0.01)
PAIR = COMPARE.primary


def differences(mean: float, sd: float, n: int = 5) -> list[float]:
    """So many with exactly this mean and sd."""
    x = np.arange(n) - (n - 1) / 2
    return list(mean + sd * x / x.std(ddof=1))


def told(
    mean: float, sd: float, n: int = 5, adjusted: float | None = None, family: int = 4
) -> tuple[str, str]:
    test = paired_test(differences(mean, sd, n))
    said = verdict(test, test.p if adjusted is None else adjusted, COMPARE)
    return said, comparison_words(PAIR, test, adjusted, family, 5, COMPARE)


@pytest.mark.parametrize(
    ("mean", "sd", "said"),
    [
        (-0.02, 0.002, "better"),
        (0.02, 0.002, "worse"),
        (-0.005, 0.001, "better"),
        (0.0, 0.002, "no difference shown"),
        (0.001, 0.02, "underpowered"),
        (-0.02, 0.03, "underpowered"),
        (0.0, 0.0, "no difference shown"),
        (-0.02, 0.0, "better"),
    ],
)
def test_the_verdict_follows_from_the_interval(mean: float, sd: float, said: str) -> None:
    found, words = told(mean, sd)
    assert found == said
    assert said in words


@given(st.floats(-0.1, 0.1), st.floats(0, 0.1), st.integers(2, 20))
def test_every_test_has_one_verdict_as_it_is_defined(mean: float, sd: float, n: int) -> None:
    test = paired_test(differences(mean, sd, n))
    found = verdict(test, test.p, COMPARE)
    assert found in VERDICTS
    if abs(test.p - 0.05) < 1e-9:
        return
    holds = test.interval.low <= 0 <= test.interval.high
    assert (found in ("better", "worse")) != holds
    if holds:
        within = max(abs(test.interval.low), abs(test.interval.high)) <= 0.01
        assert found == ("no difference shown" if within else "underpowered")


def test_without_a_test_nothing_is_measured() -> None:
    assert verdict(None, None, COMPARE) == "not measured"


def test_words_of_a_difference() -> None:
    assert told(-0.02, 0.002)[1].startswith(
        "up is better than even by 0.0200 bits per byte on code (95% interval 0.0175 to 0.0225; "
        "paired t-test over 5 seeds, p < 0.001). That is at least what would matter, 0.01. At the "
        "sd seen (0.002), 5 seeds find "
    )
    assert "Whether it comes to what would matter, 0.01, is open." in told(0.011, 0.002)[1]
    small = told(0.005, 0.001)[1]
    assert "up is worse than even by 0.0050" in small
    assert "That is smaller than what would matter, 0.01." in small
    assert "over 3 of 5 seeds" in told(-0.02, 0.002, n=3)[1]


def test_words_of_no_difference() -> None:
    none = told(0.0, 0.002)[1]
    assert none.startswith("no difference shown between up and even: up - even is 0.0000 bits")
    assert "The interval lies within +-0.01: it leaves out what would matter." in none
    under = told(0.001, 0.02)[1]
    assert under.startswith("underpowered: up - even is 0.001 bits per byte on code (95% interval ")
    assert "The interval reaches beyond +-0.01, what would matter." in under
    assert f"find {detectable_effect(0.02, 5):.3g} bits per byte on code or more" in under
    assert "At the sd seen (0.02), 5 seeds" in under
    assert f"0.01 they find with power {power(0.01, 0.02, 5):.2f}" in under
    needed = int(re.findall(r"about (\d+) seeds would with 0.8", under)[0])
    assert power(0.01, 0.02, needed) >= 0.8 > power(0.01, 0.02, needed - 1)


def test_in_a_family_the_adjusted_p_decides() -> None:
    said, words = told(-0.02, 0.006, adjusted=0.01)
    assert said == "better"
    assert "p = 0.00173, by Holm over 4 comparisons p = 0.01)" in words
    assert "At the sd seen" not in words
    said, words = told(-0.02, 0.006, adjusted=0.06)
    assert said == "underpowered"
    assert "By itself it leaves out 0, but not after the adjustment." in words
    strict = 1 - 0.05 / 4
    assert f"0.01 they find with power {power(0.01, 0.006, 5, strict):.2f}" in words
    assert "At the sd seen (0.006) and the 1.2% of the adjustment's first step, 5 seeds" in words


def test_before_anything_runs_effects_are_told_in_sds() -> None:
    first, second = power_words(5, 0.01, "bits_per_byte/code")
    assert first.startswith(f"5 seeds find a difference of {detectable_effect(1, 5):.2f} sd or ")
    assert second == (
        "0.01 bits per byte on code, which would matter, is found so as long as that sd is at "
        f"most {largest_sd(0.01, 5):.3g}"
    )
    (one,) = power_words(1, 0.01, "loss/code")
    assert one == "1 seed: no test is possible, so no difference can be shown"


@pytest.mark.parametrize(("sd", "compared"), [(0.004, "no more than"), (0.012, ", more than")])
def test_a_known_sd_gives_effects_in_their_unit(sd: float, compared: str) -> None:
    (line,) = power_words(5, 0.01, "loss/code", sd)
    assert f"5 seeds find {detectable_effect(sd, 5):.3g} nats per token on code or more" in line
    assert compared in line
    assert f"0.01 they find with power {power(0.01, sd, 5):.2f}" in line
    assert ("seeds would" in line) == (sd > 0.01)


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (0.01234, 0.01, 0.02, "0.0123"),
        (-0.00001, -0.02, 0.02, "0.000"),
        (1234.4, 1000, 2000, "1234"),
        (0.5, 0.5, 0.5, "0.5000"),
        (0.0, 0.0, 0.0, "0.0"),
    ],
)
def test_figures_have_two_digits_of_what_is_uncertain(
    value: float, low: float, high: float, shown: str
) -> None:
    assert figures(value, Interval(low, high, 0.95)) == shown


def test_units() -> None:
    assert unit_of("loss/code") == "nats per token on code"
    assert unit_of("perplexity/web") == "of perplexity on web"
    assert [percent(x) for x in (0.95, 0.999)] == ["95%", "99.9%"]
