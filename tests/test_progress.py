"""Progress of a run: what a terminal and a log are told."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from ncamix.training.progress import RunProgress


def shown(terminal: bool, width: int = 200) -> tuple[RunProgress, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width)
    return RunProgress(1000, console, enabled=True), out


def test_what_is_waited_for_takes_the_place_of_the_bar() -> None:
    progress, out = shown(terminal=True)
    with progress:
        assert progress.bar is not None
        with progress.aside() as say:
            assert progress.bar.live.is_started  # nothing said, nothing changed
            say("waiting for text: tokenizing 'code'", 0.43)
            assert not progress.bar.live.is_started
            say("waiting for text: tokenizing 'code'", 0.57)
        assert progress.bar.live.is_started
        progress.update("code", 500, {"code": 1.0}, 2.5, "compiling text: more 7%")
    assert "tokenizing 'code', 57%" in out.getvalue()
    assert "compiling text: more 7%" in out.getvalue()


def test_what_goes_on_before_the_first_batch_is_told() -> None:
    progress, out = shown(terminal=True)
    with progress:
        progress.pause(stage="automata", doing="evaluating")
    last = out.getvalue().split("\r")[-1]
    assert "automata" in last and "evaluating" in last
    progress, out = shown(terminal=False)
    with progress:
        progress.pause(stage="automata", doing="evaluating")
    assert out.getvalue() == ""


def test_a_log_is_told_in_lines() -> None:
    progress, out = shown(terminal=False)
    with progress:
        progress.update("automata", 100, {"rich": 1.0}, 2.5, "compiling text: code 7%")
        with progress.aside() as say:
            say("waiting for text: tokenizing 'code'", 0.43)
    lines = out.getvalue().splitlines()
    assert len(lines) == 2 and lines[0].endswith("compiling text: code 7%")
    assert lines[1] == "waiting for text: tokenizing 'code', 43%"


@pytest.mark.parametrize("width", [80, 100, 140])
def test_numbers_stay_whole_on_narrow_terminals(width: int) -> None:
    progress, out = shown(terminal=True, width=width)
    mixture = {"simple": 0.4, "rich": 0.4, "code": 0.2}
    with progress:
        progress.update("automata", 100, mixture, 2.5, "")
        progress._last = (progress._last[0] - 0.5, 100) if progress._last else None
        progress.update("automata", 200, mixture, 2.5, "")
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue()).replace("\r", "\n").split("\n")
    line = next(each for each in reversed(last) if each.strip())
    assert len(line) <= width
    assert line.startswith("automata ") and "200/1k tokens" in line
    assert "simple" in line and "loss 2.500" in line and "tokens/s" in line
    assert re.search(r"([0-9]:|-:)[0-9-]{2} *$", line)  # the time that is left


def test_other_ranks_are_silent() -> None:
    out = io.StringIO()
    progress = RunProgress(1000, Console(file=out, force_terminal=True), enabled=False)
    with progress, progress.aside() as say:
        say("waiting", 0.5)
        progress.update("automata", 100, {}, 2.5, "")
    assert out.getvalue() == ""
