"""Disks that fill while a run writes: which folder it is, what is free there, and the way out.

an error of the machine, without a name + the folders that are written to -> the fullest of them
an error of writing to a known folder                                     -> what is wrong with it
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ncamix.errors import UserError, fail
from ncamix.quantities import format_bytes

FULL = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (
    *FULL,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
)  # no other try helps


@contextmanager
def told_if_full(ways_out: dict[Path, str]) -> Iterator[None]:
    """Writes into some folders, within the block.

    ways_out: what helps where a folder is full, beside making room.

    Raises:
        UserError: the disk of one of them is full. It names the folder, and what is free there.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        # errors of writing to an open file name none: it is in the folder with the least room
        name = Path(error.filename) if isinstance(error.filename, str) else None
        known = [folder for folder in ways_out if name is not None and folder in name.parents]
        folder = min(known or ways_out, key=free_bytes)
        raise fail(
            f"there is no room left in {folder} ({error.strerror}): "
            f"{format_bytes(free_bytes(folder))} are free",
            f"make room there and run the same command again to continue, or {ways_out[folder]}",
        ) from None


def unwritable(folder: Path, what: str, error: OSError, way_out: str = "") -> UserError:
    """The error that a folder does not take `what`: it is full, or not for us to write to.

    way_out: what helps beside making room, or permission; TMPDIR, in the temporary folder.
    """
    temporary = Path(tempfile.gettempdir())
    if any(p.parent == temporary and p.name.startswith("ncamix-") for p in folder.parents):
        way_out = way_out or "set TMPDIR to another folder"
    if error.errno in FULL:
        return fail(
            f"there is no room left in {folder} for {what} ({error.strerror}): "
            f"{format_bytes(free_bytes(folder))} are free",
            "make room there and run the same command again to continue"
            + (f", or {way_out}" if way_out else ""),
        )
    return fail(
        f"{folder} cannot be written, where {what} is to lie ({error.strerror})",
        "see that it can be written and run the same command again to continue"
        + (f", or {way_out}" if way_out else ""),
    )


def free_bytes(folder: Path) -> int:
    """Bytes that are free for us on the disk of a folder, which need not exist yet."""
    there = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    return shutil.disk_usage(there).free
