"""The cache of compiled text and trained tokenizers, shared by all runs of a user.

    <cache>/<fingerprint>/source.json    what an entry holds; written last: says that it is whole
                          uses.json      curricula that used it, and when
    <cache>/uploads/<hash of a URL>/     what is on its way there; the lock file says the URL
            remotes/<hash of a URL>/     what was fetched from there
    <cache>/.locks/<fingerprint>.build   held, alone, by the process that builds or extends it
                   <fingerprint>.use     held, shared, by every process that reads it
                   uploads-<hash>.use, remotes-<hash>.use    held likewise; who writes there
                                         also holds, alone, the folder's own lock file

The cache lies in `NCAMIX_CACHE`, or in `~/.cache/ncamix`. What a process reads it holds until it
ends; who removes entries leaves held ones alone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ncamix.errors import UserError, fail
from ncamix.files import DATA_LOCK, write_whole
from ncamix.locks import HeldLocks
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
_held = HeldLocks()  # of entries, and of URLs' folders, that this process uses


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
            if folder.is_dir() and not any(_sizes(folder)):
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
    with suppress(OSError):  # a cache that cannot be written loses no entry either
        _hold(fingerprint)


def hold_folder(folder: Path) -> None:
    """Mark the folder of the cache that belongs to a URL, existing or not, as in use by this
    process until it ends.

    Raises:
        UserError: the cache cannot be written.
    """
    try:
        _hold(folder.relative_to(cache_root()).as_posix())
    except OSError as error:
        raise _unwritable(error) from None


def _hold(fingerprint: str) -> None:
    _held.give_up(spare=cache_root())  # those of a cache that is used no more
    _held.take(_lock_file(fingerprint, "use"), fcntl.LOCK_SH)  # who is alone is soon done


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
        try:
            last = max([*uses.values(), 0]) or folder.stat().st_mtime
        except FileNotFoundError:  # another process has just removed it
            continue
        found.append(
            Entry(
                folder.relative_to(root).as_posix(),
                PASSAGES.get(folder.parent.name) or str(info.get("kind", "unfinished")),
                str(info.get("name", "")),
                _url_of(folder, info),
                sum(_sizes(folder)),
                float(last),
                tuple(sorted(uses)),
                in_use(folder.relative_to(root).as_posix()),
            )
        )
    return sorted(found, key=lambda e: (-e.last_use, e.fingerprint))


def _sizes(folder: Path) -> Iterator[int]:
    """Bytes of the files below a folder in which another process may be at work."""
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # it has gone since it was listed
                yield os.lstat(os.path.join(place, name)).st_size


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
    """Remove an entry, unless a process reads or builds it; whether it is gone.

    Raises:
        UserError: the cache cannot be written.
    """
    root = cache_root()
    aside = root / f"{_REMOVING}{secrets.token_hex(8)}"
    with _alone(fingerprint) as free:
        if free and entry(fingerprint).is_dir():
            try:
                os.replace(entry(fingerprint), aside)
            except OSError as error:
                raise _unwritable(error) from None
    for left in root.glob(f"{_REMOVING}*"):  # by killed processes, too
        shutil.rmtree(left, ignore_errors=True)
    return free


# Locks


def _lock_file(fingerprint: str, purpose: str) -> Path:
    """A lock file of an entry, in a folder that exists then."""
    file = _lock_path(fingerprint, purpose)
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _lock_path(fingerprint: str, purpose: str) -> Path:
    return cache_root() / _LOCKS / f"{fingerprint.replace('/', '-')}.{purpose}"


def _try_lock(file: IO[Any], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False


@contextmanager
def _alone(fingerprint: str) -> Iterator[bool]:
    """Whether nobody else reads or builds an entry, nor begins to within the block."""
    of_url = "/" in fingerprint
    writing = entry(fingerprint) / DATA_LOCK if of_url else _lock_path(fingerprint, "build")
    using = _lock_path(fingerprint, "use")
    with suppress(OSError):  # then it can only be looked at
        using.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as files:
        free = True
        for lock in (using, writing):
            with suppress(FileNotFoundError):  # nobody can hold it: its folder is not there
                free = _try_lock(files.enter_context(_opened(lock)), fcntl.LOCK_EX) and free
        yield free


def _opened(lock: Path) -> IO[Any]:
    """A lock file, read where it cannot be written: that serves to lock it, too."""
    try:
        return lock.open("a")
    except OSError as error:
        if error.errno not in _LOCKED:
            raise
        return lock.open()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
