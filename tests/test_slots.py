"""Slots: never more cores than the share, whatever the processes, and none lost with a process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncamix.slots import Slots, split_cores
from ncamix.threads import spread


@given(st.integers(1, 300), st.integers(1, 300))
def test_threads_and_shards_stay_within_the_cores(cores: int, processes: int) -> None:
    slots = split_cores(cores, processes)
    assert 1 <= slots.threads * slots.count <= cores
    assert slots.threads * processes <= cores or slots.threads == 1
    assert slots.count <= max(processes, slots.count * slots.threads // max(1, cores // processes))
    assert cores - slots.threads * slots.count < slots.threads  # no core is left for nothing


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A TMPDIR of the test's own, for it and its processes."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield tmp_path


def busy(counted: Any, most: Any, slots: Slots) -> None:
    """Make three shards of eight blocks each, counting the threads at work in all processes."""

    def block(rows: slice) -> None:
        with counted.get_lock():
            counted.value += 1
            most.value = max(most.value, counted.value)
        time.sleep(0.005)
        with counted.get_lock():
            counted.value -= 1

    for _ in range(3):
        slots.make(lambda threads: spread(block, 8, threads, 1))


@pytest.mark.parametrize(("cores", "processes"), [(1, 3), (2, 3), (5, 2), (4, 1)])
def test_generating_threads_never_exceed_the_share(cores: int, processes: int) -> None:
    context = multiprocessing.get_context("fork")  # neither numba nor torch is used
    counted, most = context.Value("i", 0), context.Value("i", 0)
    slots = split_cores(cores, processes)
    workers = [context.Process(target=busy, args=(counted, most, slots)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    # One process generates from several threads at once, too: these are of this one.
    mine = [threading.Thread(target=busy, args=(counted, most, slots)) for _ in range(2)]
    for thread in mine:
        thread.start()
    for worker in [*workers, *mine]:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * processes
    assert counted.value == 0
    assert slots.threads <= most.value <= cores


def hold(slots: Slots, taken: Any) -> None:
    with slots.take():
        taken.set()
        time.sleep(60)


def test_the_slot_of_a_killed_process_is_free_again() -> None:
    context = multiprocessing.get_context("fork")
    slots, taken = Slots(1, 1), context.Event()
    holder = context.Process(target=hold, args=(slots, taken))
    holder.start()
    assert taken.wait(10)
    got = threading.Event()
    threading.Thread(target=lambda: slots.make(lambda threads: got.set()), daemon=True).start()
    assert not got.wait(0.1)
    os.kill(holder.pid or 0, signal.SIGKILL)
    assert got.wait(10)
    holder.join(10)


def test_generating_goes_behind_and_leaves_its_caller_as_it_was() -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)

    def look(threads: int) -> tuple[int, int]:
        return threads, os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert Slots(2, 3).make(look) == (3, min(before + 10, 19))  # there is nothing behind 19
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        Slots(2, 3).make(look)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_failure_gives_its_slot_back() -> None:
    def fails(threads: int) -> None:
        raise ValueError("no rule")

    for _ in range(3):
        with pytest.raises(ValueError, match="no rule"):
            Slots(1, 1).make(fails)
