"""Findings: what a study's figures say about what it declared.

    values by arm and seed, the comparison declared ahead
    -> one primary comparison; as a family, adjusted: variants against one arm, and those that have
       controls against each of them; speed-ups
    -> for each a test between seeds, a verdict and its words; and what to keep in mind

Values are of one metric on the test split, lower is better. Seeds are paired by number, and only
those that both arms finished count: the same seed gives both the same order and initialisation, as
far as they can have it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ncamix.held_out import Documents as Documents
from ncamix.held_out import document_differences
from ncamix.held_out import documents_of as documents_of
from ncamix.quantities import counted
from ncamix.speedups import CLOCKS, Speedup, measured
from ncamix.statistics import (
    Interval,
    PairedTest,
    detectable_effect,
    holm,
    mean_interval,
    paired_test,
    power,
    sd_range,
)
from ncamix.verdicts import VERDICTS as VERDICTS
from ncamix.verdicts import Comparison, comparison_words, percent, verdict
from ncamix.verdicts import power_words as power_words

FEW_SEEDS = 5  # below these, a remark
_ROUNDING = 1e-12  # relative to a value

Pair = tuple[str, str]


@dataclass(frozen=True)
class Results:
    """Figures of finished runs, and why others failed: each arm -> seed -> what it is.

    tokens: for each of `CLOCKS`, arm -> seed -> tokens of the run. same_as: arm -> the arm that
    plans alike to the last batch, and whose runs are its own.
    """

    values: Mapping[str, Mapping[int, float]]
    documents: Mapping[str, Mapping[int, Documents]] = field(default_factory=dict)
    failed: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    tokens: Mapping[str, Mapping[str, Mapping[int, float]]] = field(default_factory=dict)
    same_as: Mapping[str, str] = field(default_factory=dict)

    def run_by(self, arm: str) -> str:
        """The arm whose runs an arm's are: mostly itself."""
        return self.same_as.get(arm, arm)

    def of(self, kind: Mapping[str, Mapping[int, Any]], arm: str) -> Mapping[int, Any]:
        """What an arm has of `values`, `documents` or another kind."""
        return kind.get(arm) or kind.get(self.run_by(arm)) or {}


@dataclass(frozen=True)
class ArmSummary:
    """An arm by itself. Its interval is that of the mean between seeds; two that overlap say
    nothing of a difference, which is paired. missing: seeds neither finished nor failed."""

    arm: str
    values: dict[int, float]
    mean: float | None
    interval: Interval | None
    failed: dict[int, str]
    missing: tuple[int, ...]


@dataclass(frozen=True)
class Finding:
    """What one comparison says: `verdict` is one of `VERDICTS`, `words` say it for people.

    The test and its interval are of this comparison by itself; `p_adjusted` is Holm's over the
    family, None for the primary one, and decides there. `power` is that with which the smallest
    effect that matters would be found were the sd seen the true one, `detectable` what would be
    found with the declared power; in a family both are those of its strictest step, so they are
    the worst case. `documents` are the difference over held-out documents and its interval, these
    runs given.
    """

    arm: str
    other: str
    test: PairedTest | None
    p_adjusted: float | None
    verdict: str
    words: str
    seeds: tuple[int, ...]
    power: float | None
    detectable: float | None
    documents: tuple[float, Interval] | None


@dataclass(frozen=True)
class Findings:
    primary: Finding | None
    others: list[Finding]
    speedups: list[Speedup]
    arms: list[ArmSummary]
    remarks: list[str]


