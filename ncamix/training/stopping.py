"""Why a run stops before its end: a signal, or text that cannot be compiled. All ranks agree.

signal, failure of a rank -> agreed by all -> checkpoint -> Stopped, or the failure's error
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from composer.utils import dist

from ncamix.background import Failure, error_of

_FAILED = 1  # what a rank whose text failed agrees on; below the signals that are listened to

T = TypeVar("T")


class Stopped(Exception):
    """A signal asked the run to stop, and it has saved its state. status: for the shell."""

    def __init__(self, status: int) -> None:
        super().__init__(f"stopped by {signal.Signals(status - 128).name}")
        self.status = status


class StopSignal:
    """Remembers SIGTERM and SIGINT; all ranks agree on it at the end of each batch."""

    def __init__(self) -> None:
        self.received = 0
        self.agreed = 0
        self.failure: Failure | None = None

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Catch the signals while training; a second SIGINT interrupts at once."""
        stock = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
        for number in stock:
            signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in stock.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: Any) -> None:
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def agree(self, device: torch.device, failure: Failure | None) -> None:
        """Take the largest signal of all ranks, or else the first failure of any."""
        self.failure = failure
        self.agreed = self.received or (_FAILED if failure is not None else 0)
        if dist.get_world_size() == 1:
            return
        flag = torch.tensor([self.agreed], dtype=torch.int64, device=device)
        dist.all_reduce(flag, reduce_operation="MAX")
        self.agreed = int(flag.item())
        if self.agreed == _FAILED:
            self._take(dist.all_gather_object(failure))

    def exchange(self, failure: Failure | None, word: T) -> list[T]:
        """The words of all ranks, unless they are to stop.

        Raises:
            Stopped: a signal came to any rank. Otherwise, the error of the first failure.
        """
        told = dist.all_gather_object((self.received, failure, word))
        self._take([failure for _, failure, _ in told])
        self.agreed = max(received for received, _, _ in told)
        if not self.agreed and self.failure is not None:
            self.agreed = _FAILED
        stop = self.wanted()
        if stop is not None:
            raise stop
        return [word for _, _, word in told]

    def _take(self, failures: list[Failure | None]) -> None:
        self.failure = next((failure for failure in failures if failure is not None), None)

    def wanted(self) -> Exception | None:
        """The exception to stop with, or None."""
        if self.agreed == _FAILED:
            assert self.failure is not None, "some rank has failed"
            return error_of(self.failure)
        return Stopped(128 + self.agreed) if self.agreed else None
