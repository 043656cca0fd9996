"""Processes known by more than their number, so that a dead one is told from one that took it.

this process -> machine, boot, name space, number, start -> written down -> is it still at work?
this process -> its number, in the environment of a child -> the child ends when this process does

Numbers are used again, and mean something else on another machine, after a boot and in another
container.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

_PARENT = "NCAMIX_PARENT"  # to a command that is to end with its parent: the parent's number
_PARENT_DEATH = 1  # PR_SET_PDEATHSIG


def boot_id() -> str:
    """What names this boot of this machine."""
    import psutil

    return _read("/proc/sys/kernel/random/boot_id") or str(round(psutil.boot_time()))


def identity() -> dict[str, Any]:
    """This process, as plain JSON: host, boot, space, process (its number) and start."""
    return {**_machine(), "process": os.getpid(), "start": _start_of(os.getpid())}


def is_dead(other: dict[str, Any]) -> bool:
    """Whether a process, by its identity, is known to have ended. One that cannot be seen from here
    is not."""
    if any(other.get(key) != value for key, value in _machine().items()):
        return False
    number = other.get("process")
    return isinstance(number, int) and _start_of(number) != other.get("start")


def safe_path(folder: Path) -> dict[str, str]:
    """Variables for `python -m ncamix` in a folder: modules that lie there are none of ours, unless
    this process takes its own from there, too."""
    known = {os.path.abspath(path) for path in sys.path}  # '' is where this process is
    return {} if os.path.abspath(folder) in known else {"PYTHONSAFEPATH": "1"}


def settings_of_child() -> dict[str, str]:
    """Variables for `python -m ncamix` as a child that ends, on Linux, with the thread of this
    process that starts it."""
    return {_PARENT: str(os.getpid())}


def begin_child() -> None:
    """Where this process was started with `settings_of_child`: SIGTERM comes when its parent ends,
    so that it saves its state. Children of its own are none of that parent's."""
    parent = os.environ.pop(_PARENT, None)
    if parent is not None:
        end_with_parent(signal.SIGTERM, int(parent))


def end_with_parent(number: int, parent: int | None = None) -> None:
    """Have the kernel send a signal when the parent ends; on Linux alone.

    parent: its number. Where it was dead before, this process ends at once, as by the signal.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PARENT_DEATH, number)
    if parent is not None and os.getppid() != parent:
        sys.exit(128 + number)


def _machine() -> dict[str, str]:
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""  # where there is one alone
    return {"host": socket.gethostname(), "boot": boot_id(), "space": space}


def _start_of(process: int) -> str:
    """When a process that has not ended began: ticks since the boot on Linux, else seconds."""
    import psutil

    # Behind the name, which may hold anything, in brackets: the state, and as the 20th the start.
    told = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
    if told:
        return "" if told[0] in "ZX" else told[19]
    try:
        return str(psutil.Process(process).create_time())
    except psutil.Error:
        return ""


def _read(file: str) -> str:
    try:
        return Path(file).read_text().strip()
    except OSError:
        return ""
