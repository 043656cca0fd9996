"""Folders that remote data sets are kept in: the `local` of a source that has a `remote`, too.

    new, or filled by an earlier run      -> held by one run at a time, which writes the index
    with a copy of the data set           -> the same: what is sound there is not fetched again
    with anything else of the same names  -> refused

A folder that was filled by a run has a file of hashes, which says so.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from ncamix.disk import unwritable
from ncamix.errors import fail
from ncamix.files import DATA_LOCK, write_whole
from ncamix.keys import fingerprint
from ncamix.locks import HeldLocks
from ncamix.shards import INDEX, parts_of, read_index
from ncamix.sources.mds import MdsIndex

KEPT_HASHES = ".hashes-"  # begins the name of the file of hashes; what tells data sets follows
_WAIT_SECONDS, _POLL_SECONDS = 300.0, 0.05  # for the machine's first rank

_held = HeldLocks()  # of folders that runs of this process fetch into


def check_free(folder: Path, index: MdsIndex, what: str) -> None:
    """See that a data set may be kept in a folder. what: the data set in words.

    Raises:
        UserError: it holds files of the same names which are not a copy of the data set.
    """
    if any(folder.glob(f"{KEPT_HASHES}*")):
        return
    with suppress(OSError, ValueError):
        if fingerprint({"shards": read_index(folder, nested=True)}) == index.digest:
            return
    names = (str(file["basename"]) for entry in index.entries for file in parts_of(entry))
    found = next((name for name in (INDEX, *names) if (folder / name).exists()), None)
    if found is not None:
        raise fail(
            f"{folder} holds a file {found}, and is no copy of {what}",
            "name another folder with `local`",
        )


def begin_keeping(folder: Path, index: MdsIndex, data: bytes, what: str) -> None:
    """Have a data set kept in a folder until this process ends; others are kept out.

    The node's first rank does so, and the others wait for it. data: bytes of `index.json`.

    Raises:
        UserError: another run fetches into the folder, other things lie there, or it cannot be
            written.
    """
    if os.environ.get("LOCAL_RANK", "0") != "0":
        _await(folder / INDEX, data)
        return
    check_free(folder, index, what)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _held.take(folder / DATA_LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_whole(folder / INDEX, data)
    except BlockingIOError:
        raise fail(
            f"another run fetches into {folder}", "wait for its end, or name another `local`"
        ) from None
    except OSError as error:
        raise unwritable(folder, what, error, "name another folder with `local`") from None


def _await(file: Path, data: bytes) -> None:
    """Wait until the node's first rank, which holds the folder, has written a file.

    Raises:
        UserError: it has not.
    """
    ends = time.monotonic() + _WAIT_SECONDS
    while not (file.is_file() and file.read_bytes() == data):
        if time.monotonic() > ends:
            raise fail(
                f"the first process on this machine did not write {file}",
                "see what it says, and run the same command again",
            )
        time.sleep(_POLL_SECONDS)
