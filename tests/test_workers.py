"""Workers that die: which one, by what, however the main process learns that something is wrong."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from ncamix.training.workers import LoaderContext, deaths_untold, ignore_signals


@pytest.fixture
def context() -> Iterator[LoaderContext]:
    made = LoaderContext()
    yield made
    made.end()


class Fatal(IterableDataset):
    """Three samples, then the worker's end."""

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from torch.arange(3)
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_killed_amid_a_batch_is_named(context: LoaderContext) -> None:
    loader = DataLoader(
        Fatal(), num_workers=1, multiprocessing_context=context, worker_init_fn=ignore_signals
    )
    with pytest.raises((RuntimeError, OSError, EOFError)) as caught:
        list(loader)
    with deaths_untold():
        said = context.death_behind(caught.value)
    assert said is not None and said.startswith("DataLoader worker 0 (process ")
    assert said.endswith(" was killed by SIGKILL")


def test_a_status_is_told(context: LoaderContext) -> None:
    worker = context.Process(target=os._exit, args=(3,))
    worker.start()
    worker.join()
    said = context.death_behind(ValueError("loss"))
    assert said == f"DataLoader worker 0 (process {worker.pid}) ended with status 3"


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError(), OSError("torn")])
def test_a_worker_may_take_long_to_die(context: LoaderContext, error: Exception) -> None:
    """Its connections break before its end."""
    context.Process(target=int).start()  # one that ends well is not the one
    dying = context.Process(target=time.sleep, args=(600,))
    dying.start()
    threading.Timer(1, dying.kill).start()
    said = context.death_behind(error)
    assert said == f"DataLoader worker 1 (process {dying.pid}) was killed by SIGKILL"


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left"),
        ValueError("loss"),
        SystemExit(1),
        ConnectionResetError("Caught ConnectionResetError in DataLoader worker process 0."),
    ],
)
def test_what_no_worker_causes_is_not_waited_for(
    context: LoaderContext, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = context.Process(target=time.sleep, args=(600,))
    worker.start()
    context.Process(target=int)  # never started
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    assert context.death_behind(error) is None
    context.end()
    assert worker.exitcode == -signal.SIGKILL


def test_the_handler_comes_back() -> None:
    told = []

    def handler(number: int, frame: object) -> None:
        told.append(number)

    before = signal.signal(signal.SIGCHLD, handler)
    try:
        with deaths_untold():
            signal.raise_signal(signal.SIGCHLD)
        assert not told and signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, before)
