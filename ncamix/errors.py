"""Errors for people: where, what, and the way out.

A `Problem` is one thing wrong with what the user wrote or asked for. Checks collect problems and
raise them together in one `UserError`, which the command line prints without a traceback and turns
into exit status 2. Anything else that is raised is a fault of ncamix or of the machine.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LINE_WIDTH = 88  # of what is shown of a line that the user wrote
NUM_OFFERED = 24  # names listed beside the nearest one


@dataclass(frozen=True)
class Problem:
    """One mistake: `what` is wrong, `remedy` is the way out, the rest says where.

    `path` is the YAML path (`stages.code.mixture`), `line` and `column` count from 1. `excerpt` is
    the line with a mark below the value; without one the value itself is printed.
    """

    what: str
    remedy: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    path: str = ""
    value: str = ""
    excerpt: str = ""

    def __str__(self) -> str:
        place = self.file
        if self.file and self.line:
            place += f":{self.line}:{self.column}"
        head = ": ".join(part for part in (place, _brief(self.path), self.what) if part)
        lines = head.split("\n")
        if self.excerpt:
            lines += [f"    {line}" for line in self.excerpt.split("\n")]
        elif self.value:
            lines.append("    value: " + _brief(self.value))
        if self.remedy:
            lines.append(f"    {self.remedy}")
        return "\n".join(_brief(line, 6 * LINE_WIDTH) for line in lines)


def excerpt(line: str, column: int, end: int) -> str:
    """A line that the user wrote, with marks below its columns `column` .. `end` - 1 (from 1).

    Long lines are cut around the marks. Empty when there is nothing to show.
    """
    line = "".join(c if c.isprintable() else " " for c in line).rstrip()
    if not line:
        return ""
    first = min(len(line) - len(line.lstrip()), column - 1)
    if len(line) - first > LINE_WIDTH:
        first = max(first, min(column - 1 - LINE_WIDTH // 4, len(line) - LINE_WIDTH))
    shown = line[first : first + LINE_WIDTH]
    marks = max(1, min(end - column, first + len(shown) + 1 - column))
    if first and line[:first].strip():
        shown = "..." + shown[3:]
    if len(line) > first + LINE_WIDTH:
        shown = shown[:-3] + "..."
    return f"{shown}\n{' ' * (column - 1 - first)}{'^' * marks}"


def _brief(text: str, width: int = LINE_WIDTH) -> str:
    """One line for a terminal: cut, and without characters that a terminal would obey."""
    shown = text if len(text) <= width else text[: width - 3] + "..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)


class UserError(Exception):
    """What the user wrote or asked for cannot be done; `problems` holds every reason found."""

    def __init__(self, problems: Problem | Sequence[Problem] | str) -> None:
        if isinstance(problems, str):  # an error that crossed processes comes back as its text
            problems = Problem(_original(problems))
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        assert self.problems, "a UserError carries at least one problem"
        super().__init__("\n".join(map(str, self.problems)))


def _original(text: str) -> str:
    """The message in the text of an error of a DataLoader's worker, where a traceback is first."""
    found = re.fullmatch(r"Caught .*\n[\w.]+: (.*)", text, re.DOTALL)
    return found[1].rstrip() if found else text


def fail(what: str, remedy: str = "", **where: object) -> UserError:
    """A `UserError` of one problem, to be raised; `where` are further `Problem` fields."""
    return UserError(Problem(what, remedy, **where))  # type: ignore[arg-type]


def nearest(word: str, known: Iterable[str], what: str = "known") -> str:
    """A sentence that offers the closest of `known`, or lists them all when none is close."""
    choices = [str(k) for k in known]
    plain = {choice.lower().replace("-", "_"): choice for choice in reversed(choices)}
    word = word[:LINE_WIDTH].lower().replace("-", "_")
    close = difflib.get_close_matches(word, plain, n=1, cutoff=0.6)
    listing = ", ".join(choices[:NUM_OFFERED]) if choices else "none"
    if len(choices) > NUM_OFFERED:
        listing += f" and {len(choices) - NUM_OFFERED} more"
    return (f"did you mean '{plain[close[0]]}'? " if close else "") + f"{what}: {listing}"
