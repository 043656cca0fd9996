"""Runs whose generator raises or whose workers are killed: they stop, say why, leave nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import output_of, wait_until
from test_run import CURRICULUM, TRAINER, Runner, gone

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

    def fail_by(self, fault: str, process: subprocess.Popen[str]) -> dict[Path, int]:
        """Let it train on a few batches, then break it; the shared memory that it had."""
        wait_until(lambda: self.batches() >= 3, process)
        shared = self.shared()
        if fault == "raise":  # the generator cannot read what it is to generate
            (self.folder / "runs/tiny/data/0-one/static.json").write_text("{torn")
        else:
            os.kill(spawned(process.pid)[0], signal.SIGKILL)
        return shared


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
    found = []
    for process in group(leader):
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes():
                found.append(process)
    return found


@pytest.mark.parametrize(
    ("fault", "workers", "ranks"),
    [
        ("raise", 0, 1), ("raise", 2, 1), ("raise", 1, 2),
        ("kill", 1, 1), ("kill", 2, 1), ("kill", 1, 2),
    ],
)  # fmt: skip
def test_a_failure_ends_the_run_everywhere_with_its_message(
    tmp_path: Path, fault: str, workers: int, ranks: int
) -> None:
    runner = FaultyRunner(tmp_path / "work", workers, ranks)
    process = runner.start()
    try:
        shared = runner.fail_by(fault, process)
        output = output_of(process)
        assert process.returncode, output
        if fault == "raise":
            assert "Expecting property name enclosed in double quotes" in output, output
        else:
            assert "a process that loads data has died: DataLoader worker" in output, output
            assert "lower the trainer's `workers`" in output
            assert ranks > 1 or (process.returncode == 2 and "Traceback" not in output), output
        wait_until(lambda: not group(process.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert gone(shared)
    assert (runner.folder / "runs/tiny/.lock").read_text() == "{}\n"
    if workers == 0 and ranks == 1:  # and the same command goes on from there
        again = runner.start()
        output = output_of(again)
        assert again.returncode == 0, output
        assert [row["batch"] for row in runner.rows()] == list(range(200))


def test_two_runs_on_one_empty_cache_leave_each_other_alone(tmp_path: Path) -> None:
    runners = [Runner(tmp_path / name, tmp_path / "cache") for name in ("one", "two")]
    running = [runner.start() for runner in runners]
    for process in running:
        output = output_of(process)
        assert process.returncode == 0, output
    first, second = (runner.rows() for runner in runners)
    assert len(first) == 200 and first == second
