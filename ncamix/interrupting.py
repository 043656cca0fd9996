"""Interruptions: SIGINT and SIGTERM end a command with 130 and 143, and the way to go on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from ncamix.ranks import Ranks


class Terminated(KeyboardInterrupt):
    """SIGTERM came before there was anything to save, or after all was."""


@contextmanager
def interruptible(ranks: Ranks) -> Iterator[None]:
    """Within it, SIGINT and SIGTERM end the command, and the first rank says how to go on."""

    def end(number: int, frame: Any) -> None:
        raise Terminated

    stock = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt as stop:
        if ranks.is_first:
            print("ncamix: interrupted; run the same command again to resume", file=sys.stderr)
        number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
        raise typer.Exit(128 + number) from None
    finally:
        signal.signal(signal.SIGTERM, stock)
