"""Runs whose generator raises or whose workers are killed: they stop, say why, leave nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_run import CURRICULUM, TRAINER, Runner, all_maps

# Shards of 16 samples, so that a run of seconds needs many.
PROGRAM = (
    "from ncamix import inventory\n"
    "from ncamix.cli import main\n"
    "inventory.SHARD_TOKENS = 16 * 33\n"
    'if __name__ == "__main__":\n'
    "    main()\n"
)


class FaultyRunner(Runner):
    """A run of two synthetic sources, so many ranks and so many workers a rank."""

    def __init__(self, folder: Path, workers: int, ranks: int) -> None:
        super().__init__(folder)
        text = CURRICULUM.split("stages:")[0].replace("  words:", "  unused:")
        text = text.replace("tokenizer: {bpe: 300, train_on: [words]}", "tokenizer: bytes")
        text += "stages: [{name: one, duration: 100%, mixture: {static: 1, lively: 1}}]\n"
        (folder / "tiny.yaml").write_text(text)
        trainer = TRAINER + f"workers: {workers}\npredownload: 2ba\n"
        (folder / "small.yaml").write_text(trainer)
        (folder / "program.py").write_text(PROGRAM)
        self.ranks = ranks

    def command(self, *extra: str) -> list[str]:
        told = ["program.py", "run", "tiny.yaml", "-t", "small.yaml", *extra]
        if self.ranks == 1:
            return [sys.executable, *told]
        return [str(Path(sys.executable).with_name("composer")), "-n", str(self.ranks), *told]

    def fail_by(self, fault: str, process: subprocess.Popen[str]) -> None:
        """Let it train on a few batches, then break it."""
        while self.batches() < 3:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)
        if fault == "raise":  # the generator cannot read what it is to generate
            (self.folder / "runs/tiny/data/0-one/static.json").write_text("{torn")
        else:
            os.kill(spawned(process.pid)[0], signal.SIGKILL)


def group(leader: int) -> list[int]:
    """The living processes of a session, by its first one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(stat.parent.name))
    return found


def spawned(leader: int) -> list[int]:
    """The DataLoader's workers among them."""
    return [p for p in group(leader) if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


@pytest.mark.parametrize(
    ("fault", "workers", "ranks"),
    [
        ("raise", 0, 1), ("raise", 1, 1), ("raise", 2, 1), ("raise", 0, 2), ("raise", 2, 2),
        ("kill", 1, 1), ("kill", 2, 1), ("kill", 1, 2),
    ],
)  # fmt: skip
def test_a_failure_ends_the_run_everywhere_with_its_message(
    tmp_path: Path, fault: str, workers: int, ranks: int
) -> None:
    runner = FaultyRunner(tmp_path / "work", workers, ranks)
    before = set(os.listdir("/dev/shm"))
    process = runner.start()
    try:
        runner.fail_by(fault, process)
        output, _ = process.communicate(timeout=120)
        assert process.returncode not in (0, None), output
        if fault == "raise":
            assert "Expecting property name enclosed in double quotes" in output
        else:
            assert "a process that loads data has died: DataLoader worker" in output
            assert "lower the trainer's `workers`" in output
            assert ranks > 1 or (process.returncode == 2 and "Traceback" not in output)
        until = time.monotonic() + 20
        while group(process.pid) and time.monotonic() < until:
            time.sleep(0.05)
        assert group(process.pid) == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    maps = all_maps()
    new = {n for n in set(os.listdir("/dev/shm")) - before if n[:6].isdigit()}
    assert not {n for n in new if n not in maps}  # other tests may be at work beside this one
    assert (runner.folder / "runs/tiny/.lock").read_text() == "{}\n"
    if workers == 0 and ranks == 1:  # and the same command goes on from there
        again = runner.start()
        output, _ = again.communicate(timeout=150)
        assert again.returncode == 0, output
        assert [row["batch"] for row in runner.rows()] == list(range(200))


def test_two_runs_on_one_empty_cache_leave_each_other_alone(tmp_path: Path) -> None:
    runners = [Runner(tmp_path / name, tmp_path / "cache") for name in ("one", "two")]
    running = [runner.start() for runner in runners]
    for process in running:
        output, _ = process.communicate(timeout=280)
        assert process.returncode == 0, output
    first, second = (runner.rows() for runner in runners)
    assert len(first) == 200 and first == second
