"""Locks of files: taken for a while, or held until the process ends, however it ends.

a file, which need not exist -> open and locked, once, until this process ends or gives it up
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO, Any

from ncamix.errors import fail


def lock_own(lock: IO[Any], path: Path) -> bool:
    """Lock an open file for this process alone; whether that went well, and the file still is the
    one at `path`: who held it before may have removed it.

    Raises:
        UserError: the file system has no locks.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock.fileno()), os.stat(path))
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as error:
        raise fail(
            f"{path.parent} cannot be locked ({error.strerror})",
            "choose a folder on another file system with --out",
        ) from None


class HeldLocks:
    """Locked files that stay so. A file that is locked already is not locked again: two locks of
    one process would keep each other out."""

    def __init__(self) -> None:
        self._files: dict[Path, IO[Any]] = {}

    def take(self, file: Path, kind: int) -> None:
        """Lock a file, whose folder exists. kind: as of `fcntl.flock`.

        Raises:
            OSError: it cannot be opened; BlockingIOError, if another process holds it and the kind
                says not to wait.
        """
        if file in self._files:
            return
        lock = file.open("a")
        try:
            fcntl.flock(lock, kind)
        except BaseException:
            lock.close()
            raise
        self._files[file] = lock

    def give_up(self, spare: Path | None = None) -> None:
        """Give up all locks but those of files below the folder `spare`."""
        for file in [file for file in self._files if spare not in file.parents]:
            self._files.pop(file).close()
