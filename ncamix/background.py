"""Text compiled by a process of its own, while its run trains.

    run     datasets to compile, pickled into a nameless file -> stdin of a fresh interpreter
    child   one dataset after the other into the cache -> how far it is, what is done, what failed,
            and what a reader should know
    run     looks between batches; at a stage's beginning, waits for what the stage needs

Run and child share a connection. The child ends when the run's end of it closes, whatever ended the
run, and takes along what it started; what it leaves in the cache is whole, or made again.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ncamix.errors import Problem, UserError
from ncamix.plan import Plan
from ncamix.planned_source import too_small
from ncamix.text_compilation import compile_text, is_compiled
from ncamix.waiting import tell, tell_by

_TELL_SECONDS = 0.5  # between two words on how far the child is
_LAST_WORDS = 2000  # characters kept of what a child that died wrote to its standard error

# Why text could not be compiled, as it crosses processes: problems of the user's, an error of the
# operating system's, or the traceback of anything else.
Failure = list[Problem] | OSError | str


def failure_of(error: Exception) -> Failure:
    """An error, as it crosses processes."""
    if isinstance(error, UserError):
        return error.problems
    return error if isinstance(error, OSError) else "".join(traceback.format_exception(error))


def error_of(failure: Failure) -> Exception:
    """The error that a failure stands for, to be raised."""
    if isinstance(failure, OSError):
        return failure
    if isinstance(failure, str):
        return RuntimeError(f"compiling text in the background failed:\n{failure}")
    return UserError(failure)


@dataclass(frozen=True)
class Work:
    """What the child does: datasets of a plan (without stages), in this order.

    urgent: those that the run awaits before it trains; the others leave the machine to training.
    """

    plan: Plan
    names: tuple[str, ...]
    urgent: frozenset[str]


def uncompiled(plan: Plan) -> list[str]:
    """Datasets of text that the cache lacks, in the order in which stages await them."""
    wanted = dict.fromkeys(name for stage in plan.stages for name in plan.awaited(stage))
    return [name for name in wanted if not is_compiled(plan.sources[name])]


def start_compiler(plan: Plan) -> Compiler | None:
    """Begin to compile what a plan's stages await; None where nothing is to do, or another process
    of this node does it."""
    if int(os.environ.get("LOCAL_RANK", "0")):
        return None
    names = uncompiled(plan)
    return Compiler(plan, names, plan.awaited(plan.stages[0])) if names else None


class Compiler:
    """The run's handle on its child. `pending`: datasets not compiled yet. `failure`: why not."""

    def __init__(self, plan: Plan, names: Sequence[str], urgent: Collection[str]) -> None:
        self.pending = list(names)
        self.failure: Failure | None = None
        self._at = (names[0], "compiling text", 0.0)
        self._connection, there = Pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the child)
        # As the run's interpreter finds ncamix, so does the child's.
        safe = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
        with there, tempfile.TemporaryFile() as work:
            bare = replace(plan, stages=(), warnings=())
            pickle.dump(Work(bare, tuple(names), frozenset(urgent)), work)
            work.seek(0)
            self._process = subprocess.Popen(
                [sys.executable, *safe, "-m", "ncamix.background", str(there.fileno())],
                stdin=work,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[there.fileno()],
                # A group of its own, so that Ctrl-C is for the run. No session of its own: Linux
                # may schedule sessions against each other, and niceness counts within one only.
                process_group=0,
            )

    def poll(self, seconds: float = 0.0) -> None:
        """Take in what the child has said, tell what is for readers; wait for its next word for so
        long at most."""
        try:
            while self.pending and self.failure is None and self._connection.poll(seconds):
                kind, told = self._connection.recv()
                seconds = 0.0
                if kind == "at":
                    self._at = told
                elif kind == "done":
                    self.pending.remove(told)
                elif kind == "told":
                    tell(told)
                else:
                    self.failure = told
        except (EOFError, OSError):
            self.failure = self._died()

    def _died(self) -> Failure:
        """Why a child says no more that has not finished."""
        try:
            status = self._process.wait(_TELL_SECONDS)
        except subprocess.TimeoutExpired:
            status = self._kill()
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip()[-_LAST_WORDS:]
        what = f"the process that compiles text has ended {how}" + (f": {words}" if words else "")
        return [Problem(what, "see that it has memory, and run the same command again")]

    def say(self) -> tuple[str, float]:
        """What the child does, and the share of it that is done."""
        _, what, share = self._at
        return what, share

    def note(self) -> str:
        """The same in a few words; none where nothing is to do."""
        name, _, share = self._at
        return f"compiling text: {name} {share:.0%}" if self.pending else ""

    def close(self) -> None:
        """End the child, if it has not ended, and whatever it started."""
        self._kill()
        self._connection.close()
        self._errors.close()

    def _kill(self) -> int:
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()


def main() -> None:
    """The child: `python -m ncamix.background CONNECTION`, its work on standard input."""
    connection: Connection[Any, Any] = Connection(int(sys.argv[1]))
    for number in (signal.SIGTERM, signal.SIGINT):  # whoever ends the run ends this, too
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_run, args=(connection,), daemon=True).start()
    work: Work = pickle.load(sys.stdin.buffer)
    tell_by(lambda line: connection.send(("told", line)))
    try:
        _compile(work, connection)
    except Exception as error:
        connection.send(("failed", failure_of(error)))


def _compile(work: Work, connection: Connection[Any, Any]) -> None:
    plan, room = work.plan, select.poll()
    room.register(connection, select.POLLOUT)
    for name in work.names:
        if name not in work.urgent:
            _leave_the_machine_to_others()
        told = 0.0

        def say(what: str, share: float, name: str = name) -> None:
            nonlocal told
            # A full connection would stop text: a run that does not look is told less of this.
            if time.monotonic() - told >= _TELL_SECONDS and room.poll(0):
                told = time.monotonic()
                connection.send(("at", (name, what, share)))

        size = int(compile_text(plan, plan.sources[name], say)["num_samples"])
        if not plan.estimated:  # else it is planned anew, by its run, which waits for all of it
            problem = too_small(plan.curriculum, plan.sources[name], size)
            if problem is not None:
                raise UserError(problem)
        connection.send(("done", name))


def _end_with_the_run(connection: Connection[Any, Any]) -> None:
    with suppress(OSError):
        connection.poll(None)  # the run sends nothing: this ends when it does
    os.killpg(0, signal.SIGKILL)


def _leave_the_machine_to_others() -> None:
    """The lowest priority, and disks only when nobody else wants them, where the system can."""
    threads = Path("/proc/self/task")  # on Linux, each thread has a priority of its own
    ids = [int(path.name) for path in threads.iterdir()] if threads.is_dir() else [0]
    for thread in ids:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, 19)
    import psutil

    if hasattr(psutil, "IOPRIO_CLASS_IDLE"):
        with suppress(OSError, psutil.Error):
            psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


if __name__ == "__main__":
    main()
