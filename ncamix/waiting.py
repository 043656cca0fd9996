"""Waiting, said aloud: long work tells what it does and how far it is, and a terminal shows it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Say = Callable[[str, float], None]  # what is being done, and the share of it that is (0 to 1)

_LINE_SECONDS = 10.0


def quiet(what: str, share: float) -> None:
    """Say nothing."""


def tell(line: str) -> None:
    """Say what a reader should know even when nothing is being waited for: on stderr, from any
    process."""
    _tell(line)


def tell_by(way: Callable[[str], None]) -> None:
    """Have another say what this process tells from now on."""
    global _tell
    _tell = way


def _print(line: str) -> None:
    print(f"ncamix: {line}", file=sys.stderr, flush=True)


_tell: Callable[[str], None] = _print


class Waiting:
    """Says what is being waited for: a spinner on a terminal, else a line now and then."""

    def __init__(self, console: Console | None, what: str) -> None:
        self.console, self.what = console, what
        self._status = console.status(what) if console and console.is_terminal else None
        self._next_line = 0.0

    def __enter__(self) -> Waiting:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._status is not None:
            self._status.stop()

    def say(self, what: str, done: float) -> None:
        """Show a step and the share of it that is done (0 to 1)."""
        if self._status is not None:
            self._status.update(f"{what}, {done:.0%}")
        elif self.console is not None and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_SECONDS
            self.console.print(f"{what}, {done:.0%}", highlight=False, markup=False)


class WaitingIfLong:
    """Shows nothing until the first word, and then on a terminal only: for work that is rare."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._waiting: Waiting | None = None

    def __enter__(self) -> Say:
        return self._say

    def __exit__(self, *error: object) -> None:
        if self._waiting is not None:
            self._waiting.__exit__(*error)

    def _say(self, what: str, share: float) -> None:
        if self._waiting is None:
            console = self._console if self._console.is_terminal else None
            self._waiting = Waiting(console, what).__enter__()
        self._waiting.say(what, share)
