"""Progress of a compilation: tokens written, tokens/s and time left; a bar, or lines."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ncamix.compilation.writer import Watcher
from ncamix.quantities import counted, format_count

_LINE_SECONDS = 10.0


class CompileProgress(Watcher):
    """Shows what is being written. A context manager. Speed is of what is made or brought now, not
    of what was there."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._total = self._done = self._new = 0
        self._made, self._mended = 0, dict[str, int]()
        self._began = time.monotonic()
        self._next_line = self._began + _LINE_SECONDS
        if console.is_terminal:
            what, how = TextColumn("{task.description}"), TextColumn("{task.fields[how]}")
            self._bar = Progress(what, BarColumn(), how, console=console)
            self._task = self._bar.add_task("", total=1.0, how="")

    def __enter__(self) -> CompileProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, what: str, share: float) -> None:
        """What happens before the writing, and the share of it that is done (0 to 1)."""
        self._show(what, share, f"{share:.0%}")

    def begin(self, num_tokens: int) -> None:
        self._total, self._began = num_tokens, time.monotonic()

    def wrote(self, folder: str, samples: int, tokens: int, kept: bool) -> None:
        self._done += tokens
        self._new += 0 if kept else tokens
        how = f"{format_count(self._done)}/{format_count(self._total)} tokens"
        speed = self._new / max(time.monotonic() - self._began, 1e-9)
        if self._new:
            seconds = (self._total - self._done) / speed
            how += f"  {format_count(speed)} tokens/s  {_clock(seconds)} left"
        self._show(folder, self._done / max(self._total, 1), how)

    def wrote_all(self, made: int, mended: Mapping[str, int]) -> None:
        self._made, self._mended = made, {k: mended[k] for k in sorted(mended) if mended[k]}

    def ending(self, place: str, number: int, baked: bool) -> list[str]:
        """What is said of so many datasets that are whole now: a line each of those that were
        mended, and what was written."""
        lines = [
            f"{folder}: {counted(shards, 'shard')} {'was' if shards == 1 else 'were'} damaged or "
            "gone, and made again"
            for folder, shards in self._mended.items()
        ]
        what = counted(number, "baked stage" if baked else "dataset")
        if self._made:
            return [*lines, f"wrote {place}/plan.json and {what}"]
        return [*lines, f"{place} held all of it already: plan.json and {what}"]

    def _show(self, what: str, share: float, how: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, description=what, completed=share, how=how)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + _LINE_SECONDS
            self._console.print(f"{what}  {how}", highlight=False, markup=False, soft_wrap=True)


def _clock(seconds: float) -> str:
    """A time for a reader: 0:05, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
