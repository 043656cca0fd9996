"""Slots: the cores of a machine that generating takes at once, over all processes of a run.

    threads of the run / processes that generate -> threads of a shard, and shards made at once
    a process takes a slot (a locked file) -> makes a shard -> gives it back, or dies

A slot is a lock of the kernel's, so that one that a killed process held is free again.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

_TICK = 0.005  # seconds between two looks for a free slot
_NICENESS = 10  # training goes first: about a tenth of a core while it wants them all

Made = TypeVar("Made")


@dataclass(frozen=True)
class Slots:
    """count: shards that are made at once. threads: that make one shard, at most."""

    count: int
    threads: int

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold one slot; waits for it. All processes that share TMPDIR share the slots."""
        folder = Path(tempfile.gettempdir()) / "ncamix-slots"
        folder.mkdir(exist_ok=True)
        number = os.getpid()  # processes begin their search at different slots
        while True:
            descriptor = os.open(folder / str(number % self.count), os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                number += 1
                if number % self.count == os.getpid() % self.count:  # all were taken
                    time.sleep(_TICK)
                continue
            try:
                yield
                return
            finally:
                os.close(descriptor)

    def make(self, work: Callable[[int], Made]) -> Made:
        """What `work` makes in a slot, given the number of its threads, behind training."""
        with self.take(), ThreadPoolExecutor(1, "ncamix", _step_back) as pool:
            return pool.submit(work, self.threads).result()


def split_cores(cores: int, processes: int) -> Slots:
    """Slots of so many processes that may take so many cores together, 1 at least of both."""
    threads = max(1, cores // processes)
    return Slots(max(1, cores // threads), threads)


def _step_back() -> None:
    """Give this thread, and those that it starts, a lower priority; it ends with its work."""
    if sys.platform == "linux":  # where priorities are a thread's own
        thread = threading.get_native_id()
        niceness = os.getpriority(os.PRIO_PROCESS, thread) + _NICENESS
        os.setpriority(os.PRIO_PROCESS, thread, min(niceness, 19))  # never ahead: not allowed
