"""Progress of a study: how many runs are over, what trains now, how long is left.

A bar of tokens on a terminal; elsewhere a line for every run that ends, and one a minute.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ncamix.quantities import counted, format_count, format_seconds
from ncamix.run_log import METRICS
from ncamix.study_runs import StudyRun

_LINE_SECONDS = 60.0
_TAIL = 1 << 14  # bytes at the end of a record that hold its last row
_SHOWN = 4  # runs named on a line


class StudyProgress:
    """A context manager. totals: tokens that are over and tokens in all, of what this process is to
    train, asked for whenever it is shown; likewise the numbers of runs."""

    def __init__(
        self, console: Console, folder: Path, totals: Callable[[], tuple[int, int, int, int]]
    ) -> None:
        self.console, self.folder, self.totals = console, folder, totals
        self._bar: Progress | None = None
        self._next_line = 0.0
        self._began: tuple[float, int] | None = None

    def __enter__(self) -> StudyProgress:
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.fields[runs]}"),
                BarColumn(bar_width=24, finished_style="green"),
                TextColumn("{task.fields[left]}"),
                TextColumn("[dim]{task.fields[now]}"),
                console=self.console,
                refresh_per_second=2,
            )
            self._task = self._bar.add_task("", total=1, runs="", left="", now="")
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False)

    def update(self, running: Sequence[StudyRun]) -> None:
        """Show how far it is. running: what trains now."""
        now = time.monotonic()
        if self._bar is None and now < self._next_line:
            return
        self._next_line = now + _LINE_SECONDS
        over, tokens, all_runs, all_tokens = self.totals()
        tokens += sum(tokens_so_far(self.folder / run.folder) for run in running)
        if self._began is None:
            self._began = now, tokens
        left = self._left(now, tokens, all_tokens)
        runs = f"{over} of {counted(all_runs, 'run')}"
        names = [run.name for run in running[:_SHOWN]]
        names += [f"and {len(running) - _SHOWN} more"] if len(running) > _SHOWN else []
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=tokens,
                total=max(1, all_tokens),
                runs=runs,
                left=left,
                now="; ".join(names),
            )
        elif running:
            share = f"{format_count(tokens)} of {format_count(all_tokens)} tokens"
            self.say(", ".join(filter(None, [runs, share, left])) + f"; now {'; '.join(names)}")

    def _left(self, now: float, tokens: int, of: int) -> str:
        """How long it takes at the pace so far."""
        assert self._began is not None
        seconds, trained = now - self._began[0], tokens - self._began[1]
        if seconds < 10 or trained <= 0:
            return ""
        return f"{format_seconds((of - tokens) / trained * seconds)} left"


def tokens_so_far(run: Path) -> int:
    """Tokens that a run has consumed, by the last whole row of its record; 0 without any."""
    try:
        with (run / METRICS).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            rows = file.read().split(b"\n")[:-1]
        return int(json.loads(rows[-1])["tokens"])
    except (OSError, ValueError, LookupError, TypeError):
        return 0
