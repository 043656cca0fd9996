"""Ranks as processes: what their parent makes of their ends and of signals; launchers of others."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from processes import free_port, output_of, output_to, started
from test_run import CURRICULUM, TRAINER, Runner

from ncamix import launching
from ncamix.errors import UserError
from ncamix.ranks import Ranks

LISTENS = """
import os, signal, sys, time
seen = []
for n in (signal.SIGTERM, signal.SIGINT):
    signal.signal(n, lambda number, frame: seen.append(number))
print("ready", flush=True)
while len(seen) < int(sys.argv[1]):
    time.sleep(0.01)
time.sleep(0.3)
sys.exit(128 + seen[-1] if len(seen) == int(sys.argv[1]) else 7)
"""


def ranks_of(*codes: str) -> dict[int, subprocess.Popen[str]]:
    """Ranks that do what is written, each in a group of its own, and are ready."""
    found = {}
    for rank, code in enumerate(codes):
        found[rank] = subprocess.Popen(
            [sys.executable, "-c", *code.split("|")],
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
    for process in found.values():
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
    return found


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        (["0", "0"], 0),
        (["2", "1"], 2),
        (["1", "2"], 2),  # the first failed because of the second
        (["1", "1"], 1),
        (["143", "143"], 143),
        (["1", "-9"], 137),
    ],
)
def test_the_status_is_that_of_the_rank_that_failed_first(ends: list[str], status: int) -> None:
    end = "print(flush=True); import os; n = {}; os.kill(os.getpid(), -n) if n < 0 else os._exit(n)"
    ranks = ranks_of(*(end.format(n) for n in ends))
    assert launching._watch(ranks, []) == status
    launching._end(ranks)


def test_those_that_wait_for_a_dead_one_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_PATIENCE", 0.5)
    waits = "print(flush=True); import time; time.sleep(600)"
    ranks = ranks_of(waits, "print(flush=True); import os; os._exit(3)")
    assert launching._watch(ranks, []) == 3
    assert ranks[0].poll() is None
    launching._end(ranks)
    assert ranks[0].returncode == -signal.SIGKILL


def test_each_signal_is_handed_on_once() -> None:
    ranks = ranks_of(f"{LISTENS}|2", f"{LISTENS}|2")
    asked = [int(signal.SIGINT)]
    threading.Timer(0.5, lambda: asked.append(int(signal.SIGTERM))).start()
    assert launching._watch(ranks, asked) == 143
    launching._end(ranks)


def test_two_interrupts_end_what_does_not_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_PATIENCE", 0.5)
    ranks = ranks_of(f"{LISTENS}|9", f"{LISTENS}|9")
    assert launching._watch(ranks, [int(signal.SIGINT)] * 2) == 130
    launching._end(ranks)
    assert [process.returncode for process in ranks.values()] == [-signal.SIGKILL] * 2


def test_signals_that_are_ignored_stay_so() -> None:
    """As under nohup."""
    stock = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with launching._signals() as asked:
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGTERM)
        assert asked == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, stock)


@pytest.mark.parametrize("ours", [True, False])
def test_a_rank_ends_with_its_launcher(ours: bool, tmp_path: Path) -> None:
    child = (
        "import signal, sys, time\n"
        "from ncamix.launching import begin_rank\n"
        "signal.signal(signal.SIGTERM, lambda *told: (print('saved', flush=True), sys.exit(143)))\n"
        "print(begin_rank(), flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = (
        "import json, os, subprocess, sys\n"
        f"facts = json.dumps({{'parent': os.getpid(), 'arguments': ['run', '$HOME']}})\n"
        "env = {**os.environ, 'RANK': '0'}\n"
        f"env |= {{'NCAMIX_LAUNCHED': facts}} if {ours} else {{}}\n"
        f"subprocess.run([sys.executable, '-c', {child!r}], env=env)\n"
    )
    process = started([sys.executable, "-c", parent], tmp_path)
    assert output_to(process, "\n") == ("['run', '$HOME']\n" if ours else "None\n")
    process.kill()
    assert output_of(process) == ("" if ours else "saved\n")  # once the last of it has ended


def test_how_many_ranks_there_are_is_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "has_gpu", lambda: False)
    assert launching.num_ranks(None, Ranks()) == 1
    assert launching.num_ranks(3, Ranks()) == 3
    import torch

    monkeypatch.setattr(launching, "has_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert launching.num_ranks(None, Ranks()) == 2
    with pytest.raises(UserError, match="2 GPUs, and every rank needs one"):
        launching.num_ranks(3, Ranks())
    monkeypatch.setenv("RANK", "0")
    assert launching.num_ranks(None, Ranks()) == 1
    with pytest.raises(UserError, match="started 1 rank already"):
        launching.num_ranks(1, Ranks())


def srun(runner: Runner, *extra: str) -> list[subprocess.Popen[str]]:
    """Two tasks of a step, as srun would start them; where they meet is this machine's name."""
    step = {
        "SLURM_JOB_ID": free_port(),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_NODEID": "0",
        "SLURM_STEP_NODELIST": "localhost",
    }
    return [
        started(
            runner.command(*extra),
            runner.folder,
            {**runner.env, **step, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
        )
        for rank in range(2)
    ]


def test_tasks_of_srun_and_ranks_of_torchrun_train_together(tmp_path: Path) -> None:
    """And what is wrong is told once."""
    runner = Runner(tmp_path / "work")
    (runner.folder / "tiny.yaml").write_text(
        CURRICULUM.split("stages:")[0].replace("{bpe: 300, train_on: [words]}", "bytes")
        + "stages: [{name: one, duration: 100%, mixture: {static: 1, lively: 1}}]\n"
    )
    (runner.folder / "small.yaml").write_text(TRAINER.replace("25.6ktok", "2560tok"))
    tasks = srun(runner, "--ranks", "2")
    said = [output_of(process) for process in tasks]
    assert [process.returncode for process in tasks] == [2, 2]
    assert "--ranks 2: a launcher has started 2 ranks already" in said[0] and said[1] == ""

    tasks = srun(runner)
    said = [output_of(process) for process in tasks]
    assert [process.returncode for process in tasks] == [0, 0], said
    assert "report.html" in said[0] and said[1] == ""
    digests = [row["digest"] for row in runner.rows()]
    assert len(digests) == 20

    torchrun = str(Path(sys.executable).with_name("torchrun"))
    command = [torchrun, "--nproc-per-node", "2", "--master-port", free_port(), "-m", "ncamix"]
    meeting = started(
        [*command, *runner.command("--out", "runs/torch")[3:]], runner.folder, runner.env
    )
    output = output_of(meeting)
    assert meeting.returncode == 0, output
    assert [row["digest"] for row in runner.rows("runs/torch")] == digests


@pytest.mark.parametrize("own", ["sys.exit(143)", "os.kill(os.getpid(), 15)"])
def test_a_rank_that_is_told_to_stop_while_it_starts_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    """The others wait for it where no signal reaches them; pre-emption gives all 30 seconds."""
    assert launching._BRIEFLY <= 20
    monkeypatch.setattr(launching, "_PATIENCE", 1e6)
    monkeypatch.setattr(launching, "_BRIEFLY", 0.1)
    ranks = {
        rank: subprocess.Popen(
            [sys.executable, "-c", f"import os, sys, time; {code}"], process_group=0, text=True
        )
        for rank, code in enumerate(["time.sleep(1e6)", own])
    }
    try:
        assert launching._watch(ranks, []) == 143
    finally:
        launching._end(ranks)
