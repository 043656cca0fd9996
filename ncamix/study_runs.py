"""The runs of a study: an arm, a seed, maybe a point of the tuning; each a folder and a command.

    arms (planned) x seeds          -> runs to compare, once the arm's point is chosen
    arms x points x tuning seeds    -> runs to tune with
    a run's folder                  -> its state: finished, diverged, failed, begun or missing

A run is known by its plan's fingerprint. Two with the same are one: it is trained once.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ncamix.run_folder import DIVERGED, TEST

if TYPE_CHECKING:  # a report reads the record of runs, and needs nothing that plans or trains
    from ncamix.forking import Stages
    from ncamix.plan import Plan

RECORD = "study.json"  # in a study's folder: what is compared, and its runs
FAILED = "failed.json"  # in a run's folder: why it ended in an error
TUNING = "tuning"  # the folder of runs to tune with

State = Literal["finished", "diverged", "failed", "begun", "missing"]


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    folder: within the study's. settings: all that is laid over base and trainer, as `--set` takes
    it. stages: (name, batches); tokens: of each stage. beginnings: what the run has in common with
    others up to the end of its first, second, ... stage, the last one left out.
    """

    arm: str
    seed: int
    point: str | None
    folder: str
    settings: tuple[str, ...]
    fingerprint: str
    stages: Stages
    tokens: tuple[int, ...]
    beginnings: tuple[str, ...]
    tuning: bool = False

    @property
    def name(self) -> str:
        """In words: `up, seed 1`."""
        tuned = f" at {self.point}" if self.tuning else ""
        return f"{self.arm}{tuned}, seed {self.seed}"

    @property
    def num_tokens(self) -> int:
        return sum(self.tokens)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def study_run(
    arm: str, seed: int, point: str | None, tuning: bool, settings: tuple[str, ...], plan: Plan
) -> StudyRun:
    """The run that a plan is of."""
    home = f"{TUNING}/{arm}/{point}/{seed}" if tuning else f"{arm}/{seed}"
    return StudyRun(
        arm,
        seed,
        point,
        home,
        settings,
        plan.fingerprint,
        tuple((stage.name, stage.num_batches) for stage in plan.stages),
        tuple(stage.num_tokens for stage in plan.stages),
        tuple(plan.beginning(n) for n in range(1, len(plan.stages))),
        tuning,
    )


def from_json(entry: Mapping[str, Any]) -> StudyRun:
    """A run as study.json has it. Raises KeyError, TypeError or ValueError if it is none."""
    return StudyRun(
        str(entry["arm"]),
        int(entry["seed"]),
        entry["point"],
        str(entry["folder"]),
        tuple(map(str, entry["settings"])),
        str(entry["fingerprint"]),
        tuple((str(name), int(batches)) for name, batches in entry["stages"]),
        tuple(map(int, entry["tokens"])),
        tuple(map(str, entry["beginnings"])),
        bool(entry["tuning"]),
    )


def arguments(run: StudyRun, base: str, trainer: str, folder: str) -> tuple[str, ...]:
    """The arguments of `ncamix` that train a run, from the study's file's folder."""
    settings = [word for setting in run.settings for word in ("--set", setting)]
    return ("run", base, "--trainer", trainer, *settings, "--out", folder)


def command(run: StudyRun, base: str, trainer: str, folder: str) -> str:
    """The same as a line for a shell."""
    return shlex.join(["ncamix", *arguments(run, base, trainer, folder)])


def state_of(run: StudyRun, study: Path) -> State:
    """How far a run has come, by its folder."""
    folder = study / run.folder
    if is_finished(folder, run.fingerprint):
        return "finished"
    if _names(folder / DIVERGED, run.fingerprint):
        return "diverged"
    if _names(folder / FAILED, run.fingerprint):
        return "failed"
    return "begun" if _names(folder / "plan.json", run.fingerprint) else "missing"


def state_to_train(run: StudyRun, study: Path) -> State:
    """The same to whom trains it: a run to compare has not ended without figures of its test."""
    state = state_of(run, study)
    return "begun" if state == "finished" and lacks_test(run, study) else state


def lacks_test(run: StudyRun, study: Path) -> bool:
    """Whether the test.json of a run to compare is missing, or damaged."""
    return not run.tuning and "sources" not in read_json(study / run.folder / TEST)


def why_failed(run: StudyRun, study: Path) -> str:
    """In words, why a run of the study has no result."""
    folder = study / run.folder
    for file in (DIVERGED, FAILED):
        facts = read_json(folder / file)
        if facts.get("fingerprint") == run.fingerprint:
            return str(facts.get("what", file))
    return ""


def is_finished(folder: Path, fingerprint: str) -> bool:
    """Whether a folder holds the finished run of that plan."""
    summary = read_json(folder / "summary.json")
    return summary.get("plan_fingerprint") == fingerprint


def _names(file: Path, fingerprint: str) -> bool:
    return read_json(file).get("fingerprint") == fingerprint


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object in a file; empty where there is none, or it is damaged."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def final_value(folder: Path, metric: str, source: str) -> float:
    """What a finished run came to on the validation split, at the end of its last stage; infinity
    if it has not said so in a finite number."""
    try:
        stages = read_json(folder / "summary.json")["stages"]
        value = float(stages[-1]["evaluation"][source]["after"][metric])
    except (LookupError, TypeError, ValueError):
        return math.inf
    return value if math.isfinite(value) else math.inf


def tested_value(folder: Path, metric: str, source: str) -> float | None:
    """What a finished run came to on the test split; None if it was not tested."""
    try:
        value = float(read_json(folder / TEST)["sources"][source][metric])
    except (LookupError, TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def best_point(values: Mapping[str, Sequence[float]]) -> str | None:
    """The point with the lowest mean over the tuning's seeds, the first of equals; None if none has
    a finite one. A run that diverged counts as infinity."""
    means = {point: math.fsum(found) / len(found) for point, found in values.items() if found}
    best = min(means, key=lambda point: means[point], default=None)
    return best if best is not None and math.isfinite(means[best]) else None


def shared_tokens(runs: Iterable[StudyRun]) -> tuple[int, int]:
    """Tokens of runs in all, and tokens to train where what begins alike is trained once."""
    total, needed, seen = 0, 0, set[str]()
    for run in {run.fingerprint: run for run in runs}.values():
        total += run.num_tokens
        keys = (*run.beginnings, run.fingerprint)
        for key, tokens in zip(keys, run.tokens, strict=True):
            needed += tokens if key not in seen else 0
            seen.add(key)
    return total, needed
