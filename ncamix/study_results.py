"""The results of a study: its findings, the values of its arms, and both in words.

    record -> values of finished runs on the test split -> findings; a row an arm

A run that finished without test.json has no value, and nothing else is taken in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ncamix.findings import ArmSummary, Finding, Findings, Results, findings
from ncamix.quantities import counted
from ncamix.run_record import Json
from ncamix.speedups import CLOCKS
from ncamix.study_edits import declared_in
from ncamix.study_effects import Redrawing, Scaling, Tuned, redrawings, scalings, tuned_arms
from ncamix.study_record import ArmRecord, StudiedRun, StudyRecord
from ncamix.study_sources import Frequencies, Structure, frequencies, structures
from ncamix.verdicts import NO_NATURAL, UNTUNED, unit_of

NAMED = 6  # arms at most that a remark names


@dataclass(frozen=True)
class ArmRow:
    """An arm in the table of values."""

    arm: ArmRecord
    summary: ArmSummary
    untested: tuple[int, ...]  # seeds that finished without test.json


@dataclass(frozen=True)
class StudyResults:
    """A study's record, and what comes of it."""

    record: StudyRecord
    findings: Findings
    rows: list[ArmRow]
    redrawings: list[Redrawing] = field(default_factory=list)
    scalings: list[Scaling] = field(default_factory=list)
    tuned: list[Tuned] = field(default_factory=list)
    structures: list[Structure] = field(default_factory=list)
    frequencies: list[Frequencies] = field(default_factory=list)

    @property
    def reference(self) -> str | None:
        """The arm that variants are held against."""
        return self.record.compare.other if self.record.compare else None

    @property
    def comparisons(self) -> list[Finding]:
        """All that was compared, the primary comparison first."""
        primary = self.findings.primary
        return [*([primary] if primary else []), *self.findings.others]

    @property
    def untested(self) -> list[StudiedRun]:
        """Runs that finished without test.json."""
        return [
            run
            for row in self.rows
            for seed, run in self.record.finals[row.arm.name].items()
            if seed in row.untested and not row.arm.same_as
        ]


def results_of(record: StudyRecord) -> StudyResults:
    """What a study's record says of what was declared."""
    found = _found(record)
    summaries = {summary.arm: summary for summary in found.arms}
    rows = []
    for name, arm in record.arms.items():
        untested = tuple(
            seed
            for seed, run in record.finals[name].items()
            if run.state == "finished" and seed not in summaries[name].values
        )
        rows.append(ArmRow(arm, summaries[name], untested))
    return StudyResults(
        record,
        found,
        rows,
        redrawings(record, summaries),
        scalings(summaries, record),
        tuned_arms(record),
        structures(record),
        frequencies(record),
    )


def _found(record: StudyRecord) -> Findings:
    """What is found of every arm. Of several runs that are no study's, nothing is compared."""
    given = _given(record)
    if record.facts:
        return findings(given, list(record.arms), record.seeds, record.compare)
    alone = [findings(given, [name], record.seeds_of(name), None).arms[0] for name in record.arms]
    remarks = [f"{arm.arm}, seed {s}: {why}" for arm in alone for s, why in arm.failed.items()]
    return Findings(None, [], [], alone, remarks)


def _given(record: StudyRecord) -> Results:
    """The figures of finished runs, as findings take them."""
    name, _, source = record.metric.partition("/")
    given: dict[str, dict[str, dict[int, Any]]] = {}
    for arm, runs in record.finals.items():
        for seed, run in runs.items():
            if run.state in ("failed", "diverged"):
                given.setdefault("failed", {}).setdefault(arm, {})[seed] = run.why
            if run.state != "finished" or run.result is None:
                continue
            result, planned = run.result, record.arms[arm]
            value = result.tested.get(source, {}).get(name)
            figures = {
                "values": value if isinstance(value, int | float) else None,
                "documents": result.documents,
                CLOCKS[0]: planned.natural_tokens or None,
                CLOCKS[1]: planned.num_tokens or None,
            }
            for kind, figure in figures.items():
                if figure is not None:
                    given.setdefault(kind, {}).setdefault(arm, {})[seed] = figure
    same = {name: arm.same_as for name, arm in record.arms.items() if arm.same_as is not None}
    tokens = {clock: given.get(clock, {}) for clock in CLOCKS}
    values, documents, failed = (given.get(kind, {}) for kind in ("values", "documents", "failed"))
    return Results(values, documents, failed, tokens, same)


# ---- words


def answer(results: StudyResults) -> list[str]:
    """What came out, in a sentence or two."""
    primary = results.findings.primary
    if primary is None:
        return ["Nothing was declared to be compared before these ran, so nothing is tested."]
    lines = [primary.words]
    for finding in results.findings.others:
        both = (finding.arm, finding.other)
        if both == (primary.arm, results.reference) and finding.test is not None:
            lines.append(finding.words)
    return lines


