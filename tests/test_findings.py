"""Findings: whole studies, simulated with planted differences, and what is said of any study."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from ncamix.findings import Comparison, Documents, Findings, Results, findings, power_words
from ncamix.statistics import detectable_effect, largest_sd, mean_interval, paired_test, power

SEEDS = (1, 2, 3, 4, 5)
STUDIES = 3000
DECIDED = ("better", "worse")
EFFECT = 0.01
COMPARE = Comparison(("up", "even"), "bits_per_byte/code", EFFECT)
UP = {1: 2.010, 2: 1.985, 3: 2.004, 4: 1.991, 5: 2.002}


def by_seed(values: np.ndarray) -> dict[int, float]:
    return {seed: float(x) for seed, x in enumerate(values, 1)}


def shifted(by: float, spread: float = 0.0) -> dict[int, float]:
    """The values of `UP`, so much worse, and with so much between seeds."""
    return {s: x + by + spread * (s - 3) for s, x in UP.items()}


def studies(
    effect: float, sd: float, num_seeds: int, key: int, num: int = STUDIES
) -> Iterator[Findings]:
    """Studies of two arms: seeds differ by much, arms by `effect`, their difference by `sd`."""
    rng = np.random.default_rng(key)
    seeds = range(1, num_seeds + 1)
    for _ in range(num):
        base = rng.normal(2, 0.1, num_seeds)
        even, up = rng.normal(0, sd / math.sqrt(2), (2, num_seeds)) + base
        values = {"up": by_seed(up + effect), "even": by_seed(even)}
        yield findings(Results(values), ["up", "even"], seeds, COMPARE)


def verdicts(found: Iterator[Findings]) -> Counter[str]:
    return Counter(one.primary.verdict for one in found if one.primary)


def sampling_error(share: float, num: int = STUDIES) -> float:
    """Beyond which an honest test fails once in 15,000 draws of its seed."""
    return 4 * math.sqrt(share * (1 - share) / num)


# ---- what is planted is found as often as it should be


@pytest.mark.parametrize("sd", [0.002, 0.01])
def test_a_planted_0_shows_no_difference_in_95_of_100_studies(sd: float) -> None:
    said = verdicts(studies(0, sd, 5, key=1))
    none = said["no difference shown"] + said["underpowered"]
    assert abs(none / STUDIES - 0.95) < sampling_error(0.95)
    assert said.total() == STUDIES
    # Both words are in use: small sds leave out what matters, large ones do not.
    assert said["no difference shown" if sd < EFFECT / 2 else "underpowered"] > 0.75 * none


@pytest.mark.parametrize(
    ("num_seeds", "sd"),
    [(5, largest_sd(EFFECT, 5)), (5, 0.012), (3, 0.004), (10, 0.01)],
)
def test_a_planted_effect_is_found_as_often_as_the_printed_power_says(
    num_seeds: int, sd: float
) -> None:
    (line,) = power_words(num_seeds, EFFECT, COMPARE.metric, sd)
    printed = float(re.findall(r"0\.01 they find with power (\d\.\d\d)", line)[0])
    said = verdicts(studies(-EFFECT, sd, num_seeds, key=num_seeds))
    share = (said["better"] + said["worse"]) / STUDIES
    assert abs(share - printed) < sampling_error(printed) + 0.005  # two decimals
    assert said["worse"] < 0.01 * STUDIES


def test_the_effect_that_is_said_to_be_found_is_found_with_that_power() -> None:
    sd = 0.02
    (line,) = power_words(5, EFFECT, COMPARE.metric, sd)
    effect = float(re.findall(r"5 seeds find (\S+) bits per byte", line)[0])
    assert effect == pytest.approx(detectable_effect(sd, 5), rel=0.005)
    said = verdicts(studies(effect, sd, 5, key=8))
    assert abs(said["worse"] / STUDIES - 0.8) < sampling_error(0.8) + 0.005


def test_over_a_family_of_nulls_one_study_in_20_shows_a_difference_at_most() -> None:
    """Six arms against one control."""
    rng, num, arms = np.random.default_rng(4), 1200, [f"arm{i}" for i in range(6)]
    compare = Comparison(("up", "even"), "loss/code", EFFECT, against="scratch")
    adjusted = alone = 0
    for _ in range(num):
        values = {"scratch": by_seed(rng.normal(2, 0.001, 5))}
        values |= {arm: by_seed(rng.normal(2, 0.01, 5)) for arm in arms}
        found = findings(Results(values), ["scratch", *arms], SEEDS, compare)
        assert len(found.others) == 6
        adjusted += any(one.verdict in DECIDED for one in found.others)
        alone += any(one.test is not None and one.test.p < 0.05 for one in found.others)
    assert adjusted / num < 0.05 + sampling_error(0.05, num)
    assert adjusted > 0
    assert alone / num > 0.15  # unadjusted, a quarter of all studies find something


# ---- which comparisons are made


def study(**changes: object) -> Findings:
    values = {
        "up": UP,
        "even": shifted(0.02, 0.001),
        "scratch": shifted(0.05, 0.002),
        "twin": shifted(0.05, 0.002),
        "down": shifted(0.051, 0.002),
        "half": shifted(0.1),
        "double": shifted(-0.1),
    }
    tokens = {arm: dict.fromkeys(SEEDS, 1e6) for arm in values}
    tokens["half"], tokens["double"] = dict.fromkeys(SEEDS, 5e5), dict.fromkeys(SEEDS, 2e6)
    compare = Comparison(
        ("up", "even"), "bits_per_byte/code", EFFECT, against="scratch", speedup_to="scratch",
        lengths={"up": ("half", "up", "double")},
    )  # fmt: skip
    results = {
        "values": values,
        "tokens": {"natural tokens": tokens},
        "same_as": {"twin": "scratch"},
    }
    results |= changes
    return findings(Results(**results), list(values), SEEDS, compare)  # type: ignore[arg-type]


def test_all_arms_are_held_against_the_control_once() -> None:
    found = study()
    assert found.primary is not None
    assert (found.primary.arm, found.primary.other) == ("up", "even")
    assert [(one.arm, one.other) for one in found.others] == [
        ("up", "scratch"), ("even", "scratch"), ("down", "scratch"),
    ]  # fmt: skip
    assert found.primary.p_adjusted is None
    assert any("twin plans as scratch to the last batch" in remark for remark in found.remarks)
    assert any("3 other comparisons, adjusted by Holm" in remark for remark in found.remarks)


def test_an_arm_is_held_against_its_controls_and_these_against_nothing_else() -> None:
    values = {
        "up": UP, "even": shifted(0.02), "scratch": shifted(0.05), "shuffled": shifted(0.04, 0.001),
        "text": shifted(-0.01),
    }  # fmt: skip
    beside = {"scratch": "up", "shuffled": "up", "text": "gone"}
    compare = Comparison(
        ("up", "even"), "bits_per_byte/code", EFFECT, against="scratch", beside=beside
    )
    found = findings(Results(values), list(values), SEEDS, compare)
    assert [(one.arm, one.other) for one in found.others] == [
        ("up", "scratch"), ("even", "scratch"), ("up", "shuffled"), ("text", "scratch"),
    ]  # fmt: skip
    shuffled = found.others[2]
    assert shuffled.verdict == "better" and shuffled.test is not None
    assert shuffled.test.mean == pytest.approx(-0.04, abs=0.002)
    assert shuffled.words.startswith("up is better than shuffled by")


def test_without_a_control_others_are_held_against_the_second_of_the_primary() -> None:
    values = {"up": UP, "even": shifted(0.02, 0.001), "down": shifted(0.03, 0.001)}
    found = findings(Results(values), list(values), SEEDS, COMPARE)
    assert [(one.arm, one.other) for one in found.others] == [("down", "even")]


def test_a_finding_holds_its_figures() -> None:
    found = study()
    assert found.primary is not None and found.primary.test is not None
    even = shifted(0.02, 0.001)
    test = paired_test([UP[s] - even[s] for s in SEEDS])
    assert found.primary.test == test
    assert found.primary.verdict == "better"
    assert found.primary.seeds == SEEDS
    assert found.primary.power == power(EFFECT, test.sd, 5)
    assert found.primary.detectable == detectable_effect(test.sd, 5)
    down = found.others[2]
    assert down.test is not None
    assert down.power == power(EFFECT, down.test.sd, 5, 1 - 0.05 / 3)
    summary = next(arm for arm in found.arms if arm.arm == "even")
    assert (summary.mean, summary.interval) == mean_interval(list(even.values()))
    assert (summary.failed, summary.missing) == ({}, ())


def test_speedups_are_by_both_clocks() -> None:
    found = study()
    natural, total = found.speedups
    assert (natural.clock, natural.reached, natural.num_seeds) == ("natural tokens", 5, 5)
    assert natural.ratio is not None and 1 < natural.ratio < 2
    assert (total.clock, total.ratio, total.num_seeds) == ("all tokens", None, 0)
    assert "not measured" in total.words


def test_a_speedup_takes_the_seeds_that_have_every_run() -> None:
    values = {"scratch": shifted(0.05), "up": UP, "half": shifted(0.1), "double": shifted(-0.1)}
    values["half"] = {s: x for s, x in values["half"].items() if s != 2}
    natural = study(values=values).speedups[0]
    assert (natural.num_seeds, natural.reached) == (4, 4)
    assert "4 of 5 seeds" in natural.words


# ---- what is missing


def test_what_failed_and_what_is_missing_is_left_out_and_said() -> None:
    even = {s: x for s, x in shifted(0.02, 0.001).items() if s != 3} | {4: math.nan}
    results = Results({"up": UP, "even": even}, failed={"even": {3: "diverged at step 40"}})
    found = findings(results, ["up", "even", "down"], SEEDS, COMPARE)
    assert found.primary is not None and found.primary.test is not None
    assert found.primary.seeds == (1, 2, 5)
    assert found.primary.test.num_pairs == 3
    assert "over 3 of 5 seeds" in found.primary.words
    assert found.arms[1].failed == {3: "diverged at step 40", 4: "ended at nan"}
    assert found.arms[2].missing == SEEDS and found.arms[2].mean is None
    assert "even, seed 3: failed, diverged at step 40" in found.remarks
    assert "down: seeds 1, 2, 3, 4, 5 missing" in found.remarks
    assert any("looks better than it is" in remark for remark in found.remarks)
    (down,) = found.others
    assert (down.verdict, down.test, down.seeds) == ("not measured", None, ())
    assert down.words == (
        "not measured: down and even share 0 finished seeds of 5, and a test takes two."
    )


def test_what_is_not_measured_makes_no_other_p_smaller() -> None:
    values = {"up": UP, "even": shifted(0, 0.001), "down": shifted(0.005, 0.002)}
    compare = Comparison(("up", "even"), "loss/code", EFFECT)
    alone, beside = (
        findings(Results(values), arms, SEEDS, compare).others[0]
        for arms in (["up", "even", "down"], ["up", "even", "down", "late"])
    )
    assert alone.test is not None and alone.p_adjusted == alone.test.p
    assert beside.p_adjusted == pytest.approx(2 * alone.test.p)


def test_one_seed_says_nothing_of_seeds() -> None:
    docs = {arm: {1: Documents(np.arange(1.0, 41) * x, np.ones(40))} for arm, x in
            (("up", 1.0), ("even", 1.1))}  # fmt: skip
    found = findings(
        Results({"up": {1: 2.0}, "even": {1: 2.1}}, docs), ["up", "even"], [1], COMPARE
    )
    assert found.primary is not None
    assert found.primary.verdict == "not measured"
    assert found.primary.documents is not None  # which takes the runs as given
    assert (found.arms[0].mean, found.arms[0].interval) == (2.0, None)
    assert found.remarks[0].startswith("1 seed: few differences can be shown")


def test_seeds_that_change_nothing_are_remarked_on() -> None:
    for by, what in ((0.0, "end alike"), (0.02, "differ by as much")):
        values = {"up": UP, "even": shifted(by)}
        found = findings(Results(values), ["up", "even"], SEEDS, COMPARE)
        assert any(what in remark for remark in found.remarks)
    found = findings(
        Results({"up": UP, "even": shifted(0.02, 0.001)}), ["up", "even"], SEEDS, COMPARE
    )
    assert not any("change anything" in remark for remark in found.remarks)


def test_without_anything_declared_nothing_is_tested() -> None:
    found = findings(Results({"up": UP}), ["up"], SEEDS, None)
    assert (found.primary, found.others, found.speedups) == (None, [], [])
    assert found.arms[0].interval is not None
    assert found.remarks == ["nothing was declared to be compared, so nothing is tested"]


def test_documents_are_those_of_the_pairs_seeds() -> None:
    rng, sizes = np.random.default_rng(0), np.arange(100.0, 200.0)
    docs = {
        arm: {s: Documents(sizes * rng.normal(mean, 0.1, 100), sizes) for s in SEEDS}
        for arm, mean in (("up", 1.0), ("even", 1.1))
    }
    even = {s: x for s, x in shifted(0.02, 0.001).items() if s != 3}
    results = Results({"up": UP, "even": even}, docs)
    found = findings(results, ["up", "even"], SEEDS, COMPARE)
    assert found.primary is not None and found.primary.documents is not None
    value, interval = found.primary.documents
    nats = [sum(docs[arm][s].nats.sum() for s in (1, 2, 4, 5)) for arm in ("up", "even")]
    assert value == pytest.approx((nats[0] - nats[1]) / 4 / sizes.sum() / math.log(2))
    assert interval.high < 0
