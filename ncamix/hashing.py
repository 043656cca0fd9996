"""Hashes of files' contents, remembered, so that a plan reads a corpus only once.

    path, size, mtime, ctime, inode -> the remembered hash, or else the file is read
                                                              -> remembered
    a file that is read for its text, and its hash -> is it still the same?

The memory is one SQLite file in the cache. A file that changed in the two seconds before it was
read is not remembered: another change might leave the same times (git's rule). Nothing depends on
the memory: where it cannot be read or written, files are read again. Times are nanoseconds.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ncamix.cache import cache_root
from ncamix.errors import UserError, fail
from ncamix.threads import count_threads
from ncamix.waiting import Say, quiet

if TYPE_CHECKING:
    import sqlite3

MEMORY = "hashes.sqlite"
SETTLED = 2_000_000_000  # ns since its last change, after which a file is remembered
_TABLE = "CREATE TABLE IF NOT EXISTS hashes (path BLOB PRIMARY KEY, state TEXT, digest BLOB)"
_CHUNK_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 23  # of small files that one thread reads in one go
_SELECT = "SELECT path, state, digest FROM hashes WHERE path IN"
_ASKED = 500  # files that are asked for at once
_TIMEOUT = 5.0  # seconds to wait for another process that writes
_SAY_AFTER = 1.0  # seconds
_KEEP_EVERY = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class FileHash:
    """A file as it was hashed.

    digest: BLAKE2b of its content, 16 bytes. state: what told this content from others. settled:
    no later change leaves the same state.
    """

    digest: bytes
    state: str
    settled: bool


def file_hashes(paths: Sequence[Path], say: Say = quiet) -> list[FileHash]:
    """Hashes of files, in the order of `paths` (resolved ones).

    Raises:
        UserError: a file cannot be read.
    """
    found: dict[Path, os.stat_result] = {}
    for path in paths:
        try:
            found[path] = os.stat(path)
        except OSError as error:
            raise fail(f"cannot read {path}: {error.strerror}") from None
    hashes = _recall({path: _state(stat) for path, stat in found.items()})
    missing = {path: stat.st_size for path, stat in found.items() if path not in hashes}
    if missing:
        unkept: dict[Path, FileHash] = {}
        kept_at = time.monotonic()
        for path, read in _read_all(missing, say):
            hashes[path] = unkept[path] = read
            if time.monotonic() - kept_at > _KEEP_EVERY:
                _remember(unkept)
                unkept, kept_at = {}, time.monotonic()
        _remember(unkept)
    return [hashes[path] for path in paths]


class Watched:
    """A file that is read for what it was when it was hashed.

    Raises (when made, and from its methods):
        UserError: it has changed since, or is gone.
    """

    def __init__(self, path: Path, known: FileHash) -> None:
        self.path, self._hash = path, known
        if not known.settled or self._state() != known.state:
            self._read_again()

    def check(self) -> None:
        """See that what was read so far is what was hashed."""
        state = self._state()
        if state == self._hash.state:
            return
        if _written(state) != _written(self._hash.state):
            raise changed(self.path)
        self._read_again()  # its mode or its links have changed

    def finish(self) -> None:
        """The same, of a file that is read no further."""
        self.check()
        if not self._hash.settled:
            self._read_again()

    def _state(self) -> str:
        try:
            return _state(os.stat(self.path))
        except OSError:
            raise changed(self.path) from None

    def _read_again(self) -> None:
        try:
            found = _read(self.path, [0], threading.Event())
        except UserError:
            raise changed(self.path) from None
        if found.digest != self._hash.digest:
            raise changed(self.path)
        self._hash = found


def changed(path: Path) -> UserError:
    """The error of a file that is not what the plan knows any more."""
    what = "has changed" if path.exists() else "has vanished"
    return fail(
        f"{path} {what} while this command was at work",
        "run the same command again; a run that has begun needs the file as it was, or --fresh",
    )


def _state(found: os.stat_result) -> str:
    """What tells one content of a file from another without reading it."""
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"


def _written(state: str) -> list[str]:
    """The part of a state that changes only when a file is written, replaced or touched."""
    size, mtime, _, inode = state.split()
    return [size, mtime, inode]


def _read_all(sizes: Mapping[Path, int], say: Say) -> Iterator[tuple[Path, FileHash]]:
    """Read files on all cores, as they come."""
    total, done = sum(sizes.values()), [0]
    began, stop = time.monotonic(), threading.Event()

    def work(block: list[Path]) -> list[tuple[Path, FileHash]]:
        return [(path, _read(path, done, stop)) for path in block]

    threads, blocks = count_threads(), _blocks(sizes)
    with ThreadPoolExecutor(threads, "ncamix-hashing") as pool:
        pending: set[Future[list[tuple[Path, FileHash]]]] = set()
        try:
            # A few at a time: each `wait` looks at all of them.
            while pending := pending | {
                pool.submit(work, block) for block in islice(blocks, 2 * threads - len(pending))
            }:
                ended, pending = wait(pending, _SAY_AFTER / 4, "FIRST_COMPLETED")
                for future in ended:
                    yield from future.result()
                if pending and time.monotonic() - began > _SAY_AFTER:
                    say("hashing the corpus", min(1.0, done[0] / max(1, total)))
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)


def _blocks(sizes: Mapping[Path, int]) -> Iterator[list[Path]]:
    block: list[Path] = []
    size = 0
    for path, own in sizes.items():
        block.append(path)
        size += own
        if size >= _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _read(path: Path, done: list[int], stop: threading.Event) -> FileHash:
    """Hash a file; `done` counts bytes, roughly where threads meet."""
    digest, now = hashlib.blake2b(digest_size=16), time.time_ns()
    try:
        with path.open("rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            while not stop.is_set() and (chunk := file.read(_CHUNK_BYTES)):
                digest.update(chunk)
                done[0] += len(chunk)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise fail(f"cannot read {path}: {error.strerror}") from None
    settled = now - after.st_mtime_ns >= SETTLED and _state(before) == _state(after)
    return FileHash(digest.digest(), _state(after), settled)


def _transact(work: Callable[[sqlite3.Connection], None]) -> None:
    """Let `work` have the memory, in a transaction; every failure of the memory is harmless."""
    import sqlite3

    file = cache_root() / MEMORY
    try:
        with closing(sqlite3.connect(file, timeout=_TIMEOUT)) as memory, memory:
            work(memory)
    except sqlite3.OperationalError:  # locked, full, or not to be written
        return
    except sqlite3.DatabaseError:  # no database, or a broken one: begun anew
        with suppress(OSError):
            file.unlink()


def _recall(states: Mapping[Path, str]) -> dict[Path, FileHash]:
    """The remembered hashes of those files that are as they were."""
    found: dict[Path, FileHash] = {}
    paths = {os.fsencode(path): path for path in states}
    keys = list(paths)

    def ask(memory: sqlite3.Connection) -> None:
        for first in range(0, len(keys), _ASKED):
            asked = keys[first : first + _ASKED]
            places = ",".join("?" * len(asked))
            rows = memory.execute(f"{_SELECT} ({places})", asked)
            for key, state, digest in rows:
                if states[paths[key]] == state:
                    found[paths[key]] = FileHash(digest, state, settled=True)

    if (cache_root() / MEMORY).exists():
        _transact(ask)
    return found


def _remember(read: Mapping[Path, FileHash]) -> None:
    rows = [(os.fsencode(path), r.state, r.digest) for path, r in read.items() if r.settled]

    def keep(memory: sqlite3.Connection) -> None:
        memory.execute(_TABLE)
        memory.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?)", rows)

    with suppress(OSError):
        if rows:
            cache_root().mkdir(parents=True, exist_ok=True)
            _transact(keep)
