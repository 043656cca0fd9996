"""Processes that tests start: waited for with an end, and a failure shows what they said.

    started -> wait_until what the test needs -> a signal, perhaps -> output_of
       |            | too late                                         | too late
       |            +-> all threads' stacks, killed, failed <-----------+
       +-> end_all, when the test ends

A process leads a session of its own, so that its children end with it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pytest

SECONDS = 240.0  # no test is to be as slow; less than the limit of pytest
_LAST_WORD_SECONDS = 5.0  # for stacks to be written

_started: list[subprocess.Popen[str]] = []


def started(
    command: Sequence[str],
    folder: Path,
    env: Mapping[str, str] | None = None,
    talks: bool = False,
) -> subprocess.Popen[str]:
    """A process in a folder; `env` is all of its environment, like this process's if left out.
    talks: it is told what to do on its standard input."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**(os.environ if env is None else env), "PYTHONFAULTHANDLER": "1"},
        text=True,
        stdin=subprocess.PIPE if talks else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    _started.append(process)
    return process


def wait_until(
    ready: Callable[[], object],
    process: subprocess.Popen[str] | None = None,
    seconds: float = SECONDS,
) -> None:
    """Wait until something is so, which is to be before the process ends that brings it about."""
    end = time.monotonic() + seconds
    while not ready():
        if process is not None and process.poll() is not None:
            pytest.fail(f"ended too early, by {process.returncode}: {_last_words(process)}")
        if time.monotonic() > end:
            _too_late(process, seconds)
        time.sleep(0.005)


def output_of(process: subprocess.Popen[str], seconds: float = SECONDS) -> str:
    """What a process says, standard error too, until it ends."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        _too_late(process, seconds)


def output_to(process: subprocess.Popen[str], words: str, seconds: float = SECONDS) -> str:
    """What a process says up to the line with some words."""
    assert process.stdout is not None
    end = threading.Timer(seconds, _signal, (process, signal.SIGABRT))
    end.start()
    output = ""
    try:
        while words not in output:
            line = process.stdout.readline()
            if not line:
                pytest.fail(f"it never said '{words}', but: {output}")
            output += line
    finally:
        end.cancel()
    return output


def status_of(process: subprocess.Popen[str], seconds: float = SECONDS) -> int:
    """The status that a process ends with; what it says becomes this test's own output."""
    print(output_of(process, seconds), end="")
    return process.returncode


def free_port() -> str:
    """A port where nobody listens, below those that the system gives to whoever connects."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return str(port)


def end_all() -> None:
    """Kill what was started and still lives."""
    for process in _started:
        if process.poll() is None:
            _signal(process, signal.SIGKILL)
            process.wait(SECONDS)
        if process.stdout is not None:
            process.stdout.close()
    _started.clear()


def _too_late(process: subprocess.Popen[str] | None, seconds: float) -> NoReturn:
    words = ""
    if process is not None:
        _signal(process, signal.SIGABRT)  # Python says then where each thread is
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LAST_WORD_SECONDS)
        _signal(process, signal.SIGKILL)
        words = _last_words(process)
    pytest.fail(f"it takes more than {seconds:g} seconds: {words}")


def _last_words(process: subprocess.Popen[str]) -> str:
    try:
        return process.communicate(timeout=_LAST_WORD_SECONDS)[0]
    except subprocess.TimeoutExpired as held:  # by a child in a session of its own
        return (held.output or b"").decode(errors="replace")


def _signal(process: subprocess.Popen[str], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
