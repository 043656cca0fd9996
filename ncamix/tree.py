"""Values of YAML that know where they were written: which file or option, which line and column.

Lines and columns count from 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ncamix.errors import Problem, excerpt

SETTING = "--set"  # the origin of what the command line says
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


def lines_of(text: str) -> list[str]:
    """Lines as YAML counts them."""
    return _LINE_END.split(text)


class Place(NamedTuple):
    """Where something stands: line and column, from 1, and the column behind its end.

    Of what ends on another line, only the first character is meant.
    """

    line: int
    column: int
    end: int


@dataclass(frozen=True)
class Origin:
    """Where values were read: a `file` as the user named it, or SETTING, and its `text`."""

    file: str
    text: str = field(repr=False)

    @cached_property
    def lines(self) -> list[str]:
        return lines_of(self.text)

    @property
    def folder(self) -> Path:
        """Where relative paths among the values start: beside the file, or where the user is."""
        return Path(self.file).resolve().parent

    def problem(
        self,
        what: str,
        remedy: str,
        place: Place,
        path: str = "",
        value: str = "",
        marked: Place | None = None,
    ) -> Problem:
        """A problem located at `place`, which shows that line and marks `marked` or the place."""
        _, first, end = marked or place
        shown = excerpt(self.lines[place.line - 1], first, end)
        line, column = (0, 0) if self.file == SETTING else place[:2]
        return Problem(what, remedy, self.file, line, column, path, value, shown)


@dataclass(frozen=True)
class Tree:
    """One YAML node: `value` is a dict of Trees by key text, a list of Trees, or a scalar.

    `text` is a scalar as written, `key` where the key stands that it is the value of, if any.
    """

    value: Any
    text: str
    origin: Origin
    place: Place
    key: Place | None = None

    def plain(self) -> Any:
        """The value without positions: dicts, lists, str, int, Decimal, bool, None."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def problem(self, what: str, remedy: str = "", path: str = "") -> Problem:
        """A problem located here: at a scalar, or at the key of anything else."""
        if isinstance(self.value, dict | list):
            return self.origin.problem(what, remedy, self.key or self.place, path)
        marked = self.place
        if self.key is not None and self.key.line == marked.line:  # either may be what is wrong
            marked = marked._replace(column=self.key.column)
        return self.origin.problem(what, remedy, self.place, path, self.text, marked)
