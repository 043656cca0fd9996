"""Conducting: the runs of a study, several at once, each trained one time and none in vain.

    runs that are not over -> those that may begin -> forked or resumed -> workers -> over

A run waits while another trains what both begin with, and goes on from there. Which run comes next
depends on what is over, never on time, so a study that is stopped goes on as it would have.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ncamix.disk import FULL, free_bytes
from ncamix.errors import fail
from ncamix.files import RUN_LOCK, write_whole
from ncamix.forking import drop_checkpoints, finished_stages, fork
from ncamix.jobs import Done, Job, Workers, is_held
from ncamix.locks import lock_own
from ncamix.plan import Plan
from ncamix.quantities import counted
from ncamix.run_folder import TEST
from ncamix.study_runs import FAILED, State, StudyRun, state_of, state_to_train

RESULTS = ("finished", "diverged")  # states of runs that have a result
OVER = (*RESULTS, "failed")  # and of those that this command does not go on with
TRIES = 3  # of a run whose process dies; what ends with a message is not tried again
_TICK = 1.0  # seconds between two looks at what runs
_ROOM = 1 << 16  # bytes without which not even a log is written
_MESSAGE = 2  # the status of a run that says what is wrong


@dataclass
class Conductor:
    """Trains runs of the study in `folder` with `workers`.

    plan_of: plans a run. arguments_of: those of `ncamix` that train it, from the folder `cwd`. say:
    tells people a line.
    """

    folder: Path
    cwd: Path
    workers: Workers
    plan_of: Callable[[StudyRun], Plan]
    arguments_of: Callable[[StudyRun], tuple[str, ...]]
    say: Callable[[str], None]
    states: dict[str, State] = field(default_factory=dict)  # by fingerprint
    running: dict[str, StudyRun] = field(default_factory=dict)
    _known: dict[str, StudyRun] = field(default_factory=dict)
    _provided: dict[str, tuple[StudyRun, int]] = field(default_factory=dict)
    _tries: dict[str, int] = field(default_factory=dict)

    def add(self, runs: Iterable[StudyRun]) -> None:
        """Make runs known; what is over of them stays so, but for failures, which are tried again.
        Runs of one fingerprint are one."""
        for run in runs:
            if run.fingerprint in self._known:
                continue
            self._known[run.fingerprint] = run
            if state_of(run, self.folder) == "failed":
                (self.folder / run.folder / FAILED).unlink(missing_ok=True)
            state = state_to_train(run, self.folder)
            self.states[run.fingerprint] = state
            if state != "missing":
                self._look(run)

    def is_over(self, run: StudyRun) -> bool:
        return self.states.get(run.fingerprint) in OVER

    def conduct(
        self,
        pending: Callable[[], Sequence[StudyRun]],
        progress: Callable[[Sequence[StudyRun]], None],
    ) -> None:
        """Train until nothing is pending.

        pending: the runs that are to be trained as far as is known by now, in the order in which
        they should be; asked again whenever one is over. progress: called now and then with what is
        running.

        Raises:
            UserError: a run has ended since a disk is full, as those after it would.
        """
        try:
            self._conduct(pending, progress)
        except KeyboardInterrupt:
            if self.running:
                runs = counted(len(self.running), "run")
                self.say(f"stopping: waiting for {runs} to save their state")
            raise

    def _conduct(
        self,
        pending: Callable[[], Sequence[StudyRun]],
        progress: Callable[[Sequence[StudyRun]], None],
    ) -> None:
        queue = self._add(pending())
        while queue or self.running:
            for run in queue:
                if not self.workers.free:
                    break
                if run.fingerprint not in self.running and not self._waits(run):
                    self._start(run)
            if not self.running:
                break
            progress(list(self.running.values()))
            ended = self.workers.wait(_TICK)
            for done in ended:
                self._end(done)
            for run in self.running.values():
                self._look(run)
            if ended:
                queue = self._add(pending())
        progress([])

    def _add(self, runs: Sequence[StudyRun]) -> list[StudyRun]:
        self.add(runs)
        first = {run.fingerprint: run for run in reversed(runs)}
        return [run for run in dict.fromkeys(first[r.fingerprint] for r in runs) if self._open(run)]

    def _open(self, run: StudyRun) -> bool:
        return not self.is_over(run)

    def _waits(self, run: StudyRun) -> bool:
        """Whether a run that trains now is at what this one begins with."""
        ahead = {key for other in self.running.values() for key in other.beginnings}
        return any(key in ahead and key not in self._provided for key in run.beginnings)

    def _look(self, run: StudyRun) -> None:
        """See which beginnings a run's folder provides by now."""
        missing = [key for key in run.beginnings if key not in self._provided]
        if missing and state_of(run, self.folder) in ("begun", "finished"):
            done = finished_stages(self.folder / run.folder, run.stages)
            for number, key in enumerate(run.beginnings[:done], 1):
                self._provided.setdefault(key, (run, number))

    def _start(self, run: StudyRun) -> None:
        folder = self.folder / run.folder
        state = state_of(run, self.folder)
        arguments = self.arguments_of(run)
        if state == "finished":  # and not tested, or else it would not begin
            self.say(f"{run.name}: is tested again, since its {TEST} is missing or damaged")
            (folder / TEST).unlink(missing_ok=True)
        if state == "missing" and (folder / "plan.json").is_file():
            self.say(f"{run.name}: planned otherwise than before; the old run is moved aside")
            arguments = (*arguments, "--fresh")
        elif state == "missing":
            if (
                folder.is_dir()
                and {p.name for p in folder.iterdir()} <= {RUN_LOCK, FAILED}
                and not is_held(folder)
            ):
                shutil.rmtree(folder)  # a failure was noted there, and nothing else
            if not folder.exists():
                self._fork(run, folder)
        log = self.folder / "logs" / f"{run.folder.replace('/', '-')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        self.running[run.fingerprint] = run
        self.workers.start(Job(run.name, arguments, folder, self.cwd, log))

    def _fork(self, run: StudyRun, folder: Path) -> None:
        """Have a run begin where another of the study has got to, if one has."""
        for number, key in reversed(list(enumerate(run.beginnings, 1))):
            if key not in self._provided:
                continue
            donor, _ = self._provided[key]
            home = self.folder / donor.folder
            if finished_stages(home, donor.stages) < number:  # removed since
                del self._provided[key]
                continue
            fork(home, self.plan_of(run), number, folder)
            stages = ", ".join(name for name, _ in run.stages[:number])
            self.say(f"{run.name}: goes on from {donor.name} after {stages}")
            return

    def _end(self, done: Done) -> None:
        """What becomes of a run whose process has ended."""
        run = next(r for r in self.running.values() if self.folder / r.folder == done.job.folder)
        del self.running[run.fingerprint]
        state = state_to_train(run, self.folder)
        if state not in RESULTS:
            if _met_a_full_disk(done, self.folder):
                raise fail(
                    f"a disk is full, and no further run is started: {run.name} ended with "
                    f"'{_first_line(done.said)}'",
                    "make room, and run the same command again to continue",
                )
            tries = self._tries[run.fingerprint] = self._tries.get(run.fingerprint, 0) + 1
            if done.status not in (0, _MESSAGE) and tries < TRIES:
                self.say(f"{run.name}: its process ended with {done.status}; it goes on")
                return
            self._note_failure(run, done)
            state = "failed"
            self.say(f"{run.name}: failed: {_first_line(done.said)}")
        elif state == "diverged":
            self.say(f"{run.name}: diverged: {_first_line(done.said)}")
        self.states[run.fingerprint] = state
        self._look(run)
        self._prune()

    def _note_failure(self, run: StudyRun, done: Done) -> None:
        """Note in a run's folder that it failed; not in one that another process owns, whose run
        has not failed."""
        folder = self.folder / run.folder
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / RUN_LOCK).open("ab") as lock:  # made: it is a run's, whatever is there
            if lock_own(lock, folder / RUN_LOCK):
                what = _first_line(done.said)
                facts = {"fingerprint": run.fingerprint, "what": what, "log": done.said}
                write_whole(folder / FAILED, json.dumps(facts, indent=1).encode())

    def _prune(self) -> None:
        """Drop the training states of finished runs that no other will go on from."""
        open_keys = {
            key for run in self._known.values() if not self.is_over(run) for key in run.beginnings
        }
        for run in self._known.values():
            if self.states[run.fingerprint] != "finished":
                continue
            for index, (name, _) in enumerate(run.stages):
                if index >= len(run.beginnings) or run.beginnings[index] not in open_keys:
                    drop_checkpoints(self.folder / run.folder, index, name)


def _met_a_full_disk(done: Done, folder: Path) -> bool:
    """Whether a process failed since a disk is full, by its words, or where it had no room for
    any."""
    told = any(os.strerror(number) in done.said for number in FULL)
    return told or free_bytes(folder) < _ROOM


def _first_line(said: str) -> str:
    """The message of a process that has failed: the line that begins with ncamix's name, or else
    the last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    own = [line.removeprefix("ncamix: ") for line in lines if line.startswith("ncamix: ")]
    return (own or lines[-1:] or ["it said nothing"])[0]
