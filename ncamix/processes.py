"""Processes known by more than their number, so that a dead one is told from one that took it.

this process -> machine, boot, name space, number, start -> written down -> is it still at work?

Numbers are used again, and mean something else on another machine, after a boot and in another
container.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any


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