def findings(
    results: Results, arms: Sequence[str], seeds: Sequence[int], compare: Comparison | None
) -> Findings:
    """What results say about what was declared; without anything declared there is no test.

    Of the primary pair its own p-value decides. Variants are held against `compare.other`, and arms
    that have controls against each of these; a control is held against nothing else, since what it
    is there to say is how its arm differs from it. All are adjusted by Holm over that family, in
    which one that is not measured counts as p = 1: no other comparison gains by that. A value that
    is not a finite number is a failed run's.
    """
    confidence = compare.confidence if compare else 0.95
    summaries = {arm: _summary(arm, results, seeds, confidence) for arm in arms}
    remarks = list(_remarks_on_arms(summaries, seeds))
    if compare is None:
        remarks.append("nothing was declared to be compared, so nothing is tested")
        return Findings(None, [], [], list(summaries.values()), remarks)
    family = list(_family(arms, results, compare))
    pairs = [compare.primary, *family]
    shared = [tuple(s for s in seeds if all(s in _values(summaries, a) for a in p)) for p in pairs]
    tests = [_test(*both, summaries, compare) for both in zip(pairs, shared, strict=True)]
    adjusted: list[float | None] = [None, *holm([t.p if t else 1.0 for t in tests[1:]])]
    runs = [_documents(*both, results) for both in zip(pairs, shared, strict=True)]
    documents, said = document_differences(runs, compare.metric, confidence)
    remarks += said
    found = [
        _finding(*of_one, len(family), len(seeds), compare)
        for of_one in zip(pairs, shared, tests, adjusted, documents, strict=True)
    ]
    remarks += _remarks_on_tests(found, summaries)
    remarks += _remarks_on_choice(family, arms, results, compare)
    speedups = [
        _speedup(arm, clock, summaries, results, seeds, compare)
        for arm in (compare.lengths if compare.speedup_to else ())
        for clock in CLOCKS
    ]
    return Findings(found[0], found[1:], speedups, list(summaries.values()), remarks)


def _summary(arm: str, results: Results, seeds: Sequence[int], confidence: float) -> ArmSummary:
    given, failed = results.of(results.values, arm), results.of(results.failed, arm)
    values = {s: float(given[s]) for s in seeds if s in given and math.isfinite(given[s])}
    broken = {
        s: failed[s] if s in failed else f"ended at {given[s]}"
        for s in seeds
        if s not in values and (s in failed or s in given)
    }
    missing = tuple(s for s in seeds if s not in values and s not in broken)
    mean, interval = next(iter(values.values()), None), None
    if len(values) > 1:
        mean, interval = mean_interval(list(values.values()), confidence)
    return ArmSummary(arm, values, mean, interval, broken, missing)


def _values(summaries: Mapping[str, ArmSummary], arm: str) -> dict[int, float]:
    return summaries[arm].values if arm in summaries else {}


def _family(arms: Sequence[str], results: Results, compare: Comparison) -> Iterator[Pair]:
    """What is compared beside the primary pair: no pair of runs twice, none with itself, and none
    of the lengths that are there for a speed-up."""
    lengths = {arm for several in compare.lengths.values() for arm in several}
    done = {frozenset(map(results.run_by, compare.primary))}
    for arm in arms:
        beside = compare.beside.get(arm)
        pair = (beside, arm) if beside is not None and beside in arms else (arm, compare.other)
        runs = frozenset(map(results.run_by, pair))
        if len(runs) > 1 and runs not in done and arm not in lengths - set(compare.lengths):
            done.add(runs)
            yield pair


def _test(
    pair: Pair, seeds: Sequence[int], summaries: Mapping[str, ArmSummary], compare: Comparison
) -> PairedTest | None:
    if len(seeds) < 2:
        return None
    first, second = (_values(summaries, arm) for arm in pair)
    return paired_test([first[s] - second[s] for s in seeds], compare.confidence)


def _finding(
    pair: Pair,
    seeds: tuple[int, ...],
    test: PairedTest | None,
    p_adjusted: float | None,
    documents: tuple[float, Interval] | None,
    family: int,
    num_seeds: int,
    compare: Comparison,
) -> Finding:
    if test is None:
        has = f"{counted(len(seeds), 'finished seed')} of {num_seeds}"
        words = f"not measured: {' and '.join(pair)} share {has}, and a test takes two."
        said = verdict(None, None, compare)
        return Finding(*pair, None, None, said, words, seeds, None, None, documents)
    family = 1 if p_adjusted is None else family
    level, n = compare.level(family), test.num_pairs
    return Finding(
        *pair,
        test,
        p_adjusted,
        verdict(test, test.p if p_adjusted is None else p_adjusted, compare),
        comparison_words(pair, test, p_adjusted, family, num_seeds, compare),
        seeds,
        power(compare.smallest_effect, test.sd, n, level),
        detectable_effect(test.sd, n, compare.power, level),
        documents,
    )


