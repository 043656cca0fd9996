"""Files and folders: whole or not at all, and never in somebody else's place.

A folder that ncamix fills carries a lock file. One that holds other things and no such file is
somebody else's: it is neither written into nor moved.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ncamix.errors import UserError, fail

RUN_LOCK, DATA_LOCK = ".lock", ".data.lock"  # of a run's folder, and of compiled datasets


def write_whole(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that it appears whole or not at all."""
    with replaced(path) as temporary:
        temporary.write_bytes(data)


def replace_link(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to `target`, at once; other ranks do the same."""
    with replaced(link) as temporary:
        temporary.symlink_to(target)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Where to make, within the block, what is at `path` after it; nothing is left if it fails."""
    temporary = beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def beside(path: Path) -> Path:
    """A name beside a path that no other process takes, on this host or another."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def write_drawn(file: Path, draw: Callable[[], bytes]) -> None:
    """Draw a picture into a file that `--plot` names, and make its folder.

    Raises:
        UserError: it cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, draw())
    except (OSError, ValueError) as error:  # "." has no name
        reason = f"{file} cannot be written ({getattr(error, 'strerror', error)})"
        raise fail(reason, "choose another file with --plot") from None


def make_folder(path: Path, lock: str) -> Path | None:
    """Create a folder to fill, and those above it; the topmost one that was not there before.

    lock: the name of its lock file, which says what it is for.

    Raises:
        UserError: it cannot be created, or it holds other things.
    """
    missing = [p for p in [*reversed(path.parents), path] if not p.exists()]
    try:
        if path.is_dir() and any(path.iterdir()) and not (path / lock).exists():
            raise fail(
                f"the output folder {path} holds other things",
                "choose an empty or a new one with --out",
            )
    except OSError as error:
        raise _unwritable(path, error) from None
    make_output(path)
    return missing[0] if missing else None


def make_output(path: Path) -> None:
    """Create a folder for results, and those above it. Raises UserError if it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UserError:
    return fail(
        f"the output folder {path} cannot be written ({error.strerror})",
        "choose another with --out",
    )


def leave_nothing(path: Path, created: Path | None, lock: str) -> None:
    """Remove what `make_folder` created, from `created` down, if nothing but the lock came there.

    The caller holds the lock.
    """
    if created is None or [p.name for p in path.glob("*")] not in ([], [lock]):
        return
    (path / lock).unlink(missing_ok=True)
    for folder in [path, *path.parents]:
        if any(folder.iterdir()):
            return
        folder.rmdir()
        if folder == created:
            return
