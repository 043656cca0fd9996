"""Workers for tests: every job runs in one process that has loaded torch and Composer already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from processes import output_to, started

from ncamix.jobs import Done, Job


class WarmWorkers:
    """One job at a time, done when it is started. before: called ahead of each."""

    def __init__(self, folder: Path, before: Callable[[Job], None] = lambda job: None) -> None:
        program = str(Path(__file__).with_name("edited_runs.py"))
        env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "500"}
        self.process: subprocess.Popen[str] = started(
            [sys.executable, program], folder, env, talks=True
        )
        self.jobs: list[Job] = []
        self.before = before
        self._done: list[Done] = []
        self.stopped = False

    @property
    def free(self) -> int:
        return 0 if self._done else 1

    def start(self, job: Job) -> None:
        self.before(job)
        assert job.arguments[0] == "run" and self.process.stdin is not None
        self.jobs.append(job)
        self.process.stdin.write(json.dumps([job.arguments[1:], None]) + "\n")
        self.process.stdin.flush()
        status, said = json.loads(output_to(self.process, "\n").splitlines()[-1])
        self._done.append(Done(job, status, said))

    def wait(self, seconds: float) -> list[Done]:
        done, self._done = self._done, []
        return done

    def stop(self) -> None:
        self.stopped = True
