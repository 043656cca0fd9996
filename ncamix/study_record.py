"""The record of a study: what its folder says, read back.

study.json, RUN/summary.json, failed.json ... -> arms and the states of their runs
                                              -> the runs that can be shown, read on all cores
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ncamix.errors import fail
from ncamix.quantities import format_fraction
from ncamix.run_record import Json, by_name
from ncamix.run_results import RunResult, natural_sources, read_result, tested_sources
from ncamix.study_runs import (
    RECORD,
    State,
    StudyRun,
    final_value,
    from_json,
    read_json,
    state_of,
    why_failed,
)
from ncamix.verdicts import Comparison

CONTROLS = {
    "scratch_natural": "from scratch, as many natural tokens",
    "scratch_total": "from scratch, as many tokens in all",
    "scratch_steps": "from scratch, as many steps",
    "text": "text in place of automata",
    "text_x10": "ten times as much text in place of automata",
    "shuffled": "automata with their tokens shuffled",
    "permuted": "weights permuted within each tensor",
    "dyck_nested": "nested Dyck in place of automata",
    "dyck_shuffle": "shuffle Dyck in place of automata",
    "noise_uniform": "uniform noise in place of automata",
    "noise_zipf": "Zipf noise in place of automata",
}
Found = TypeVar("Found")


@dataclass(frozen=True)
class ArmRecord:
    """An arm as study.json has it. tokens: of each source. plan: of one of its runs, which all
    plan alike but for seeds; empty as long as none has begun."""

    name: str
    settings: tuple[str, ...] = ()
    written: str = ""
    control: str | None = None
    beside: str | None = None
    transition: bool = True
    length: float = 1.0
    lengthened: str | None = None
    same_as: str | None = None
    chosen: str | None = None
    num_tokens: int = 0
    natural_tokens: int = 0
    num_steps: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    plan: Json = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What sort of arm it is, in words."""
        if self.lengthened is not None:
            return f"{format_fraction(Fraction(str(self.length)))}x of {self.lengthened}"
        if self.control is None:
            return ""
        how = "" if self.transition else ", without the transition"
        return f"{CONTROLS.get(self.control, self.control)}{how}"


@dataclass(frozen=True)
class StudiedRun:
    """A run of a study: what it is, how far it is, why it failed, and what it came to so far.

    value: of a run to tune with, the metric at its end on the validation split, infinite if it
    diverged; None for others, and as long as it is not over. result: None of runs to tune with,
    and of those that have left nothing.
    """

    run: StudyRun
    path: Path
    command: str
    state: State
    why: str = ""
    value: float | None = None
    result: RunResult | None = None


