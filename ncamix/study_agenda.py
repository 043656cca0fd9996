"""The agenda of a study: its runs, as far as they are known by now, and their record.

    STUDY.yaml -> arms, planned -> runs to tune with -> each arm's point -> runs to compare
      -> study.json

All that is known of a study lies in its folder and follows from its file. study.json is the record
of what is compared; results are read from the runs' folders.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from ncamix import __version__
from ncamix.arms import Arm, arm_json, check_compared, laid_in, problems_of, study_facts
from ncamix.composition import Setting
from ncamix.conducting import RESULTS
from ncamix.errors import UserError
from ncamix.files import write_whole
from ncamix.plan import Plan
from ncamix.shares import Shard, share_of
from ncamix.study_edits import edits_of
from ncamix.study_plan import plan_study, planned_run
from ncamix.study_runs import (
    RECORD,
    StudyRun,
    best_point,
    command,
    final_value,
    from_json,
    read_json,
    state_of,
    study_run,
)
from ncamix.text_compilation import prepare_text
from ncamix.variants import LoadedStudy
from ncamix.waiting import Say

Key = tuple[str, int, str | None, bool]
Mine = Callable[[StudyRun], bool]


@dataclass
class Agenda:
    """The runs of a study, as far as they are known by now.

    A tuned arm's runs to compare are known once all its runs to tune with have a result: none of
    them as long as one has failed. Plans of runs are remembered by study.json: a study that is
    finished is not planned again.
    """

    loaded: LoadedStudy
    arms: dict[str, Arm]
    folder: Path
    say: Say
    _runs: dict[Key, StudyRun] = field(default_factory=dict)
    _recorded: dict[Key, StudyRun] = field(default_factory=dict)
    _homes: dict[str, str] = field(default_factory=dict)  # folders of runs, by fingerprint

    def __post_init__(self) -> None:
        self.points = self.loaded.tuning_points()
        with suppress(LookupError, TypeError, ValueError, AttributeError):  # a damaged record
            self._recorded = self._read()

    def _read(self) -> dict[Key, StudyRun]:
        """The runs of the record whose arms are planned as they were."""
        record = read_json(self.folder / RECORD)
        if record.get("version") != __version__:
            return {}
        alike = {
            arm.name
            for arm in self.arms.values()
            if record["arms"].get(arm.name, {}).get("fingerprint") == plan_of(arm).fingerprint
        }
        runs = [from_json(entry) for entry in record["runs"] if entry["arm"] in alike]
        return {(run.arm, run.seed, run.point, run.tuning): run for run in runs}

    def tuning(self) -> list[StudyRun]:
        """The runs to tune with."""
        tune = self.loaded.study.tune
        return [
            self._run(arm, seed, point, True)
            for arm in self._tuned()
            for point in self.points
            for seed in (tune.seeds if tune else ())
        ]

    def chosen(self, arm: Arm) -> tuple[bool, str | None]:
        """Whether it is known at which point an arm is compared, and that point: None where nothing
        is tuned, or every point diverges."""
        tune, compare = self.loaded.study.tune, self.loaded.study.compare
        if tune is None or compare is None:
            return True, None
        arm = self.arms[tuned_as(arm)]
        values: dict[str, list[float]] = {}
        metric = compare.metric
        for point in self.points:
            for seed in tune.seeds:
                run = self._run(arm, seed, point, True)
                if state_of(run, self.folder) not in RESULTS:
                    return False, None
                value = final_value(self.folder / run.folder, metric.name, metric.source)
                values.setdefault(point, []).append(value)
        return True, best_point(values)

    def untuned(self, arm: Arm) -> StudyRun | None:
        """A run to tune with that has failed, so that it is not known where an arm is compared."""
        name = tuned_as(arm)
        runs = (run for run in self.tuning() if run.arm == name)
        return next((run for run in runs if state_of(run, self.folder) == "failed"), None)

    def finals(self, provisional: bool = False) -> list[StudyRun]:
        """The runs to compare, seed by seed. provisional: also of arms whose point is not known
        yet, as if nothing were tuned."""
        found = []
        points = {arm.name: self.chosen(arm) for arm in self.arms.values()}
        for seed in self.loaded.study.seeds:
            for arm in self.arms.values():
                known, point = points[arm.name]
                if known and (point is not None or self.loaded.study.tune is None):
                    found.append(self._run(arm, seed, point, False))
                elif provisional and not known:
                    found.append(self._run(arm, seed, None, False))
        return found

    def known(self) -> list[StudyRun]:
        """All runs that are known by now, runs to tune with first."""
        return [*self.tuning(), *self.finals()]

    def expected(self) -> list[StudyRun]:
        """All runs, those that are not known yet as if nothing were tuned."""
        return [*self.tuning(), *self.finals(provisional=True)]

    def outline(self) -> list[StudyRun]:
        """All runs, as if nothing were tuned: the same ones, whatever is trained by now."""
        arms, seeds = self.arms.values(), self.loaded.study.seeds
        return [*self.tuning(), *(self._run(a, seed, None, False) for seed in seeds for a in arms)]

    def share(self, shard: Shard) -> Mine:
        """Which runs are of a share."""
        if shard.of == 1:
            return lambda run: True
        arms = {arm.name: tuned_as(arm) for arm in self.arms.values()}
        return share_of(self.outline(), shard, arms)

    def plan_of(self, run: StudyRun) -> Plan:
        """A run's plan, with exact lengths."""
        return self._plan(self.arms[run.arm], run.seed, self._point(run.point))

    def _plan(self, arm: Arm, seed: int, point: Sequence[Setting]) -> Plan:
        plan = planned_run(self.loaded, arm, seed, point, self.say)
        return prepare_text(plan, self.say) if plan.estimated else plan

    def _point(self, name: str | None) -> tuple[Setting, ...]:
        return self.points[name] if name is not None else ()

    def _tuned(self) -> list[Arm]:
        """Arms that are tuned: those of another length are compared at their arm's point."""
        return [a for a in self.arms.values() if self.loaded.study.tune and a.lengthened is None]

    def _run(self, arm: Arm, seed: int, point: str | None, tuning: bool) -> StudyRun:
        key = (arm.name, seed, point, tuning)
        if key not in self._runs:
            laid = (*self.loaded.settings, *laid_in(arm, seed, self._point(point)))
            settings = tuple(map(str, laid))
            run = self._recorded.get(key)
            if run is None or run.settings != settings:
                plan = self._plan(arm, seed, self._point(point))
                run = study_run(arm.name, seed, point, tuning, settings, plan)
            home = self._homes.setdefault(run.fingerprint, run.folder)
            self._runs[key] = replace(run, folder=home)
        return self._runs[key]


