"""What a study shows beside its findings, each with its interval between seeds.

    arms that differ in what they draw anew alone  -> what that costs
    arms that differ in alphabet and tokens        -> the metric over tokens of automata
    runs to tune with      -> the metric at each point, and whether the chosen one is on the edge

Intervals are Student's t, as in `statistics`, and not adjusted: these are looked at, not decided
by. A single seed has none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ncamix.findings import ArmSummary
from ncamix.groups import GROUPS, UNIONS
from ncamix.run_record import Json, by_name
from ncamix.statistics import Interval, PairedTest, paired_test
from ncamix.study_record import ArmRecord, StudyRecord

_DRAWN = ("reinitialize", "keep_only", "initializer")
_ENTERING = re.compile(rf"stages\.[^.]+\.enter(\.({'|'.join(_DRAWN)}))?")
_SIZES = ("vocabulary.rows", "trainer.budget")  # what is laid over arms to make them alike
_ALPHABET = re.compile(r"(\d+) states")
_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")


# ---- what drawing groups anew costs


@dataclass(frozen=True)
class Redrawn:
    """An arm beside another that it differs from in what it draws anew alone. what: in words; test:
    of the differences, None of fewer than two seeds."""

    arm: str
    what: str
    difference: float | None
    test: PairedTest | None


@dataclass(frozen=True)
class Redrawing:
    """Arms that differ in what they draw anew on entering stages; the one that draws the fewest
    groups is what the others are held against."""

    reference: str
    what: str
    arms: list[Redrawn]


def redrawings(record: StudyRecord, summaries: Mapping[str, ArmSummary]) -> list[Redrawing]:
    clusters: dict[object, list[ArmRecord]] = {}
    for arm in record.arms.values():
        if arm.plan and arm.control is None and arm.lengthened is None:
            own = frozenset(s for s in arm.settings if not _is_about(s, _ENTERING))
            rest = str([_without(stage["enter"]) for stage in arm.plan["stages"]])
            clusters.setdefault((own, rest), []).append(arm)
    found = []
    for arms in clusters.values():
        if len(arms) > 1:
            reference = min(arms, key=lambda arm: len(_drawn(arm)))
            others = [
                _redrawn(arm, reference, summaries, record.confidence)
                for arm in arms
                if arm is not reference
            ]
            found.append(Redrawing(reference.name, _drawn_words(reference), others))
    return found


def _is_about(setting: str, paths: re.Pattern[str]) -> bool:
    path = setting.partition("=")[0]
    return path in _SIZES or paths.fullmatch(path) is not None


def _without(enter: Json | None) -> Json:
    """What else happens on entering a stage."""
    return {k: v for k, v in (enter or {}).items() if k not in _DRAWN and v}


def _drawn(arm: ArmRecord) -> set[tuple[str, str]]:
    """(stage, group) of all that an arm draws anew; a part of a group's layers counts as one."""
    found = set()
    for stage in arm.plan["stages"]:
        enter = stage["enter"] or {}
        kept = _groups(enter.get("keep_only") or [])
        drawn = set(GROUPS) - kept if kept else _groups(enter.get("reinitialize") or [])
        found |= {(stage["name"], group) for group in drawn}
    return found


def _groups(written: Sequence[str]) -> set[str]:
    return {one for group in written for one in UNIONS.get(group, (group,))}


def _drawn_words(arm: ArmRecord) -> str:
    words = []
    for stage in arm.plan["stages"]:
        enter = stage["enter"] or {}
        drawn = ", ".join(enter.get("reinitialize") or [])
        if kept := enter.get("keep_only"):
            drawn = f"all but {', '.join(kept)}"
        if drawn:
            other = enter.get("initializer") not in (None, "model")
            words.append(drawn + (f" (from {enter['initializer']})" if other else ""))
    return "; ".join(words) or "nothing"


def _redrawn(
    arm: ArmRecord, other: ArmRecord, summaries: Mapping[str, ArmSummary], confidence: float
) -> Redrawn:
    first, second = summaries[arm.name].values, summaries[other.name].values
    differences = [first[seed] - second[seed] for seed in first if seed in second]
    what = _drawn_words(arm)
    if not differences:
        return Redrawn(arm.name, what, None, None)
    test = paired_test(differences, confidence) if len(differences) > 1 else None
    return Redrawn(arm.name, what, test.mean if test else differences[0], test)


