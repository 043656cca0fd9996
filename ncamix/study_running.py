"""`ncamix study`: from a study's file to its runs, its record and its report.

    STUDY.yaml -> arms, planned -> texts compiled once -> runs to tune with -> each arm's point
      -> runs to compare -> study.json, study.html

All that is known of a study lies in its folder and follows from its file: a rerun trains what is
missing. `study.json` is the record of what is compared; results are read from the runs' folders.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from ncamix import __version__
from ncamix.arms import Arm, arm_json, check_compared, laid_in, problems_of, study_facts
from ncamix.composition import Setting
from ncamix.conducting import OVER, RESULTS, Conductor
from ncamix.errors import UserError, fail
from ncamix.files import write_whole
from ncamix.jobs import LocalWorkers, Workers, local_capacity
from ncamix.keys import fingerprint
from ncamix.plan import Plan
from ncamix.quantities import counted
from ncamix.run_folder import TEST
from ncamix.shares import Shard, share_of
from ncamix.study_edits import edits_of
from ncamix.study_locks import held_study
from ncamix.study_plan import plan_study, planned_run
from ncamix.study_progress import StudyProgress
from ncamix.study_runs import (
    StudyRun,
    arguments,
    best_point,
    command,
    final_value,
    from_json,
    read_json,
    state_of,
    state_to_train,
    study_run,
    why_failed,
)
from ncamix.text_compilation import prepare_text
from ncamix.variants import LoadedStudy
from ncamix.waiting import Say, Waiting, WaitingIfLong

RECORD, REPORT, RESULTS_FILE = "study.json", "study.html", "results.json"
_REPORTED = ".reported"  # what the report is of

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


def train_study(
    agenda: Agenda,
    make_workers: Callable[[], Workers],
    ranks: int | None,
    shard: Shard,
    console: Console,
) -> int:
    """Train what is missing of a study, or of a share of it, and write its report; the status of
    the command: 0, or 2 if runs have failed, or the share is not finished for another reason.
    ranks: that train together in each run; None is 1.

    Raises:
        UserError: the folder is not a study's or is being worked in, or a text cannot be compiled.
    """
    with held_study(agenda.folder, shard, identity(agenda.loaded)):
        agenda = _with_exact_lengths(agenda, console)
        mine = agenda.share(shard)
        if any(
            state_to_train(run, agenda.folder) not in RESULTS
            for run in agenda.expected()
            if mine(run)
        ):
            with WaitingIfLong(console) as say:
                _prepare_texts(agenda, say)
            _train(agenda, make_workers(), ranks, mine, console)
        write_record(agenda)
        return _finish(agenda, mine, console)


def _with_exact_lengths(agenda: Agenda, console: Console) -> Agenda:
    """The agenda once texts are compiled, if a stage's length counts their epochs: controls are as
    long as the arms that they stand beside."""
    if not any(plan_of(arm).estimated for arm in agenda.arms.values()):
        return agenda
    with WaitingIfLong(console) as say:
        _prepare_texts(agenda, say)
        return open_study(agenda.loaded, agenda.folder, say)


def _train(
    agenda: Agenda, workers: Workers, ranks: int | None, mine: Mine, console: Console
) -> None:
    """Train what is missing of a share."""
    base, trainer = agenda.loaded.names
    together = ("--ranks", str(ranks)) if ranks is not None else ()

    def arguments_of(run: StudyRun) -> tuple[str, ...]:
        return (*arguments(run, base, trainer, str(agenda.folder / run.folder)), *together)

    def totals() -> tuple[int, int, int, int]:
        runs = {run.fingerprint: run for run in agenda.expected() if mine(run)}.values()
        over = [run for run in runs if conductor.is_over(run)]
        tokens = (sum(run.num_tokens for run in some) for some in (over, runs))
        return len(over), next(tokens), len(runs), next(tokens)

    def pending() -> list[StudyRun]:
        write_record(agenda)
        return [run for run in agenda.known() if mine(run) and not conductor.is_over(run)]

    with ExitStack() as held:
        held.callback(workers.stop)
        progress = held.enter_context(StudyProgress(console, agenda.folder, totals))
        cwd, say = home_of(agenda.loaded), progress.say
        conductor = Conductor(agenda.folder, cwd, workers, agenda.plan_of, arguments_of, say)
        conductor.add(run for run in agenda.known() if mine(run))
        conductor.conduct(pending, progress.update)


def identity(loaded: LoadedStudy) -> str:
    """What a study says, as a fingerprint: processes that train it together agree on it."""
    laid = [str(setting) for setting in loaded.settings]
    trainer = Path(loaded.names[1]).name  # hosts may find it elsewhere
    return fingerprint({"file": loaded.document.tree.plain(), "trainer": trainer, "settings": laid})


def home_of(loaded: LoadedStudy) -> Path:
    """The folder that a study's file lies in: relative paths in it start there, and its runs are
    started there."""
    return Path(loaded.document.file).absolute().parent


def _prepare_texts(agenda: Agenda, say: Say) -> None:
    """Compile every text of the study, each once, so that no two runs wait for each other."""
    seen: set[str] = set()
    for arm in agenda.arms.values():
        plan = plan_of(arm)
        texts = {s.fingerprint for s in plan.sources.values() if s.text is not None}
        if not texts <= seen:
            prepare_text(plan, say)
            seen |= texts


def _finish(agenda: Agenda, mine: Mine, console: Console) -> int:
    """Write the report, unless nothing has changed since; say what failed and what came out. The
    status of the command."""

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    folder = agenda.folder
    runs = {run.fingerprint: run for run in agenda.expected()}.values()
    states = {run.folder: state_to_train(run, folder) for run in runs}
    tested = {run.folder: _digest(folder / run.folder / TEST) for run in runs}
    facts = {"states": states, "tested": tested, "record": (folder / RECORD).read_text()}
    digest = fingerprint(facts)
    report, mark = folder / REPORT, folder / _REPORTED
    if not report.is_file() or not mark.is_file() or mark.read_text() != digest:
        from ncamix.study_report import write_study_report

        with Waiting(console, "drawing the report"):
            write_study_report(folder)
        write_whole(mark, digest.encode())
    for run in runs:
        if states[run.folder] in ("failed", "diverged"):
            say(f"{run.name}: {states[run.folder]}: {why_failed(run, folder)}")
    for arm in agenda.arms.values():
        if failed := agenda.untuned(arm):
            say(
                f"{arm.name} is not compared: its tuning is not over, since {failed.name} has "
                "failed; the next command tries that again"
            )
    missing = sum(state not in OVER for state in states.values())
    name, all_runs = agenda.loaded.study.name, counted(len(states), "run")
    told = f"{missing} of {all_runs} are still to be trained" if missing else f"{all_runs} are over"
    for line in read_json(folder / RESULTS_FILE).get("answer", []):
        say(line)
    say(f"{name}: {told}; see {os.path.relpath(report)}")
    own = [run for run in runs if mine(run)]
    return 2 if any(states[run.folder] not in RESULTS for run in own) else 0


def _digest(file: Path) -> str:
    """What tells a file's bytes from others; nothing where there is none."""
    try:
        return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
    except OSError:
        return ""


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
    edits = edits_of(folder, read_json(file), facts)
    record = {**facts, "version": __version__, "edits": edits, "arms": arms, "runs": runs}
    text = json.dumps(record, indent=1).encode()
    if not file.is_file() or file.read_bytes() != text:
        write_whole(folder / "study.yaml", loaded.document.text.encode())
        write_whole(file, text)


def check_place(on: str | None) -> None:
    """Raise UserError if `--on` names nothing that is known."""
    if on is not None and on.partition(":")[0] != "ray":
        raise fail(f"--on {on}: only Ray is known", "write --on ray, or --on ray://HOST:PORT")


def make_workers(
    agenda: Agenda, on: str | None, num_jobs: int | None, ranks: int | None
) -> Workers:
    """Who trains, each run on so many ranks: this machine, or the Ray cluster that `on` names, as
    `check_place` takes it. Raises UserError where there is none."""
    if on is None:
        capacity = local_capacity(num_jobs, ranks)
        return LocalWorkers(capacity.num_jobs, capacity.threads, capacity.gpus)
    from ncamix.ray_jobs import RayWorkers

    return RayWorkers(on, agenda.folder, home_of(agenda.loaded), ranks or 1, num_jobs)