def question(record: StudyRecord) -> str:
    """What was declared, as a question."""
    compare = record.compare
    if compare is None:
        return f"No comparison was declared; shown is {unit_of(record.metric)} on the test split."
    first, second = compare.primary
    words = (
        f"Do {first} and {second} end at different {unit_of(compare.metric)} on the test split, "
        f"with {counted(len(record.seeds), 'seed')}? {compare.smallest_effect:g} would matter."
    )
    if compare.other != second:
        words += f" Other variants are held against {compare.other}."
    several = dict.fromkeys(compare.beside.values())
    if len(several) == 1:
        words += f" {next(iter(several))} is held against each of its controls."
    elif several:
        words += " Variants that have controls are held against each of them."
    return words


def missing_words(record: StudyRecord) -> list[str]:
    """What is missing of a study that is not finished, a line an arm."""
    lines = []
    for name, arm in record.arms.items():
        runs = record.finals[name]
        begun = [seed for seed, run in runs.items() if run.state == "begun"]
        absent = [s for s in record.seeds_of(name) if s not in runs or runs[s].state == "missing"]
        parts = [f"{_seeds(begun)} under way or interrupted"] if begun else []
        parts += [f"{_seeds(absent)} not begun"] if absent else []
        if parts and arm.same_as is None:
            lines.append(f"{name}: {', '.join(parts)}")
    tuning = [run for run in record.runs if run.run.tuning]
    left = sum(run.state in ("begun", "missing") for run in tuning)
    if left:
        lines.append(f"tuning: {left} of {counted(len(tuning), 'run')} are still to be trained")
    return lines


def _seeds(seeds: Sequence[int]) -> str:
    return f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"


def study_remarks(results: StudyResults) -> list[str]:
    """What its readers should know beside what was found."""
    record = results.record
    return [
        *design_remarks(record),
        *edit_remarks(record),
        *tuning_remarks(results),
        *record.remarks,
    ]


def design_remarks(record: StudyRecord) -> list[str]:
    """What a study's design leaves open, whatever came out."""
    remarks = []
    if record.facts and record.tuning is None:
        remarks.append(UNTUNED)
    alone = [arm for arm in record.arms.values() if 0 < arm.natural_tokens == arm.num_tokens]
    if record.compare and not alone:
        remarks.append(NO_NATURAL)
    return remarks


def edit_remarks(record: StudyRecord) -> list[str]:
    """What was declared otherwise until runs had finished: whoever declares a comparison after its
    results may have chosen by them."""
    edits = record.facts.get("edits", [])
    remarks = []
    for edit, later in zip(edits, [*edits, record.facts][1:], strict=True):
        if edit["num_finished"] > 0:
            was = ", ".join(_otherwise(declared_in(edit), declared_in(later)))
            runs = counted(edit["num_finished"], "run")
            remarks.append(f"declared anew on {edit['when'][:10]}, with {runs} finished: was {was}")
    return remarks


def _otherwise(before: Json, after: Json) -> list[str]:
    """What a declaration said that the next one says otherwise."""
    told = [f"seeds {before['seeds']}"] if before["seeds"] != after["seeds"] else []
    arms, others = before.get("arms", {}), after.get("arms", {})
    common = [name for name in arms if name in others]
    changed = [name for name in common if arms[name] != others[name]]
    if changed:
        several = changed if len(changed) <= NAMED else [f"{len(changed)} of {len(common)} arms"]
        told.append(f"{', '.join(several)} planned otherwise")
    tuning = before.get("tuning")
    if before.keys() & after.keys() >= {"tuning"} and tuning != after["tuning"]:
        points = f"{', '.join(tuning['points'])} with seeds {tuning['seeds']}" if tuning else ""
        told.append(f"tuned over {points}" if tuning else "not tuned")
    was, now = before["compare"], after["compare"] or {}
    if was == now or (was is None and not now):
        return told
    if was is None:
        return [*told, "nothing compared"]
    return told + [f"{key} {was[key]}" for key in was if was[key] != now.get(key)]


def tuning_remarks(results: StudyResults) -> list[str]:
    """Chosen values on the edge of what was tried, and runs to tune with that diverged."""
    by_setting: dict[str, list[str]] = {}
    for tuned in results.tuned:
        for path in tuned.edge:
            by_setting.setdefault(path, []).append(tuned.arm)
    of = counted(len(results.tuned), "arm")
    return [
        f"{path}: the value chosen is the first or the last that was tried for "
        f"{', '.join(arms) if len(arms) <= NAMED else f'{len(arms)} of {of}'}; a wider grid may "
        "give a better one"
        for path, arms in by_setting.items()
    ]