# ---- tokens of automata, by alphabet


@dataclass(frozen=True)
class Scaling:
    """The metric over tokens of automata of one alphabet: (tokens, arm, mean, interval)."""

    label: str
    points: list[tuple[int, str, float, Interval | None]]


def scalings(summaries: Mapping[str, ArmSummary], record: StudyRecord) -> list[Scaling]:
    """A line an alphabet; none unless arms differ in alphabet, and in tokens within one."""
    groups: dict[tuple[tuple[int, ...], str], list[ArmRecord]] = {}
    for split in (False, True):
        groups = {}
        for arm in record.arms.values():
            if arm.control is None and arm.lengthened is None and (states := _alphabets(arm)):
                key = (states, arm.written if split else "")
                groups.setdefault(key, []).append(arm)
        amounts = [[_automata(arm) for arm in arms] for arms in groups.values()]
        if all(len(set(found)) == len(found) for found in amounts):
            break  # else arms with as many tokens differ in something else: a line each
    lines = []
    for (states, written), arms in groups.items():
        alphabet = "+".join(map(str, states))
        label = f"{alphabet}, {written}" if written else f"{alphabet} states"
        points = [
            (_automata(arm), arm.name, summary.mean, summary.interval)
            for arm in arms
            if (summary := summaries[arm.name]).mean is not None
        ]
        if points:
            lines.append(Scaling(label, sorted(points)))
    alphabets = {states for states, _ in groups}
    spread = any(len({tokens for tokens, *_ in line.points}) > 1 for line in lines)
    return lines if spread and len(alphabets) > 1 else []


def _nca(arm: ArmRecord) -> dict[str, Json]:
    sources = by_name(arm.plan.get("sources", {}))
    return {s: facts for s, facts in sources.items() if facts.get("kind") == "nca"}


def _automata(arm: ArmRecord) -> int:
    return sum(arm.tokens.get(source, 0) for source in _nca(arm))


def _alphabets(arm: ArmRecord) -> tuple[int, ...]:
    found = [
        _ALPHABET.search(str(facts.get("summary", "")))
        for source, facts in _nca(arm).items()
        if arm.tokens.get(source)
    ]
    return tuple(sorted({int(match[1]) for match in found if match}))


# ---- tuning


@dataclass(frozen=True)
class Tuned:
    """An arm's runs to tune with. points: (name, values over the tuning's seeds, infinite where a
    run diverged) in the order of the grid. edge: settings of which the chosen value is the first
    or the last that was tried."""

    arm: str
    points: list[tuple[str, list[float]]]
    chosen: str | None
    edge: tuple[str, ...]


def tuned_arms(record: StudyRecord) -> list[Tuned]:
    """What was tuned, by arm; those that have not begun are left out."""
    if record.tuning is None:
        return []
    names: dict[str, list[str]] = record.tuning["points"]
    values: dict[tuple[str, str | None], list[float]] = {}
    for run in record.runs:
        if run.run.tuning and run.value is not None:
            values.setdefault((run.run.arm, run.run.point), []).append(run.value)
    found = []
    for arm in record.arms.values():
        points = [(name, values.get((arm.name, name), [])) for name in names]
        if any(of for _, of in points):
            edge = tuple(_edges(names, arm.chosen)) if arm.chosen in names else ()
            found.append(Tuned(arm.name, points, arm.chosen, edge))
    return found


def _edges(points: Mapping[str, Sequence[str]], chosen: str | None) -> list[str]:
    """The settings whose value at the chosen point is the least or the most of those tried."""
    tried: dict[str, set[float]] = {}
    own: dict[str, float] = {}
    for name, settings in points.items():
        for setting in settings:
            path, _, value = setting.partition("=")
            if (number := _NUMBER.match(value)) is None:
                continue  # no number has no edge
            tried.setdefault(path, set()).add(float(number[0]))
            if name == chosen:
                own[path] = float(number[0])
    return [
        path
        for path, value in own.items()
        if len(tried[path]) > 1 and value in (min(tried[path]), max(tried[path]))
    ]
