"""Disks that fill while a run writes: which folder it is, what is free there, and the way out.

an error of the machine, without a name + the folders that are written to -> the fullest of them
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ncamix.errors import fail
from ncamix.quantities import format_bytes

FULL = (errno.ENOSPC, errno.EDQUOT)


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


def free_bytes(folder: Path) -> int:
    """Bytes that are free for us on the disk of a folder, which need not exist yet."""
    there = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    return shutil.disk_usage(there).free
