"""`ncamix study`: trains what is missing of a study, and draws its report.

    agenda -> texts compiled once -> runs, as workers have room for them -> study.json, study.html

What is missing is seen in the study's folder, so a rerun goes on where the last one was stopped.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from ncamix.conducting import OVER, RESULTS, Conductor
from ncamix.errors import fail
from ncamix.files import write_whole
from ncamix.jobs import LocalWorkers, Workers, local_capacity
from ncamix.keys import fingerprint
from ncamix.quantities import counted
from ncamix.run_folder import TEST
from ncamix.shares import Shard
from ncamix.study_agenda import Agenda, Mine, home_of, open_study, plan_of, write_record
from ncamix.study_locks import held_study
from ncamix.study_progress import StudyProgress
from ncamix.study_runs import RECORD, StudyRun, arguments, read_json, state_to_train, why_failed
from ncamix.text_compilation import prepare_text
from ncamix.variants import LoadedStudy
from ncamix.waiting import Say, Waiting, WaitingIfLong

REPORT, RESULTS_FILE = "study.html", "results.json"
_REPORTED, _REPORT_LOCK = ".reported", ".report.lock"  # what the report is of; who draws it


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
    with (folder / _REPORT_LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another share may draw it: the later one knows more
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