@dataclass(frozen=True)
class StudyRecord:
    """A study and its runs. `compare` is None where nothing was declared; metric: what is shown,
    the one that was declared or else the first text's bits per byte. tuning: as in study.json."""

    name: str
    seeds: tuple[int, ...]
    arms: dict[str, ArmRecord]
    runs: list[StudiedRun]
    metric: str
    compare: Comparison | None = None
    tuning: Json | None = None
    facts: Json = field(default_factory=dict)
    text: str = ""
    remarks: list[str] = field(default_factory=list)

    @cached_property
    def finals(self) -> dict[str, dict[int, StudiedRun]]:
        """The runs to compare, by arm and seed; those of an arm that plans as another are its."""
        found: dict[str, dict[int, StudiedRun]] = {name: {} for name in self.arms}
        for run in self.runs:
            if not run.run.tuning and run.run.arm in found:
                found[run.run.arm][run.run.seed] = run
        for name, arm in self.arms.items():
            if arm.same_as in found and not found[name]:
                found[name] = found[arm.same_as]
        return found

    @property
    def confidence(self) -> float:
        return self.compare.confidence if self.compare else 0.95

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The seeds that an arm is to have: the study's, or those of its runs where there is none
        that declares them."""
        return self.seeds if self.facts else tuple(sorted(self.finals[arm]))

    def shown(self, arm: str) -> dict[int, RunResult]:
        """The results of an arm that are drawn, by seed: those of finished runs, or else of all
        that have begun."""
        runs = {s: r for s, r in self.finals[arm].items() if r.result is not None}
        over = {s: r for s, r in runs.items() if r.state == "finished"}
        return {seed: run.result for seed, run in (over or runs).items() if run.result is not None}

    def kinds(self) -> dict[str, str]:
        """The kind of every source of the study."""
        found: dict[str, str] = {}
        for arm in self.arms.values():
            for source, facts in by_name(arm.plan.get("sources", {})).items():
                found.setdefault(source, str(facts.get("kind", "")))
        return found


def is_study(folder: Path) -> bool:
    return (folder / RECORD).is_file()


def read_study(folder: Path) -> StudyRecord:
    """Read what a study has come to.

    Raises:
        UserError: study.json is damaged, or of another version of ncamix.
    """
    facts = read_json(folder / RECORD)
    try:
        seeds = tuple(int(seed) for seed in facts["seeds"])
        compare = _comparison(facts)
        runs = [(from_json(entry), str(entry["command"])) for entry in facts["runs"]]
        known = [
            StudiedRun(run, folder / run.folder, command, state_of(run, folder))
            for run, command in runs
        ]
        arms = {name: _arm(name, entry, known) for name, entry in facts["arms"].items()}
        metric = compare.metric if compare else first_metric(known)
    except (LookupError, TypeError, ValueError, AttributeError):
        what = "this is not the record of a study, or it is damaged"
        remedy = "run `ncamix study` again, which writes it anew: what is trained stays"
        raise fail(what, remedy, file=str(folder / RECORD)) from None
    file = folder / "study.yaml"
    text = file.read_text("utf-8", errors="replace") if file.is_file() else ""
    tuning = facts.get("tuning") or None
    record = StudyRecord(str(facts["name"]), seeds, arms, [], metric, compare, tuning, facts, text)
    return filled(record, known, folder)


def _comparison(facts: Json) -> Comparison | None:
    """What study.json says was declared."""
    compare = facts.get("compare")
    if not compare:
        return None
    speedup = compare.get("speedup") or {}
    arms: dict[str, Any] = facts["arms"]
    lengths = {
        of: [of, *(name for name, arm in arms.items() if arm.get("lengthened") == of)]
        for of in speedup.get("of", [])
    }
    first, second = compare["primary"]
    return Comparison(
        (first, second),
        str(compare["metric"]),
        float(compare["smallest_effect"]),
        float(compare["confidence"]),
        float(compare["power"]),
        compare["against"],
        speedup.get("to"),
        lengths,
        {
            name: arm["beside"]
            for name, arm in arms.items()
            if arm.get("beside") and not arm.get("lengthened")
        },
    )


def _arm(name: str, entry: Json, runs: Sequence[StudiedRun]) -> ArmRecord:
    own = [r for r in runs if r.run.arm in (name, entry.get("same_as")) and not r.run.tuning]
    plans = (read_json(run.path / "plan.json") for run in own if run.state != "missing")
    return ArmRecord(
        name,
        tuple(map(str, entry["settings"])),
        str(entry.get("written") or ""),
        entry.get("control"),
        entry.get("beside"),
        bool(entry.get("transition", True)),
        float(entry.get("length", 1)),
        entry.get("lengthened"),
        entry.get("same_as"),
        entry.get("chosen"),
        int(entry.get("num_tokens", 0)),
        int(entry.get("natural_tokens", 0)),
        int(entry.get("num_steps", 0)),
        {source: int(n) for source, n in entry.get("tokens", {}).items()},
        tuple(map(str, entry.get("warnings", []))),
        next((plan for plan in plans if "stages" in plan), {}),
    )


def first_metric(runs: Sequence[StudiedRun]) -> str:
    """The metric to show where none was declared: of the first text, in bits per byte if it has
    any."""
    for run in runs:
        plan = read_json(run.path / "plan.json") if run.state != "missing" else {}
        sources = natural_sources(plan) if plan else []
        for source in (*sources, *by_name(plan.get("sources", {}))):
            tested = tested_sources(run.path).get(source, {})
            bits = tested.get("bits_per_byte") is not None
            if tested or source in sources:
                text = by_name(plan["sources"])[source].get("kind") == "text"
                return f"{'bits_per_byte' if bits or (text and not tested) else 'loss'}/{source}"
    return "loss/"


def filled(record: StudyRecord, runs: Sequence[StudiedRun], folder: Path) -> StudyRecord:
    """A record with what its runs, in a folder, have come to."""

    def result(run: StudiedRun) -> RunResult | None:
        plan = read_json(run.path / "plan.json")
        return read_result(run.path, plan, record.metric) if "stages" in plan else None

    some = [run for run in runs if not run.run.tuning and run.state != "missing"]
    unique = list({run.path: run for run in some}.values())
    cache = dict(zip((run.path for run in unique), _on_all_cores(result, unique), strict=True))
    name, _, source = record.metric.partition("/")
    for run in runs:
        why, value = "", None
        if run.state in ("failed", "diverged"):
            why = why_failed(run.run, folder) or run.state
        if run.run.tuning and run.state in ("finished", "diverged", "failed"):
            value = final_value(run.path, name, source)
        found = cache.get(run.path) if not run.run.tuning else None
        record.runs.append(StudiedRun(run.run, run.path, run.command, run.state, why, value, found))
        if found is not None:
            record.remarks.extend(f"{run.run.name}: {remark}" for remark in found.remarks)
    return record


def _on_all_cores(work: Callable[[StudiedRun], Found], runs: Sequence[StudiedRun]) -> list[Found]:
    """What `work` makes of every run, in threads: reading logs lets go of the interpreter."""
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        return list(pool.map(work, runs))
