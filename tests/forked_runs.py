"""Runs by the dozen: forked from a process that has loaded torch and Composer, and nothing more.

    test --{arguments, folder, environment, log}--> server --fork--> ncamix, in a session of its own
    test <-------- the child's number, its status ---- server

Loading takes longer than the runs that tests kill. Nothing has computed in the server, so that no
thread of OpenMP is missed in its children. Run as a program, this is the server.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Child:
    """A forked run; as much of `subprocess.Popen` as tests use."""

    def __init__(self, pid: int, log: Path, statuses: dict[int, int]) -> None:
        self.pid, self.returncode, self.stdout = pid, None, None
        self._log, self._statuses = log, statuses

    def poll(self) -> int | None:
        self.returncode = self._statuses.get(self.pid)
        return self.returncode

    def speaks(self) -> bool:
        """Whether it has planned its run and said so: from then on it answers signals."""
        return self._log.exists() and self._log.stat().st_size > 0

    def wait(self, timeout: float) -> int:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a forked run", timeout)
            time.sleep(0.005)
        return self._statuses[self.pid]

    def communicate(self, timeout: float) -> tuple[str, None]:
        self.wait(timeout)
        return self._log.read_text(), None


class Server:
    """Where runs are forked. A context manager."""

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._pids: list[int] = []
        self._statuses: dict[int, int] = {}
        self._told = threading.Condition()
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def _listen(self) -> None:
        for line in self._process.stdout:
            kind, pid, status = json.loads(line)
            with self._told:
                if kind == "began":
                    self._pids.append(pid)
                else:
                    self._statuses[pid] = status
                self._told.notify_all()

    def start(
        self, arguments: Sequence[str], folder: Path, env: Mapping[str, str], log: Path
    ) -> Child:
        began = len(self._pids)
        facts = {"argv": list(arguments), "cwd": str(folder), "env": dict(env), "log": str(log)}
        self._process.stdin.write(json.dumps(facts) + "\n")
        self._process.stdin.flush()
        with self._told:
            assert self._told.wait_for(lambda: len(self._pids) > began, 240), "no run was forked"
        return Child(self._pids[-1], log, self._statuses)

    def __exit__(self, *error: object) -> None:
        for pid in set(self._pids) - self._statuses.keys():
            os.killpg(pid, signal.SIGKILL)
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


def run(facts: dict[str, Any]) -> int:
    """The child's part: the command line; its status. It then ends as Python does."""
    os.setsid()
    log = os.open(facts["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.chdir(facts["cwd"])
    os.environ.clear()
    os.environ.update(facts["env"])
    sys.argv = ["ncamix", *facts["argv"]]
    from ncamix.cli import main

    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def serve() -> None:
    import ncamix.report
    import ncamix.training.stages  # noqa: F401 (what takes long)

    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in a process of its own; Composer has laid
    signal.signal(signal.SIGINT, signal.default_int_handler)  # handlers of its own
    answers = threading.Lock()

    def answer(*words: object) -> None:
        with answers:
            print(json.dumps(words), flush=True)

    def reap() -> None:
        while True:
            try:
                pid, status = os.wait()
                answer("ended", pid, os.waitstatus_to_exitcode(status))
            except ChildProcessError:
                time.sleep(0.02)

    threading.Thread(target=reap, daemon=True).start()
    for line in sys.stdin:
        facts = json.loads(line)
        with answers:
            pid = os.fork()
            if not pid:
                sys.exit(run(facts))
            print(json.dumps(("began", pid, 0)), flush=True)


if __name__ == "__main__":
    serve()
