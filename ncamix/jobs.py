"""Jobs: commands of ncamix that run beside this process, several at once.

    Job -> a process of its own on a slot (cores, or GPUs) -> Done: its status and its last words

A job that is told to stop saves its state. On Linux a job is told so, too, when this process ends,
however that ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ncamix.launching import JOB
from ncamix.library import has_gpu
from ncamix.threads import count_threads

WORDS = 40  # lines of a log that tell how a job ended
_TICK = 0.1
_PATIENCE = 180.0  # seconds for a job to save its state


@dataclass(frozen=True)
class Job:
    """A command: the arguments of ncamix, the folder that it fills, the one that it is run in, and
    the file that takes what it prints."""

    name: str
    arguments: tuple[str, ...]
    folder: Path
    cwd: Path
    log: Path


@dataclass(frozen=True)
class Done:
    """A job that has ended. status: as of a shell; said: the end of what it printed."""

    job: Job
    status: int
    said: str


class Workers(Protocol):
    """Who does jobs."""

    @property
    def free(self) -> int:
        """How many jobs may be started now."""

    def start(self, job: Job) -> None:
        """Start a job; one must be free."""

    def wait(self, seconds: float) -> list[Done]:
        """The jobs that have ended, as soon as one has, or after so long."""

    def stop(self) -> None:
        """Have all jobs save their states and end; returns when they have."""


@dataclass(frozen=True)
class Slot:
    """What one job has: threads for its own work, and numbers of GPUs."""

    threads: int
    gpus: tuple[str, ...] = ()

    def environment(self) -> Mapping[str, str]:
        """The variables that say so, beside this process's own."""
        found = dict(os.environ)
        found.setdefault("OMP_NUM_THREADS", str(self.threads))
        if self.gpus:
            found["CUDA_VISIBLE_DEVICES"] = ",".join(self.gpus)
        return found


def local_slots(num_jobs: int | None = None) -> list[Slot]:
    """The slots of this machine: one a GPU, or one a core. num_jobs: as many instead, each with its
    part of either, and at least a core."""
    cores = count_threads()
    if not has_gpu():
        number = num_jobs or cores
        return [Slot(max(1, cores // number))] * number
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(torch.cuda.device_count())]
    number = num_jobs or max(1, len(gpus))
    each = max(1, len(gpus) // number)
    threads = max(1, cores // number)
    return [
        Slot(threads, tuple(gpus[(i * each) % len(gpus) :][:each]) if gpus else ())
        for i in range(number)
    ]


@dataclass
class LocalWorkers:
    """Jobs as processes of this machine, one a slot."""

    slots: Sequence[Slot]
    _running: dict[int, tuple[Job, subprocess.Popen[bytes]]] = field(default_factory=dict)

    @property
    def free(self) -> int:
        return len(self.slots) - len(self._running)

    def start(self, job: Job) -> None:
        number = next(i for i in range(len(self.slots)) if i not in self._running)
        self._running[number] = (job, start(job, self.slots[number].environment()))

    def wait(self, seconds: float) -> list[Done]:
        until = time.monotonic() + seconds
        while True:
            ended = [n for n, (_, process) in self._running.items() if process.poll() is not None]
            if ended or time.monotonic() >= until:
                return [self._done(number) for number in ended]
            time.sleep(_TICK)

    def stop(self) -> None:
        for _, process in self._running.values():
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + _PATIENCE
        for number in list(self._running):
            _, process = self._running[number]
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            self._done(number)

    def _done(self, number: int) -> Done:
        job, process = self._running.pop(number)
        return Done(job, status_of(process), last_words(job.log))


def start(job: Job, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a job's process, which leads a group of its own: the terminal's signals are this
    process's business."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ncamix", *job.arguments],
            cwd=job.cwd,
            env={**environment, JOB: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


def status_of(process: subprocess.Popen[bytes]) -> int:
    """The status of a process that has ended, as a shell says it."""
    status = process.returncode
    return status if status >= 0 else 128 - status


def last_words(log: Path) -> str:
    """The last lines of a log."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-WORDS:])
