"""Globs: the files that a pattern names, in an order that no file system changes.

    'src/**/*.py' -> src/a.py, src/b/c.py

`**` stands for any number of folders. Links to folders are followed, and a folder that was seen
with the same rest of the pattern is not entered again, so loops end. As in a shell, names that
begin with a dot match only a pattern that does.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from ncamix.errors import fail

Seen = set[tuple[int, int, tuple[str, ...]]]


def matching(pattern: str, folder: Path) -> Iterator[str]:
    """Paths of the files that match, below `folder` unless the pattern is absolute.

    Raises:
        UserError: a folder on the way cannot be read.
    """
    path = Path(pattern)
    start = path.anchor or str(folder)
    yield from _below(start, path.parts[bool(path.anchor) :], set())


def fixed_part(pattern: str) -> Path:
    """The folder above the first wildcard of a glob pattern."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:fixed])


def _below(folder: str, parts: tuple[str, ...], seen: Seen) -> Iterator[str]:
    try:
        identity = os.stat(folder)
        key = (identity.st_dev, identity.st_ino, parts)
        if key in seen:
            return
        seen.add(key)
        head, rest = parts[0], parts[1:]
        if not glob.has_magic(head):
            yield from _step(os.path.join(folder, head), rest, seen)
            return
        with os.scandir(folder) as found:  # what is no link first: its name is the file's own
            entries = sorted((e for e in found), key=lambda e: (e.is_symlink(), e.name))
    except OSError as error:
        raise fail(f"cannot read the folder {folder}: {error.strerror}") from None
    if head == "**" and rest:
        yield from _below(folder, rest, seen)
    for entry in entries:
        if entry.name.startswith(".") and not head.startswith("."):
            continue
        if head == "**" and os.path.isdir(entry.path):
            yield from _below(entry.path, parts, seen)
        elif head == "**" and not rest or head != "**" and fnmatchcase(entry.name, head):
            yield from _step(entry.path, rest, seen)


def _step(path: str, rest: tuple[str, ...], seen: Seen) -> Iterator[str]:
    """What a path that matched a part of the pattern leads to."""
    if rest and os.path.isdir(path):
        yield from _below(path, rest, seen)
    elif not rest and os.path.isfile(path):
        yield path
