"""Errors for people: where, what, and the way out.

A `Problem` is one thing wrong with what the user wrote or asked for. Checks collect problems and
raise them together in one `UserError`, which the command line prints without a traceback and turns
into exit status 2. Anything else that is raised is a fault of ncamix or of the machine.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake: `what` is wrong, `remedy` is the way out, the rest says where.

    `path` is the YAML path (`stages.code.mixture`), `line` and `column` count from 1.
    """

    what: str
    remedy: str = ""
    file: str = ""
    line: int = 0
    column: int = 0
    path: str = ""
    value: str = ""

    def __str__(self) -> str:
        place = self.file
        if self.file and self.line:
            place += f":{self.line}:{self.column}"
        head = ": ".join(part for part in (place, self.path, self.what) if part)
        lines = [head]
        if self.value:
            lines.append(f"    value: {self.value}")
        if self.remedy:
            lines.append(f"    {self.remedy}")
        return "\n".join(lines)


class UserError(Exception):
    """What the user wrote or asked for cannot be done; `problems` holds every reason found."""

    def __init__(self, problems: Problem | Sequence[Problem] | str) -> None:
        if isinstance(problems, str):  # an error that crossed processes comes back as its text
            problems = Problem(problems)
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        assert self.problems, "a UserError carries at least one problem"
        super().__init__("\n".join(map(str, self.problems)))


def fail(what: str, remedy: str = "", **where: object) -> UserError:
    """A `UserError` of one problem, to be raised; `where` are further `Problem` fields."""
    return UserError(Problem(what, remedy, **where))  # type: ignore[arg-type]


def nearest(word: str, known: Iterable[str], what: str = "known") -> str:
    """A sentence that offers the closest of `known`, or lists them all when none is close."""
    choices = [str(k) for k in known]
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    listing = ", ".join(choices) if choices else "none"
    return (f"did you mean '{close[0]}'? " if close else "") + f"{what}: {listing}"
