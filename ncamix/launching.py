"""Launching: one process a GPU, started, told of signals, and watched until the last has ended.

    ncamix run (the parent) --Composer's launcher--> ranks, each with a process group of its own
    SIGTERM, SIGINT, ^C, ^Z of the parent  ------->  the same of every rank, once
    ranks  -------> their words, if they failed; one status  -------> the parent's own

The first rank speaks for all, on the parent's terminal; what the others say is kept, and told if
they fail. Ranks stop by themselves, all together: the parent waits. When one has failed, the others
have a while to end, and are killed. On Linux a rank ends when the parent does, however that ends;
under others' launchers it saves its state first.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ncamix.errors import fail
from ncamix.library import has_gpu
from ncamix.processes import begin_child, end_with_parent, safe_path
from ncamix.quantities import counted
from ncamix.ranks import Ranks
from ncamix.threads import count_threads

_LAUNCHED = "NCAMIX_LAUNCHED"  # to a rank of ours: its parent's number, its arguments
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT)
_STOPPING = (signal.SIGTERM, signal.SIGINT)  # of which the first rank tells
_TICK = 0.1
_PATIENCE = 30.0  # for other ranks to end after one has failed
_BRIEFLY = 15.0  # the same, where that one was told to stop before all could agree to
_CONSEQUENCE = 1  # the status of a rank that failed since another did
_parents: list[int] = []  # of this process, if `launch` has started it


def num_ranks(asked: int | None, ranks: Ranks) -> int:
    """How many ranks this process is to start: 1 where it is one itself, or goes on alone.

    asked: `--ranks`; one a GPU without it.

    Raises:
        UserError: that many cannot be, or a launcher has decided already.
    """
    if "RANK" in os.environ:
        if asked is not None and not _parents:
            raise fail(
                f"--ranks {asked}: a launcher has started {counted(ranks.size, 'rank')} already",
                "leave out --ranks, or the launcher",
            )
        return 1
    if not has_gpu():
        return asked or 1
    import torch

    gpus = max(1, torch.cuda.device_count())
    if asked is not None and asked > gpus:
        raise fail(
            f"--ranks {asked}: this machine has {counted(gpus, 'GPU')}, and every rank needs one",
            "leave out --ranks: there will be one rank a GPU",
        )
    return asked or gpus


def launch(num_ranks: int, arguments: Sequence[str]) -> int:
    """Start `ncamix` with these arguments as so many ranks of this machine; the status of it all.

    That is 0, or that of the rank that failed first: 128 + n for one that signal n ended.
    """
    from composer.cli import launcher
    from composer.utils import get_free_tcp_port

    # Arguments travel beside the command line, in which Composer's launcher expands variables.
    settings = {
        _LAUNCHED: json.dumps({"parent": os.getpid(), "arguments": list(arguments)}),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")
        or str(max(1, count_threads() // num_ranks)),
        **safe_path(Path.cwd()),
    }
    ranks: dict[int, subprocess.Popen[str]] = {}
    with _signals() as asked:
        # The folder goes at once, so that nothing is left of it whatever happens to this process;
        # the files last as long as they are open.
        with tempfile.TemporaryDirectory(prefix="ncamix-") as words, _environment(settings):
            launcher._launch_processes(
                nproc=num_ranks,
                world_size=num_ranks,
                base_rank=0,
                node_rank=0,
                master_addr="127.0.0.1",
                master_port=get_free_tcp_port(),
                module_mode=True,
                command_mode=False,
                training_script="ncamix",
                training_script_args=[],
                stdout_file_format=f"{words}/{{rank}}.out",
                stderr_file_format=f"{words}/{{rank}}.err",
                processes=ranks,
            )
        try:
            status = _watch(ranks, asked)
        finally:
            _end(ranks)
        if status and status - 128 not in _STOPPING:
            for rank in range(1, num_ranks):
                said = ranks[rank].stderr
                assert said is not None
                said.seek(0)
                print(said.read(), end="", file=sys.stderr)
    return status


def _watch(ranks: dict[int, subprocess.Popen[str]], asked: list[int]) -> int:
    """Wait for all ranks to end, handing on signals; the status of the first that failed."""
    failed: dict[int, int] = {}  # statuses by rank, in the order of failing
    patient_until = float("inf")
    interrupts = 0
    while True:
        running = [rank for rank, process in ranks.items() if process.poll() is None]
        for rank, process in ranks.items():
            if process.returncode and rank not in failed:
                status = process.returncode
                failed[rank] = 128 - status if status < 0 else status
                if status < 0 and -status not in _STOPPING:
                    killed = f"rank {rank} was killed by {signal.Signals(-status).name}"
                    print(
                        f"ncamix: {killed}; run the same command again to resume", file=sys.stderr
                    )
        if not running or time.monotonic() > patient_until:
            break
        if failed or interrupts > 1:
            stopped = any(status - 128 in _STOPPING for status in failed.values())
            patience = _BRIEFLY if stopped else _PATIENCE
            patient_until = min(patient_until, time.monotonic() + patience)
        while asked:
            number = asked.pop(0)
            interrupts += number == signal.SIGINT
            for rank in running:
                ranks[rank].send_signal(signal.SIGSTOP if number == signal.SIGTSTP else number)
            if number == signal.SIGTSTP:
                os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(_TICK)
    if running and interrupts:
        return 128 + signal.SIGINT
    causes = [status for status in failed.values() if status != _CONSEQUENCE]
    return causes[0] if causes else _CONSEQUENCE if failed else 0


def _end(ranks: dict[int, subprocess.Popen[str]]) -> None:
    """Kill what lives of ranks that did not end well, and the workers that they left."""
    for process in ranks.values():
        if process.poll() != 0:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()  # it may have no group of its own yet
            process.wait()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that are the ranks' business, in the order in which they come; those that
    this process ignores (nohup), they ignore as well."""
    asked: list[int] = []
    stock = {n: signal.getsignal(n) for n in _FORWARDED if signal.getsignal(n) != signal.SIG_IGN}
    for number in stock:
        signal.signal(number, lambda number, frame: asked.append(number))
    try:
        yield asked
    finally:
        for number, handler in stock.items():
            signal.signal(number, handler)


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Within it, what is started finds these variables."""
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def begin_rank() -> list[str] | None:
    """Make this process a rank if it is one; its arguments, where our own parent started it."""
    told = os.environ.pop(_LAUNCHED, None)
    if told is None:
        begin_child()
        if "RANK" in os.environ:
            end_with_parent(signal.SIGTERM)
        return None
    facts = json.loads(told)
    _parents.append(facts["parent"])
    os.setpgrp()  # the terminal speaks to the parent, which speaks to all ranks
    end_with_parent(signal.SIGKILL, facts["parent"])
    return list(facts["arguments"])
