"""Jobs on this machine: several at once, their last words, and that none outlives its study."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from processes import output_to, started, wait_until

from ncamix import jobs
from ncamix.jobs import KILLED, STOPPED, Capacity, Done, Job, LocalWorkers, local_capacity
from ncamix.run_folder import read_rows

CURRICULUM = """
ncamix: 1
name: tiny
seed: 3
vocabulary: {rows: 60}
sources:
  hiss: {kind: noise, symbols: 50}
stages:
  - {name: only, duration: 100%, mixture: {hiss: 1}}
evaluate: {every: 50%, sources: [hiss], samples: 4}
"""
TRAINER = """
ncamix: 1
name: small
model: {layers: 1, heads: 2, width: 16, tie_embeddings: true}
sequence_length: 32
batch_size: 4
budget: 38400tok
optimizer: {lr: 1e-2, clip: 1.0}
checkpoint: {every: 50ba, keep: 2}
"""
# In place of ncamix, for what needs no run: does what it is told, in its job's folder.
STAND_IN = """
import json, os, signal, sys, time
from ncamix.launching import begin_rank
begin_rank()
what = sys.argv[1]
if what == "environment":
    print(json.dumps({**os.environ, "group": os.getpgrp(), "pid": os.getpid()}))
elif what == "fail":
    print("\\n".join(f"line {i}" for i in range(100)), file=sys.stderr)
    sys.exit(2)
elif what == "saves":
    signal.signal(signal.SIGTERM, lambda *told: (print("saved", flush=True), sys.exit(143)))
elif what == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if what in ("saves", "deaf"):
    print("begun", os.getpid(), flush=True)
    time.sleep(600)
"""
SECONDS = 200.0
ENDLESS = ("--set", "trainer.budget=8Mtok")


def job(folder: Path, *arguments: str, name: str = "one") -> Job:
    return Job(name, arguments, folder / "runs" / name, folder, folder / "logs" / f"{name}.log")


def run_job(folder: Path, name: str = "one", *more: str) -> Job:
    out = str(folder / "runs" / name)
    return job(folder, "run", "tiny.yaml", "-t", "small.yaml", "-o", out, *more, name=name)


def all_of(workers: jobs.Workers) -> list[Done]:
    """What the jobs that run come to."""
    ended: list[Done] = []
    while found := workers.wait(SECONDS):
        ended += found
    return ended


def num_batches(folder: Path) -> int:
    return len(read_rows(folder / "metrics.jsonl"))


def losses(folder: Path) -> list[object]:
    return [row["loss"] for row in read_rows(folder / "metrics.jsonl")]


def wait_until_trained(num: int, workers: jobs.Workers, *running: Job) -> None:
    """Wait until runs have trained so many batches, and none of the workers' jobs ends before."""

    def trained() -> bool:
        ended = workers.wait(0)
        assert not ended, ended
        return all(num_batches(one.folder) > num for one in running)

    wait_until(trained)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(CURRICULUM)
    (tmp_path / "small.yaml").write_text(TRAINER)
    return tmp_path


