"""Progress of a run: what a terminal and a log are told."""

from __future__ import annotations

import io

from rich.console import Console

from ncamix.training.progress import RunProgress


def shown(terminal: bool) -> tuple[RunProgress, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=200)
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


def test_a_log_is_told_in_lines() -> None:
    progress, out = shown(terminal=False)
    with progress:
        progress.update("automata", 100, {"rich": 1.0}, 2.5, "compiling text: code 7%")
        with progress.aside() as say:
            say("waiting for text: tokenizing 'code'", 0.43)
    lines = out.getvalue().splitlines()
    assert len(lines) == 2 and lines[0].endswith("compiling text: code 7%")
    assert lines[1] == "waiting for text: tokenizing 'code', 43%"


def test_other_ranks_are_silent() -> None:
    out = io.StringIO()
    progress = RunProgress(1000, Console(file=out, force_terminal=True), enabled=False)
    with progress, progress.aside() as say:
        say("waiting", 0.5)
        progress.update("automata", 100, {}, 2.5, "")
    assert out.getvalue() == ""
