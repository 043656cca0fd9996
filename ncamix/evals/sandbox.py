"""Programs that nobody has read, run one at a time, each in a process that has no rights.

    program -> python -I jail.py: own session, own folder, no environment -> an outcome | killed

`jail` says which walls stand inside. From outside come a clock, which also ends what sleeps, and
the end of the process group, whatever the program did. Times are seconds, sizes bytes.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncamix.errors import fail
from ncamix.evals import jail

_SCRIPT = Path(jail.__file__)
_MOST_SAID = 1 << 14  # bytes of an outcome; a program that writes more is not listened to
_START_SECONDS = 20.0  # for Python to start on a machine that is busy
_PATIENCE = 4  # times its CPU seconds that a program may take by the clock
_LOOK_SECONDS = 0.1  # between two looks at what a program has written
_MOST_FILES = 1_000  # that a program may leave in its folder
_KNOWS_TRUNCATION = 3  # the version of Landlock from which on
_TOO_MUCH = "it wrote too much"


@dataclass(frozen=True)
class Limits:
    """What one program may use: CPU seconds, bytes of memory (address space), bytes of a file, of
    which all its files may take four times as many."""

    seconds: int = 3
    memory: int = 1 << 30
    file: int = 1 << 24


@dataclass(frozen=True)
class Outcome:
    """Whether a program ran to its end without an error, and if not, what happened."""

    passed: bool
    reason: str = ""


@dataclass(frozen=True)
class Walls:
    """What stands around programs on this machine, beside seccomp and the limits.

    namespace: users and a network of their own. landlock: its version, 0 where the kernel has none.
    """

    namespace: bool
    landlock: int

    @property
    def gaps(self) -> str:
        """What is not protected, in words; '' if nothing is known to be open."""
        if self.landlock >= _KNOWS_TRUNCATION:
            return ""
        if self.landlock:
            return (
                "the interpreter's own files may be cut short: the kernel's Landlock is an old one"
            )
        return "files that this user may write are not protected: the kernel has no Landlock"


def find_walls() -> Walls:
    """Which walls this machine's kernel raises.

    Raises:
        UserError: programs cannot be kept from the network and from other processes here.
    """
    answer, _ = _converse({"probe": True}, Limits())
    if answer.get("outcome") != "probed":
        raise fail(
            "generated programs cannot be confined on this machine: it takes Linux on x86-64 or "
            "arm64, and a kernel or container that lets a process install a seccomp filter",
            "leave --execute out, and run the samples on a machine that can",
        )
    return Walls(bool(answer["namespace"]), int(answer["landlock"]))


def run_program(program: str, limits: Limits | None = None) -> Outcome:
    """Run a program to its end, in a folder of its own that is gone afterwards.

    It passes if its last line is reached: one that exits before, however well, does not.

    Raises:
        UserError: it cannot be confined here; it has not been run.
    """
    limits = limits or Limits()
    token = secrets.token_hex(16)
    answer, ended = _converse({"program": program, "token": token}, limits)
    outcome = answer.get("outcome")
    if outcome == _TOO_MUCH:
        return Outcome(False, _TOO_MUCH)
    if outcome == "passed" and answer.get("token") == token:
        return Outcome(True)
    if outcome == "not run":
        find_walls()  # says why
        raise fail("a generated program could not be confined", "run the same command again")
    if outcome == "failed":
        return Outcome(False, str(answer.get("reason")))
    if ended is None or ended in (-signal.SIGXCPU, -signal.SIGKILL):
        return Outcome(False, "it took too long")
    return Outcome(False, f"it ended early (status {ended})")


def _converse(request: dict[str, Any], limits: Limits) -> tuple[dict[str, Any], int | None]:
    """What the process said, {} if nothing that can be read, and its exit status; None where it had
    to be killed."""
    with (
        tempfile.TemporaryDirectory(prefix="ncamix-program-", ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as asked,
    ):
        asked.write(json.dumps({**request, "limits": vars(limits), "parent": os.getpid()}).encode())
        asked.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(_SCRIPT)],
            stdin=asked,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={
                "HOME": folder,
                "TMPDIR": folder,
                "LANG": "C.UTF-8",
                "OMP_NUM_THREADS": "1",
                "OPENBLAS_NUM_THREADS": "1",
            },
            start_new_session=True,
        )
        try:
            seconds = _START_SECONDS + _PATIENCE * limits.seconds
            said, in_time = _listen(process, seconds, lambda: _is_flooded(folder, limits))
            ended = _wait(process) if in_time else None
        finally:
            if process.poll() is None:  # nothing else can be in its group: it starts no process
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
    try:
        answer = json.loads(said.split(b"\n")[0])
    except ValueError:
        answer = None
    return (answer if isinstance(answer, dict) else {}), ended


def _listen(
    process: subprocess.Popen[bytes], seconds: float, flooded: Callable[[], bool]
) -> tuple[bytes, bool]:
    """What a process writes until it says a line or ends; whether that was in time. What is said of
    one that has `flooded` its folder is said for it."""
    assert process.stdout is not None
    said, end = b"", time.monotonic() + seconds
    while b"\n" not in said and len(said) < _MOST_SAID:
        ready, _, _ = select.select([process.stdout], [], [], _LOOK_SECONDS)
        if not ready:
            if flooded():
                return json.dumps({"outcome": _TOO_MUCH}).encode(), False
            if time.monotonic() > end:
                return said, False
            continue
        part = os.read(process.stdout.fileno(), _MOST_SAID)
        if not part:
            break
        said += part
    return said, True


def _is_flooded(folder: str, limits: Limits) -> bool:
    """Whether a program has filled its folder beyond measure."""
    files = used = 0
    for home, folders, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                used += os.lstat(os.path.join(home, name)).st_blocks * 512
        files += len(folders) + len(names)
        if files > _MOST_FILES or used > 4 * limits.file:
            return True
    return False


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    """The status of a process that has said its line, or closed its pipe; None if it lives on."""
    try:
        return process.wait(1.0)
    except subprocess.TimeoutExpired:
        return None
