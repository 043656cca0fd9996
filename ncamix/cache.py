"""The cache of compiled text and trained tokenizers, shared by all runs of a user.

    <cache>/<fingerprint>/source.json    what an entry holds; written last: says that it is whole
                          uses.json      curricula that used it, and when
    <cache>/uploads/<hash of a URL>/     what is on its way there; the lock file says the URL
            remotes/<hash of a URL>/     what was fetched from there
    <cache>/.locks/<fingerprint>.build   held, alone, by the process that builds or extends it
                   <fingerprint>.use     held, shared, by every process that reads it

The cache lies in `NCAMIX_CACHE`, or in `~/.cache/ncamix`. What a process reads it holds until it
ends; who removes entries leaves held ones alone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ncamix.errors import UserError, fail
from ncamix.files import DATA_LOCK, write_whole
from ncamix.waiting import Say, quiet

INFO = "source.json"
USES = "uses.json"
_LOCKS = ".locks"
_REMOVING = ".removing-"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOCKED = (errno.EACCES, errno.EPERM, errno.EROFS)
_POLL_SECONDS = 0.2
_FINGERPRINT = re.compile("[0-9a-f]{32}")
PASSAGES = {"uploads": "upload", "remotes": "remote"}  # folders of a URL each, by what they hold
_FRESH_SECONDS = 60  # a use within so many seconds of the last one is not written down again

_READ_LOCK = ".read.lock"  # in the folder of a URL
_held: dict[Path, IO[Any]] = {}  # locks of entries, and of URLs' folders, that this process reads


def cache_root() -> Path:
    """The cache folder; it need not exist."""
    given = os.environ.get("NCAMIX_CACHE")
    if given:
        return Path(given).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().resolve() / "ncamix"


def entry(fingerprint: str) -> Path:
    """The folder of an entry, existing or not."""
    return cache_root() / fingerprint


def entry_info(fingerprint: str) -> dict[str, Any] | None:
    """What a finished entry says of itself, or None."""
    info = _read_json(entry(fingerprint) / INFO)
    return info or None


def write_info(fingerprint: str, info: dict[str, Any]) -> None:
    """Say that an entry is whole, and what it holds."""
    data = json.dumps(info, sort_keys=True, indent=1, default=str).encode()
    write_whole(entry(fingerprint) / INFO, data)


# Building


@contextmanager
def building(fingerprint: str, what: str, say: Say = quiet) -> Iterator[Path]:
    """Lock everybody else out of building an entry; its folder, which exists then.

    Waits, and says so, while another process holds the lock. An entry that is still empty when the
    block ends is removed. what: the entry, in words.

    Raises:
        UserError: the cache cannot be written, or is full.
    """
    folder = entry(fingerprint)
    try:
        lock = _lock_file(fingerprint, "build").open("a")
    except OSError as error:
        raise _unwritable(error) from None
    with lock:
        while not _try_lock(lock, fcntl.LOCK_EX):
            say(f"waiting for another process: {what}", 0.0)
            time.sleep(_POLL_SECONDS)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.rglob(".*.tmp"):  # by a killed process; the lock is ours
                if not left.name.startswith(f".{USES}"):
                    left.unlink()
            yield folder
        except OSError as error:
            if error.errno in _FULL:
                raise fail(
                    f"there is no room left for {what} in the cache {cache_root()} "
                    f"({error.strerror})",
                    "make room, or set NCAMIX_CACHE to a folder with more; what is finished is "
                    "kept, and the same command goes on from there",
                ) from None
            if error.errno in _LOCKED and _is_below(error.filename, cache_root()):
                raise _unwritable(error) from None
            raise
        finally:
            if folder.is_dir() and not any(
                p.is_file() and p.stat().st_size for p in folder.rglob("*")
            ):
                shutil.rmtree(folder, ignore_errors=True)


def _is_below(file: object, folder: Path) -> bool:
    return isinstance(file, str | Path) and folder in Path(file).parents


def _unwritable(error: OSError) -> UserError:
    return fail(
        f"the cache {cache_root()} cannot be written ({error.strerror})",
        "set NCAMIX_CACHE to a folder that can",
    )


# Using


def hold(fingerprint: str) -> None:
    """Mark an entry, existing or not, as in use by this process until it ends."""
    root = cache_root()
    for path in [p for p in _held if root not in p.parents]:  # of a cache that is used no more
        _held.pop(path).close()
    try:
        path = _lock_file(fingerprint, "use")
        if path not in _held:
            lock = path.open("a")
            fcntl.flock(lock, fcntl.LOCK_SH)  # who holds it alone is about to be done
            _held[path] = lock
    except OSError:  # a cache that cannot be written loses no entry either
        return


def hold_folder(folder: Path) -> None:
    """Mark the folder of the cache that belongs to a URL as read by this process until it ends."""
    if folder not in _held:
        lock = (folder / _READ_LOCK).open("a")
        fcntl.flock(lock, fcntl.LOCK_SH)
        _held[folder] = lock


def in_use(fingerprint: str) -> bool:
    """Whether a process, this one included, reads or builds an entry."""
    with _alone(fingerprint) as free:
        return not free


def note_use(fingerprint: str, curriculum: str) -> None:
    """Write down that a curriculum uses an entry, and when."""
    now = time.time()
    file = entry(fingerprint) / USES
    if now - _read_json(file).get(curriculum, 0) < _FRESH_SECONDS:
        return
    try:
        with _lock_file("all", "uses").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            uses = {**_read_json(file), curriculum: round(now)}
            write_whole(file, json.dumps(uses, sort_keys=True).encode())
    except OSError:  # the entry serves nevertheless
        return


# Looking after


@dataclass(frozen=True)
class Entry:
    """An entry as it is listed.

    kind: text, pairs, mds (an index), tokenizer; `upload` for what is on its way to a URL, `remote`
    for what was fetched from one; `unfinished` for what a killed process left, from which the next
    one goes on. name: of the source, where known. url: that it was fetched from, or goes to; empty
    for what was made here. last_use: seconds since 1970.
    """

    fingerprint: str
    kind: str
    name: str
    url: str
    num_bytes: int
    last_use: float
    curricula: tuple[str, ...]
    in_use: bool

    @property
    def age(self) -> float:
        """Seconds since the last use."""
        return max(0.0, time.time() - self.last_use)


def entries() -> list[Entry]:
    """All entries of the cache, the one used last first."""
    root = cache_root()
    folders = [p for p in root.glob("*") if _FINGERPRINT.fullmatch(p.name) and p.is_dir()]
    folders += [p for place in PASSAGES for p in (root / place).glob("*") if p.is_dir()]
    found = []
    for folder in folders:
        info, uses = entry_info(folder.name) or {}, _read_json(folder / USES)
        last = max([*uses.values(), 0]) or folder.stat().st_mtime
        found.append(
            Entry(
                folder.relative_to(root).as_posix(),
                PASSAGES.get(folder.parent.name) or str(info.get("kind", "unfinished")),
                str(info.get("name", "")),
                _url_of(folder, info),
                sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
                float(last),
                tuple(sorted(uses)),
                in_use(folder.relative_to(root).as_posix()),
            )
        )
    return sorted(found, key=lambda e: (-e.last_use, e.fingerprint))


def _url_of(folder: Path, info: dict[str, Any]) -> str:
    """The URL that an entry was fetched from, or goes to."""
    if info.get("kind") == "mds":
        return str(info.get("meaning", {}).get("remote") or "")
    try:
        return (folder / DATA_LOCK).read_text()
    except OSError:
        return ""


def note_url(lock: IO[str], url: str) -> None:
    """Write the URL that a passage's folder belongs to into its lock file, which is held."""
    lock.truncate(0)
    lock.write(url)
    lock.flush()


