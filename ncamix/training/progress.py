"""Progress: a bar that counts tokens and names stage, mixture and loss; else, lines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from ncamix.quantities import format_count
from ncamix.waiting import Say, Waiting

_LINE_SECONDS = 10.0
_BAR_FROM = 100  # columns of a terminal; on a narrower one numbers need all of them


class _Mixture(ProgressColumn):
    """The mixture, cut off where the line is too long; every other text stays whole."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(overflow="ellipsis"))

    def render(self, task: Task) -> Text:
        return Text(str(task.fields["mixture"]), no_wrap=True, overflow="ellipsis")


class RunProgress:
    """Progress of a whole run in tokens. A context manager; silent on all ranks but the first."""

    def __init__(self, num_tokens: int, console: Console, enabled: bool) -> None:
        self.num_tokens, self.console, self.enabled = num_tokens, console, enabled
        self.bar: Progress | None = None
        self._next_line = 0.0
        self._speed: float | None = None
        self._last: tuple[float, int] | None = None

    def __enter__(self) -> RunProgress:
        if self.enabled and self.console.is_terminal:
            bar = BarColumn(bar_width=24, finished_style="green")
            self.bar = Progress(
                TextColumn("[bold]{task.fields[stage]}"),
                *([bar] if self.console.width >= _BAR_FROM else []),
                TextColumn("{task.fields[tokens]}"),
                _Mixture(),
                TextColumn("{task.fields[loss]}"),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
                TextColumn("{task.fields[note]}"),
                console=self.console,
                refresh_per_second=4,
            )
            self.task = self.bar.add_task(
                "",
                total=self.num_tokens,
                stage="",
                tokens="",
                mixture="",
                loss="",
                speed="",
                note="",
            )
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def pause(self, num_tokens: int | None = None, stage: str = "", doing: str = "") -> None:
        """Time that passes now is not training (evaluation, hand-over). num_tokens: of the run, if
        that has changed. stage, doing: where and what, shown beside the bar."""
        self._last = None
        if doing and self.bar is not None:
            self.bar.update(self.task, stage=stage, note=doing)
        if num_tokens is not None:
            self.num_tokens = num_tokens
            if self.bar is not None:
                self.bar.update(self.task, total=num_tokens)

    def say(self, line: str) -> None:
        """Print a line beside the bar."""
        if self.enabled:
            self.console.print(line, highlight=False, markup=False)

    @contextmanager
    def aside(self) -> Iterator[Say]:
        """What to tell of what the run waits for; from the first word on it is shown instead of the
        bar."""
        shown: list[Waiting] = []

        def say(what: str, share: float) -> None:
            if self.enabled and not shown:
                if self.bar is not None:
                    self.bar.stop()
                shown.append(Waiting(self.console, what).__enter__())
            for waiting in shown:
                waiting.say(what, share)

        try:
            yield say
        finally:
            for waiting in shown:
                waiting.__exit__()
                if self.bar is not None:
                    self.bar.start()

    def update(
        self, stage: str, tokens: int, mixture: dict[str, float], loss: float | None, note: str
    ) -> None:
        """Show the state after a batch. tokens: consumed in the run; mixture: shares of 1; loss:
        nats per token, None if no token had one; note: what goes on beside training."""
        if not self.enabled:
            return
        now = time.monotonic()
        if self._last is not None and now > self._last[0]:
            speed = (tokens - self._last[1]) / (now - self._last[0])
            self._speed = speed if self._speed is None else 0.9 * self._speed + 0.1 * speed
        self._last = (now, tokens)
        shown = sorted(((w, n) for n, w in mixture.items() if w > 0.005), reverse=True)
        mix = " ".join(f"{name} {weight:.0%}" for weight, name in shown[:4])
        mix += f" +{len(shown) - 4}" if len(shown) > 4 else ""
        loss_text = f"loss {loss:.3f}" if loss is not None else "no loss"
        count = f"{format_count(tokens)}/{format_count(self.num_tokens)} tokens"
        speed_text = f"{format_count(self._speed)} tokens/s" if self._speed else ""
        if self.bar is not None:
            self.bar.update(
                self.task,
                completed=tokens,
                stage=stage,
                tokens=count,
                mixture=mix,
                loss=loss_text,
                speed=speed_text,
                note=note,
            )
        elif now >= self._next_line or tokens >= self.num_tokens:
            self._next_line = now + _LINE_SECONDS
            line = f"{stage:>12}  {count:>22}  {mix:<40}  {loss_text}  {speed_text}  {note}"
            self.console.print(line.rstrip(), highlight=False, soft_wrap=True)
