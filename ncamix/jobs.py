"""Jobs: `ncamix` commands of a study, several at once, each a process of its own.

    Job --start--> a worker: python -m ncamix ARGUMENTS --its words--> the job's log
    Done (status, last words) <--wait--    |
    stop --SIGTERM--> each, which saves its state

`LocalWorkers` are of this machine; others keep the same protocol. A job whose folder another
process still holds, such as the dying child of a study that was killed, begins when that has ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ncamix.cache import cache_root
from ncamix.errors import UserError
from ncamix.files import RUN_LOCK
from ncamix.library import has_gpu
from ncamix.locks import lock_own
from ncamix.processes import safe_path, settings_of_child
from ncamix.threads import count_threads

LAST_LINES = 40  # of a job's log, which `Done` has
STOPPED = 128 + signal.SIGTERM  # the status of a job that was stopped
KILLED = 128 + signal.SIGKILL
TICK = 0.1  # seconds between two looks at a job
PATIENCE = 120.0  # for a job that is stopped to save its state
_COMMAND = ("-m", "ncamix")
_LAST_BYTES = 1 << 16
_HELD = 180.0  # for whoever holds a job's folder to end
_MEMORY = 2 << 30  # bytes that are counted for a job: torch and Composer, and a small model
# A study may itself be a task of a launcher, of which its jobs are no ranks.
_OF_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK")
_OF_LAUNCHERS = (*_OF_RANKS, "MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "SLURM_STEP_ID")


@dataclass(frozen=True)
class Job:
    """A command of ncamix. `name` is for people, `arguments` are those of `ncamix`, in the folder
    `cwd`; `folder` is the run's own, and what it says is added to the file `log`. All paths are
    absolute."""

    name: str
    arguments: tuple[str, ...]
    folder: Path
    cwd: Path
    log: Path


@dataclass(frozen=True)
class Done:
    """How a job ended: 0, 2 for a mistake of the user's, 128 + n by signal n; and its last lines.

    143 and 137 say that it was stopped or killed: the same job goes on where it was.
    """

    job: Job
    status: int
    said: str


class Workers(Protocol):
    """What runs jobs, several at once."""

    @property
    def free(self) -> int:
        """How many jobs may be started now."""
        ...

    def start(self, job: Job) -> None:
        """Begin a job; at once if any worker is free."""
        ...

    def wait(self, seconds: float) -> list[Done]:
        """The jobs that have ended and were not told before: at once if there is any or nothing
        runs, or else after so long, if none has ended until then."""
        ...

    def stop(self) -> None:
        """End: jobs that run save their state first, which is waited for. They are not told of by
        `wait`. What these workers hold is given back, also if nothing runs."""
        ...


class Process:
    """A job at work on this machine. `poll` moves it on."""

    def __init__(self, job: Job, settings: Mapping[str, str]) -> None:
        self.job = job
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._held_until = time.monotonic() + _HELD
        self._stop_by = float("inf")
        self._said_before = 0  # bytes of the log
        self.poll()

    def poll(self) -> Done | None:
        """How it ended, once it has. It begins as soon as its folder is free."""
        if self._process is None:
            if self._stop_by < float("inf"):
                return Done(self.job, STOPPED, "")
            if is_held(self.job.folder) and time.monotonic() < self._held_until:
                return None
            self._begin()
            return None
        status = self._process.poll()
        if status is None:
            if time.monotonic() > self._stop_by:
                self.kill()
            return None
        return Done(
            self.job,
            128 - status if status < 0 else status,
            last_lines(self.job.log, self._said_before),
        )

    def stop(self) -> None:
        """Have it save its state and end; it is killed if that takes too long."""
        if self._stop_by == float("inf"):
            self._stop_by = time.monotonic() + PATIENCE
            if self._process is not None:
                self._process.terminate()

    def kill(self) -> None:
        """End it at once, and what it has started."""
        self._stop_by = min(self._stop_by, time.monotonic())
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _begin(self) -> None:
        self.job.log.parent.mkdir(parents=True, exist_ok=True)
        with self.job.log.open("ab") as log:
            self._said_before = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, *_COMMAND, *self.job.arguments],
                cwd=self.job.cwd,
                env=_environment(self._settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # the terminal speaks to this process, which speaks to all
            )


class LocalWorkers:
    """Jobs as children of this process, which they do not outlive for long: when it ends, however
    that is, they save their state and end, too (on Linux; `start` belongs in the main thread)."""

    def __init__(self, num_jobs: int, threads: int, gpus: Sequence[Sequence[int]] = ()) -> None:
        """num_jobs: how many run at once.
        threads: of each job, unless the user has set OMP_NUM_THREADS.
        gpus: for each of the `num_jobs`, the numbers of the GPUs it sees, of those that this
            process sees; without it, all jobs see what this process does.
        """
        if num_jobs < 1 or threads < 1 or len(gpus) not in (0, num_jobs):
            raise ValueError(f"{num_jobs} jobs of {threads} threads, GPUs for {len(gpus)}")
        self._num_jobs, self._threads, self._gpus = num_jobs, threads, gpus
        self._running: dict[int, Process] = {}  # by slot

    @property
    def free(self) -> int:
        return self._num_jobs - len(self._running)

    def start(self, job: Job) -> None:
        slot = min(set(range(self._num_jobs)) - self._running.keys())
        settings = settings_of_job(job.cwd, self._threads)
        if self._gpus:
            settings["CUDA_VISIBLE_DEVICES"] = _visible(self._gpus[slot])
        self._running[slot] = Process(job, settings)

    def wait(self, seconds: float) -> list[Done]:
        until = time.monotonic() + seconds
        while not (ended := self._ended()) and self._running and time.monotonic() < until:
            time.sleep(TICK)
        return ended

    def stop(self) -> None:
        try:
            for process in self._running.values():
                process.stop()
            while self._running:
                self._ended()
                time.sleep(TICK)
        finally:  # a second ^C ends at once
            for process in self._running.values():
                process.kill()
            self._running.clear()

    def _ended(self) -> list[Done]:
        polled = {slot: process.poll() for slot, process in self._running.items()}
        ended = {slot: done for slot, done in polled.items() if done is not None}
        for slot in ended:
            del self._running[slot]
        return list(ended.values())


@dataclass(frozen=True)
class Capacity:
    """Room for jobs on this machine, in the words of `LocalWorkers`."""

    num_jobs: int
    threads: int
    gpus: tuple[tuple[int, ...], ...] = ()


def local_capacity(num_jobs: int | None = None, ranks: int | None = None) -> Capacity:
    """How many jobs run at once on this machine, and with what.

    On GPUs: a job for each, or for each `ranks` of them, with an even share of the cores. Jobs
    beyond that share GPUs. Without a GPU: a job for each core (or `ranks` of them) that this
    process may use, with one thread; fewer where less than 2 GiB are free for each.

    num_jobs: as many as that instead; on a CPU, with an even share of the cores.
    ranks: processes that train together in each job: `--ranks` of `ncamix run`.
    """
    import psutil

    cores, each = count_threads(), ranks or 1
    if has_gpu():
        import torch

        gpus = max(1, torch.cuda.device_count())
        sets = [
            tuple(range(i, min(i + each, gpus))) for i in range(0, max(1, gpus - each + 1), each)
        ]
        num_jobs = num_jobs or len(sets)
        shared = tuple(sets[i % len(sets)] for i in range(num_jobs))
        return Capacity(num_jobs, max(1, cores // (num_jobs * each)), shared)
    if num_jobs is not None:
        return Capacity(num_jobs, max(1, cores // (num_jobs * each)))
    room = psutil.virtual_memory().available // (_MEMORY * each)
    return Capacity(max(1, min(cores // each, room)), 1)


def settings_of_job(cwd: Path, threads: int) -> dict[str, str]:
    """Variables of jobs in a folder: their threads, unless the user has set OMP_NUM_THREADS, the
    cache of this process, and where modules are looked for."""
    settings = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(threads)}
    if os.environ.get("NCAMIX_CACHE"):  # it may start at another folder
        settings["NCAMIX_CACHE"] = str(cache_root())
    return {**settings, **safe_path(cwd)}


def _visible(gpus: Sequence[int]) -> str:
    """`CUDA_VISIBLE_DEVICES` for some of the GPUs that this process sees."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = given.split(",") if given else None
    return ",".join(seen[gpu].strip() if seen else str(gpu) for gpu in gpus)


def last_lines(log: Path, begin: int = 0) -> str:
    """The last lines of a log, if it is there; none that was written before the byte `begin`."""
    with suppress(OSError), log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(begin, end - _LAST_BYTES))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-LAST_LINES:])
    return ""


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in _OF_LAUNCHERS}
    return {**own, **settings, **settings_of_child()}


def is_held(folder: Path) -> bool:
    """Whether a process owns a run's folder."""
    try:
        with (folder / RUN_LOCK).open("r+b") as lock:
            return not lock_own(lock, folder / RUN_LOCK)
    except (OSError, UserError):  # no such file, or a fault that the job itself will tell
        return False