def remove(fingerprint: str) -> bool:
    """Remove an entry, unless a process reads or builds it; whether it is gone."""
    root = cache_root()
    for left in root.glob(f"{_REMOVING}*"):  # by a killed process
        shutil.rmtree(left, ignore_errors=True)
    with _alone(fingerprint) as free:
        if free and entry(fingerprint).is_dir():
            aside = root / f"{_REMOVING}{fingerprint.replace('/', '-')}"
            os.replace(entry(fingerprint), aside)
            shutil.rmtree(aside, ignore_errors=True)
        return free


# Locks


def _lock_file(fingerprint: str, purpose: str) -> Path:
    folder = cache_root() / _LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{fingerprint}.{purpose}"


def _try_lock(file: IO[Any], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


@contextmanager
def _alone(fingerprint: str) -> Iterator[bool]:
    """Whether nobody else reads or builds an entry, nor begins to within the block."""
    if "/" in fingerprint:  # of a URL
        try:
            with (
                (entry(fingerprint) / DATA_LOCK).open("a") as data,
                (entry(fingerprint) / _READ_LOCK).open("a") as read,
            ):
                yield _try_lock(data, fcntl.LOCK_EX) and _try_lock(read, fcntl.LOCK_EX)
        except FileNotFoundError:
            yield True
        return
    with (
        _lock_file(fingerprint, "use").open("a") as use,
        _lock_file(fingerprint, "build").open("a") as build,
    ):
        yield _try_lock(use, fcntl.LOCK_EX) and _try_lock(build, fcntl.LOCK_EX)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