@pytest.fixture
def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Jobs run the stand-in; its file."""
    file = folder / "stand_in.py"
    file.write_text(STAND_IN)
    monkeypatch.setattr(jobs, "_COMMAND", (str(file),))
    return file


def begun(log: Path) -> int:
    """The number of the process that a job is, once it has begun."""
    wait_until(lambda: log.is_file() and "\n" in log.read_text())
    return int(log.read_text().split()[1])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.usefixtures("stand_in")
def test_a_failure_is_told_with_its_last_words(folder: Path) -> None:
    workers = LocalWorkers(1, 1)
    failing = job(folder, "fail")
    failing.log.parent.mkdir()
    failing.log.write_text("of another time\n")
    workers.start(failing)
    (done,) = all_of(workers)
    assert (done.job, done.status) == (failing, 2)
    assert done.said.split("\n") == [f"line {i}" for i in range(60, 100)]
    assert failing.log.read_text().startswith("of another time\nline 0\n")
    workers.start(job(folder, "silent"))
    assert [(done.status, done.said) for done in all_of(workers)] == [(0, "")]


@pytest.mark.usefixtures("stand_in")
def test_as_many_run_at_once_as_there_are_slots(folder: Path) -> None:
    workers = LocalWorkers(3, 1)
    assert workers.free == 3 and workers.wait(SECONDS) == []
    running = [job(folder, "saves", name=f"job{i}") for i in range(3)]
    for one in running:
        workers.start(one)
    pids = [begun(one.log) for one in running]  # all have begun, and none has ended
    assert workers.free == 0 and workers.wait(0.2) == []
    os.kill(pids[1], signal.SIGTERM)
    (done,) = workers.wait(SECONDS)
    assert (done.job, done.status, done.said) == (running[1], STOPPED, f"begun {pids[1]}\nsaved")
    os.kill(pids[2], signal.SIGKILL)
    (done,) = workers.wait(SECONDS)
    assert (done.job, done.status) == (running[2], KILLED)
    assert workers.free == 2
    workers.stop()
    assert running[0].log.read_text() == f"begun {pids[0]}\nsaved\n" and not is_alive(pids[0])
    assert workers.free == 3 and workers.wait(SECONDS) == []


@pytest.mark.usefixtures("stand_in")
def test_what_does_not_stop_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PATIENCE", 0.5)
    workers, deaf = LocalWorkers(1, 1), job(folder, "deaf")
    workers.start(deaf)
    pid = begun(deaf.log)
    workers.stop()
    assert not is_alive(pid)


@pytest.mark.usefixtures("stand_in")
def test_an_interrupt_while_jobs_stop_ends_them_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers, deaf = LocalWorkers(1, 1), job(folder, "deaf")
    workers.start(deaf)
    pid = begun(deaf.log)

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workers.stop()
    assert not is_alive(pid)


@pytest.mark.usefixtures("stand_in")
def test_jobs_have_the_threads_and_gpus_of_their_slot(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def environments(workers: LocalWorkers, num_jobs: int) -> list[dict[str, str]]:
        running = [job(folder, "environment", name=f"job{i}") for i in range(num_jobs)]
        for one in running:
            workers.start(one)
        said = {done.job: json.loads(done.said) for done in all_of(workers)}
        return [said[one] for one in running]

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    first, second = environments(LocalWorkers(2, 3, [(0, 1), (2,)]), 2)
    assert (first["OMP_NUM_THREADS"], first["CUDA_VISIBLE_DEVICES"]) == ("3", "0,1")
    assert second["CUDA_VISIBLE_DEVICES"] == "2"
    assert first["group"] == first["pid"] != second["group"]
    assert "NCAMIX_PARENT" not in first  # its own children are none of this process's

    # What the user says counts, and ranks of a launcher are none among jobs.
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b")
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("WORLD_SIZE", "4")
    (only,) = environments(LocalWorkers(1, 3, [(1,)]), 1)
    assert (only["OMP_NUM_THREADS"], only["CUDA_VISIBLE_DEVICES"]) == ("7", "GPU-b")
    assert "SLURM_PROCID" not in only and "WORLD_SIZE" not in only
    assert only["SLURM_JOB_ID"] == "77"


@pytest.mark.usefixtures("stand_in")
def test_a_job_waits_for_whoever_holds_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = job(folder, "fail")
    waits.folder.mkdir(parents=True)
    workers = LocalWorkers(1, 1)
    with (waits.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        workers.start(waits)
        assert workers.free == 0 and workers.wait(0.3) == [] and not waits.log.exists()
    (done,) = workers.wait(SECONDS)
    assert done.status == 2
    with (waits.folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        workers.start(waits)
        workers.stop()  # before it has begun
        assert workers.free == 1
        monkeypatch.setattr(jobs, "_HELD", 0.2)
        workers.start(waits)  # in the end it begins, and would say what is wrong
        assert [done.status for done in all_of(workers)] == [2]


@pytest.mark.usefixtures("stand_in")
def test_jobs_end_with_their_parent(folder: Path, stand_in: Path) -> None:
    log = folder / "child.log"
    parent = (
        "import time\n"
        "from pathlib import Path\n"
        "from ncamix import jobs\n"
        f"jobs._COMMAND = ({str(stand_in)!r},)\n"
        f"here = Path({str(folder)!r})\n"
        "workers = jobs.LocalWorkers(1, 1)\n"
        "workers.start(jobs.Job('one', ('saves',), here / 'run', here, here / 'child.log'))\n"
        "print('started', flush=True)\n"
        "time.sleep(600)\n"
    )
    process = started([sys.executable, "-c", parent], folder)
    output_to(process, "started")
    child = begun(log)
    process.kill()
    wait_until(lambda: not is_alive(child))
    assert log.read_text() == f"begun {child}\nsaved\n"


def test_a_job_that_is_stopped_goes_on_where_it_was(folder: Path) -> None:
    """With real runs: one is stopped amid training, another is not."""
    others, workers = LocalWorkers(1, 1), LocalWorkers(2, 1)
    others.start(run_job(folder, "whole"))
    stopped = run_job(folder, "stopped")
    workers.start(stopped)
    wait_until_trained(60, workers, stopped)
    workers.stop()
    assert not (stopped.folder / "summary.json").exists()
    assert "resume" in stopped.log.read_text()
    reached = num_batches(stopped.folder)
    workers.start(stopped)
    workers.start(run_job(folder, "wrong", "--set", "stages.nothing=1"))
    ended = {done.job.name: done for done in all_of(workers) + all_of(others)}
    assert ended["wrong"].status == 2 and "nothing" in ended["wrong"].said
    assert ended["stopped"].status == ended["whole"].status == 0, ended
    assert f"after {reached} batches" in ended["stopped"].said
    assert losses(stopped.folder) == losses(folder / "runs" / "whole")


def test_slots_are_as_many_as_cores_or_gpus_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil
    import torch

    class Memory:
        available = 9 << 30

    monkeypatch.setattr(jobs, "count_threads", lambda: 8)
    monkeypatch.setattr(jobs, "has_gpu", lambda: False)
    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    assert local_capacity() == Capacity(4, 1)
    monkeypatch.setattr(Memory, "available", 1 << 40)
    assert local_capacity() == Capacity(8, 1)
    assert local_capacity(ranks=3) == Capacity(2, 1)
    assert local_capacity(3) == Capacity(3, 2)
    assert local_capacity(2, ranks=2) == Capacity(2, 2)
    monkeypatch.setattr(Memory, "available", 1 << 20)
    assert local_capacity(ranks=9) == Capacity(1, 1)

    monkeypatch.setattr(jobs, "has_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert local_capacity() == Capacity(4, 2, ((0,), (1,), (2,), (3,)))
    assert local_capacity(1) == Capacity(1, 8, ((0,),))
    assert local_capacity(6) == Capacity(6, 1, ((0,), (1,), (2,), (3,), (0,), (1,)))
    assert local_capacity(ranks=2) == Capacity(2, 2, ((0, 1), (2, 3)))
    assert local_capacity(ranks=8) == Capacity(1, 1, ((0, 1, 2, 3),))
    for slots in (Capacity(0, 1), Capacity(1, 0), Capacity(2, 1, ((0,),))):
        with pytest.raises(ValueError):
            LocalWorkers(slots.num_jobs, slots.threads, slots.gpus)
