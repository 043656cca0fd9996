"""Processes known by more than their number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from processes import SECONDS, output_of, output_to, started

from ncamix.processes import identity, is_dead, safe_path

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


CHILD = """
import os, signal, sys, time
from ncamix.processes import begin_child
signal.signal(signal.SIGTERM, lambda *told: (print("told", flush=True), sys.exit(143)))
sys.stdin.readline()
begin_child()
print("begun", "NCAMIX_PARENT" in os.environ, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("late", [False, True])
def test_a_child_learns_that_its_parent_has_ended(late: bool, tmp_path: Path) -> None:
    """Also where that was before it began."""
    parent = (
        "import os, subprocess, sys, time\n"
        "from ncamix.processes import settings_of_child\n"
        f"child = subprocess.Popen([sys.executable, '-c', {CHILD!r}],\n"
        "                         env={**os.environ, **settings_of_child()})\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )
    process = started([sys.executable, "-c", parent], tmp_path, talks=True)
    assert process.stdin is not None
    output_to(process, "started")
    if late:
        process.kill()
        process.wait(SECONDS)
    process.stdin.write("\n")
    process.stdin.flush()
    if late:
        assert output_of(process) == ""
        return
    output_to(process, "begun False")
    process.kill()
    assert output_of(process) == "told\n"


def test_modules_of_the_folder_are_ours_only_where_they_are_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    assert safe_path(tmp_path) == {"PYTHONSAFEPATH": "1"}
    for here in ("", str(tmp_path)):
        monkeypatch.setattr(sys, "path", [here, "/elsewhere"])
        assert safe_path(tmp_path) == safe_path(Path("")) == {}
        assert safe_path(tmp_path / "below") == {"PYTHONSAFEPATH": "1"}
