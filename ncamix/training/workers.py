"""The processes that load a stage's batches: started afresh, remembered, and mourned by name.

    DataLoader --starts through--> the loaders' context --remembers--> its processes
    training fails -> one of them has died? -> which, and by what; the others are ended

PyTorch tells of a worker's death in a handler of SIGCHLD, wherever the main thread then is: in a
destructor Python drops it, and often a connection to the worker breaks first. What counts is what
the processes themselves say.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

_DYING_SECONDS = 60.0  # at most, from a worker's broken connection to its end


class LoaderContext(SpawnContext):
    """Starts a DataLoader's workers with fresh interpreters, and remembers them."""

    def __init__(self) -> None:
        self._workers: list[SpawnProcess] = []

    def Process(self, *args: Any, **options: Any) -> SpawnProcess:  # type: ignore[override] # noqa: N802
        """A worker, not started yet; named as `multiprocessing` and the DataLoader name it."""
        worker = SpawnProcess(*args, **options)
        self._workers.append(worker)
        return worker

    def death_behind(self, error: BaseException) -> str | None:
        """Which worker died and by what, if one did: that is why training failed.

        After a connection broke it may take seconds on a busy machine until the process has ended,
        whose threads of low priority end late.
        """
        deadline = time.monotonic() + (_DYING_SECONDS if _is_broken_connection(error) else 0)
        while True:
            for number, worker in enumerate(self._workers):
                if worker.pid is not None and worker.exitcode:
                    end = (
                        f"was killed by {signal.Signals(-worker.exitcode).name}"
                        if worker.exitcode < 0
                        else f"ended with status {worker.exitcode}"
                    )
                    return f"DataLoader worker {number} (process {worker.pid}) {end}"
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.1)

    def end(self) -> None:
        """Kill those that live, which ignore SIGTERM and may wait for others."""
        for worker in self._workers:
            if worker.pid is not None:
                worker.kill()
                worker.join()


@contextmanager
def deaths_untold() -> Iterator[None]:
    """Within it PyTorch does not interrupt the main thread to tell that a worker died."""
    while True:
        try:
            before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            break
        except RuntimeError:  # it just did; it tells of each once
            continue
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before)


def ignore_signals(worker: int) -> None:
    """Begin a worker: a signal to the whole group must not end it before a checkpoint is saved."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _is_broken_connection(error: BaseException) -> bool:
    """Of a connection in this process: errors that a worker met come with its traceback."""
    if str(error).startswith("Caught "):
        return False
    torn = type(error) is OSError and error.errno is None  # amid a message
    return torn or isinstance(error, (ConnectionError, EOFError))
