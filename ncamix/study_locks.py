"""Who trains a study: one process a share, and all of them shares of one division.

    .study.lock           held by all together; says in how many shares, and of which study
    .shard-I-of-N.lock    held by the one that trains that share; says who that is

Locks end with the process that holds them, however it ends, and hold between hosts as far as their
file system has `flock`. What stands in the files of locks that nobody holds means nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ncamix.errors import UserError, fail
from ncamix.files import make_folder
from ncamix.locks import lock_own
from ncamix.shares import Shard

STUDY_LOCK = ".study.lock"
_PATIENCE = 10.0  # seconds for another process to say what it begins to train
_TICK = 0.05


@contextmanager
def held_study(folder: Path, shard: Shard, study: str) -> Iterator[None]:
    """Own a share of the study in `folder`, while others may own further shares of it. study: what
    tells it from another one.

    Raises:
        UserError: the folder holds other things; another process trains that share, or a part of
            the study that is no share of as many; or it trains another study there.
    """
    make_folder(folder, STUDY_LOCK)
    own = folder / f".shard-{shard.number}-of-{shard.of}.lock"
    with (folder / STUDY_LOCK).open("a+b", buffering=0) as common:
        _join(common, folder, shard, study)
        with own.open("a+b", buffering=0) as lock:
            if not lock_own(lock, own):
                by = str(_read(lock).get("by", ""))
                raise _in_use(folder, _share(shard.of, shard.number), by)
            _write(lock, {"by": f"process {os.getpid()} on {platform.node()}"})
            yield


def _join(lock: IO[bytes], folder: Path, shard: Shard, study: str) -> None:
    """Hold the common lock, with others of the same division or alone."""
    wanted = {"shares": shard.of, "study": study}
    until = time.monotonic() + _PATIENCE
    while True:
        if lock_own(lock, folder / STUDY_LOCK):  # nobody else is here: it is ours to say
            _write(lock, wanted)
            fcntl.flock(lock, fcntl.LOCK_SH)  # others may come in between, so it is read again
            break
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            break
        except BlockingIOError:  # somebody says it just now
            if time.monotonic() > until:
                raise _in_use(folder, "this study") from None
            time.sleep(_TICK)
    found = _read(lock)
    if found.get("shares") != shard.of:
        raise _in_use(folder, _share(found.get("shares", 1)), ask=found.get("shares"))
    if found.get("study") != study:
        raise fail(
            f"another process trains shares of this study in {folder}, by a file that says "
            "something else",
            "wait for it, put the file back as it was, or name another folder with --out",
        )


def _share(of: Any, number: int | None = None) -> str:
    if of == 1:
        return "this study"
    return f"share {number}/{of} of this study" if number else f"a share I/{of} of this study"


def _in_use(folder: Path, what: str, by: str = "", ask: Any = None) -> UserError:
    shares = f"take another of its shares (--shard I/{ask}), " if ask not in (None, 1) else ""
    return fail(
        f"another process trains {what} in {folder}{by and f' ({by})'}",
        f"wait for it, {shares}or name another folder with --out",
    )


def _write(lock: IO[bytes], facts: dict[str, Any]) -> None:
    """Say something in the file of a lock that is ours alone."""
    os.ftruncate(lock.fileno(), 0)
    lock.write(json.dumps(facts).encode() + b"\n")
    os.fsync(lock.fileno())  # for hosts that share the file system


def _read(lock: IO[bytes]) -> dict[str, Any]:
    lock.seek(0)
    try:
        found = json.loads(lock.read())
    except ValueError:  # nothing yet
        return {}
    return found if isinstance(found, dict) else {}
