"""Processes known by more than their number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from ncamix.processes import identity, is_dead

SAY = "import json, sys; from ncamix.processes import identity; print(json.dumps(identity()))"


def told() -> tuple[subprocess.Popen[str], dict[str, Any]]:
    """Another process, which ends when its stdin is closed, and its identity."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{SAY}; sys.stdout.flush(); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def test_a_process_is_dead_once_it_has_ended() -> None:
    process, other = told()
    assert other["process"] == process.pid and other["host"] == identity()["host"]
    assert not is_dead(other) and not is_dead(identity())
    process.kill()
    deadline = time.monotonic() + 60
    while not is_dead(other) and time.monotonic() < deadline:  # nobody has waited for it yet
        time.sleep(0.01)
    assert is_dead(other)
    process.communicate()
    assert is_dead(other)


def test_a_number_that_was_taken_again_is_another_process() -> None:
    assert is_dead({**identity(), "start": "1"})


@pytest.mark.parametrize("key", ["host", "boot", "space"])
def test_one_that_cannot_be_seen_from_here_may_be_at_work(key: str) -> None:
    gone = {**identity(), "start": "1"}
    assert not is_dead({**gone, key: "another"})
    assert not is_dead({k: v for k, v in gone.items() if k != key})
    assert not is_dead({**gone, "process": None}) and not is_dead({})
    assert os.getpid() == identity()["process"]