def _documents(
    pair: Pair, seeds: Sequence[int], results: Results
) -> tuple[list[Documents | None], list[Documents | None]]:
    first, second = (results.of(results.documents, arm) for arm in pair)
    return [first.get(s) for s in seeds], [second.get(s) for s in seeds]


def _speedup(
    arm: str,
    clock: str,
    summaries: Mapping[str, ArmSummary],
    results: Results,
    seeds: Sequence[int],
    compare: Comparison,
) -> Speedup:
    """The speed-up of an arm by one clock, over the seeds that have every run that it takes."""
    assert compare.speedup_to is not None
    names, tokens = [compare.speedup_to, *compare.lengths[arm]], results.tokens.get(clock, {})
    ends = {}
    for seed in seeds:
        known = [
            (float(results.of(tokens, name)[seed]), _values(summaries, name)[seed])
            for name in names
            if seed in results.of(tokens, name) and seed in _values(summaries, name)
        ]
        if len(known) == len(names):
            ends[seed] = known[0], known[1:]
    to, metric = compare.speedup_to, compare.metric
    return measured(arm, to, clock, ends, len(seeds), metric, compare.confidence)


def _remarks_on_arms(summaries: Mapping[str, ArmSummary], seeds: Sequence[int]) -> Iterator[str]:
    if len(seeds) < FEW_SEEDS:
        yield (
            f"{counted(len(seeds), 'seed')}: few differences can be shown with fewer than "
            f"{FEW_SEEDS}, and the t-test leans on their being normal"
        )
    failed = False
    for arm in summaries.values():
        for seed, why in arm.failed.items():
            failed = True
            yield f"{arm.arm}, seed {seed}: failed, {why}"
        if arm.missing:
            seeds_of = ", ".join(map(str, arm.missing))
            yield f"{arm.arm}: {'seeds' if len(arm.missing) > 1 else 'seed'} {seeds_of} missing"
    if failed:
        yield (
            "failed runs are left out, with their pairs: where one arm fails more than another, "
            "what is left of it looks better than it is"
        )


def _remarks_on_tests(
    found: Sequence[Finding], summaries: Mapping[str, ArmSummary]
) -> Iterator[str]:
    for finding in found:
        if (test := finding.test) is None:
            continue
        values = [
            _values(summaries, arm)[s]
            for arm in (finding.arm, finding.other)
            for s in finding.seeds
        ]
        if test.sd <= _ROUNDING * max(map(abs, values)):
            what = "end alike" if abs(test.mean) <= test.sd else "differ by as much"
            yield (
                f"{finding.arm} and {finding.other} {what} with every seed: check that seeds, and "
                "what sets the arms apart, change anything"
            )
    primary = found[0].test
    if primary is not None:
        low, high = sd_range(primary.num_pairs, primary.interval.confidence)
        yield (
            f"an sd seen over {counted(primary.num_pairs, 'seed')} is itself uncertain: the true "
            f"one is {low:.2f} to {high:.2f} times as large ({percent(primary.interval.confidence)}"
            "), and so is any effect that is said to be found"
        )


def _remarks_on_choice(
    family: Sequence[Pair], arms: Sequence[str], results: Results, compare: Comparison
) -> Iterator[str]:
    """What was declared and what was not, and arms that are another's double."""
    if family:
        first, second = compare.primary
        yield (
            f"declared ahead is {first} against {second} alone; "
            f"{counted(len(family), 'other comparison')}, adjusted by Holm together, are "
            "exploratory"
        )
    for arm in arms:
        if (run_by := results.run_by(arm)) != arm:
            yield f"{arm} plans as {run_by} to the last batch: its runs are those of {run_by}"
