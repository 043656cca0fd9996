"""Locks that a process holds: once each, until they are given up."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from ncamix.locks import HeldLocks

ALONE, SHARED = fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_SH | fcntl.LOCK_NB


def is_free(file: Path, kind: int) -> bool:
    with file.open("a") as lock:
        try:
            fcntl.flock(lock, kind)
        except BlockingIOError:
            return False
    return True


def test_a_lock_is_taken_once_and_stays(tmp_path: Path) -> None:
    locks, file = HeldLocks(), tmp_path / "lock"
    locks.take(file, ALONE)
    locks.take(file, ALONE)  # a second one would keep itself out
    assert not is_free(file, SHARED)
    locks.give_up()
    assert is_free(file, ALONE)
    locks.take(file, SHARED)
    assert is_free(file, SHARED) and not is_free(file, ALONE)


def test_what_another_holds_is_not_taken(tmp_path: Path) -> None:
    first, second = HeldLocks(), HeldLocks()
    first.take(tmp_path / "lock", ALONE)
    with pytest.raises(BlockingIOError):
        second.take(tmp_path / "lock", ALONE)
    first.give_up()
    second.take(tmp_path / "lock", ALONE)  # nothing was left of the first try
    assert not is_free(tmp_path / "lock", SHARED)


def test_locks_below_a_folder_are_spared(tmp_path: Path) -> None:
    locks = HeldLocks()
    for name in ("kept", "left"):
        (tmp_path / name).mkdir()
        locks.take(tmp_path / name / "lock", ALONE)
    locks.give_up(spare=tmp_path / "kept")
    assert not is_free(tmp_path / "kept" / "lock", ALONE)
    assert is_free(tmp_path / "left" / "lock", ALONE)
    with pytest.raises(FileNotFoundError):
        locks.take(tmp_path / "nowhere" / "lock", ALONE)