def tuned_as(arm: Arm) -> str:
    """The arm at whose point an arm is compared: of another length, its own arm."""
    return arm.lengthened or arm.name


def plan_of(arm: Arm) -> Plan:
    """The plan of an arm that has one, as all have in a study that runs."""
    assert arm.plan is not None
    return arm.plan


def open_study(loaded: LoadedStudy, folder: Path, say: Say) -> Agenda:
    """Plan a study whose folder is `folder`, new or not.

    Raises:
        UserError: arms that cannot be planned, with every problem; a setting of all runs that each
            has its own of.
    """
    _check_settings(loaded)
    arms = plan_study(loaded, say)
    problems = [*check_compared(loaded, arms), *problems_of(arms)]
    if problems:
        raise UserError(problems)
    return Agenda(loaded, {arm.name: arm for arm in arms}, folder, say)


def _check_settings(loaded: LoadedStudy) -> None:
    """Refuse `--set seed=...`, which the seed of every run would override."""
    for setting in loaded.settings:
        if setting.path[0] == "seed":
            remedy = "leave it out, and write the seeds to compare with under `seeds` in the study"
            raise setting.refused(0, "every run of a study has a seed of its own", remedy)


def write_record(agenda: Agenda) -> None:
    """Write study.json: what is compared, and the runs that are known by now."""
    loaded, folder = agenda.loaded, agenda.folder
    base, trainer = loaded.names
    arms = {}
    for arm in agenda.arms.values():
        known, point = agenda.chosen(arm)
        arms[arm.name] = {**arm_json(arm), "chosen": point, "tuned": known}
    runs = []
    for run in agenda.known():
        out = os.path.relpath(folder / run.folder, home_of(loaded))
        runs.append({**run.as_json(), "command": command(run, base, trainer, out)})
    file = folder / RECORD
    facts = study_facts(loaded, list(agenda.arms.values()))
    edits = edits_of(folder, read_json(file), {**facts, "arms": arms})
    record = {**facts, "version": __version__, "edits": edits, "arms": arms, "runs": runs}
    text = json.dumps(record, indent=1).encode()
    if not file.is_file() or file.read_bytes() != text:
        write_whole(folder / "study.yaml", loaded.document.text.encode())
        write_whole(file, text)


def home_of(loaded: LoadedStudy) -> Path:
    """The folder that a study's file lies in: relative paths in it start there, and its runs are
    started there."""
    return Path(loaded.document.file).absolute().parent
