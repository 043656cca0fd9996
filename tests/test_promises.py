"""One order, nothing lost: over ranks, workers and stages, through kills and pre-emptions."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forked_runs import Child, Server
from processes import SECONDS, output_of, started, wait_until
from test_run import CURRICULUM, FIRST_STAGE, NUM_BATCHES, Runner, gone, same_run
from test_run_faults import group

pytestmark = pytest.mark.timeout(900)  # a dozen runs each
MOMENTS = [*("rows" for _ in range(7)), *("seconds" for _ in range(3))]


class Fast(Runner):
    """Runs of one rank are forked; those of two are launched by `ncamix run` itself."""

    def __init__(self, folder: Path, server: Server, cache: Path | None = None) -> None:
        super().__init__(folder, cache)
        self.server, self.runs = server, 0
        self._held = tempfile.TemporaryDirectory(dir="/tmp")  # short enough for sockets
        self.temporary = Path(self._held.name)
        self.env["TMPDIR"] = self._held.name

    def start(self, *extra: str) -> Child:  # type: ignore[override]
        self.runs += 1
        log = self.folder / f"{self.runs}.log"
        return self.server.start(self.command(*extra)[3:], self.folder, self.env, log)

    def ranks(self, *extra: str) -> subprocess.Popen[str]:
        return started(self.command("--ranks", "2", *extra), self.folder, self.env)

    def digests(self) -> list[int]:
        return [row["digest"] for row in self.rows()]

    def trains_on(self, batches: int) -> Callable[[], bool]:
        """Whether a run started now has trained on so many batches, and cut what was before."""
        began = time.time_ns()
        path = self.folder / "runs/tiny/metrics.jsonl"
        target: list[int] = []

        def ready() -> bool:
            if not path.exists() or path.stat().st_mtime_ns <= began:
                return False
            if not target:
                target.append(self.batches() + batches)
            return self.batches() >= min(target[0], NUM_BATCHES)

        return ready

    def left(self) -> list[Path]:
        """Temporary directories of runs."""
        return list(self.temporary.glob("ncamix-*"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as made:
        yield made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Fast:
    """An uninterrupted run of one rank."""
    runner = Fast(tmp_path_factory.mktemp("whole"), server)
    runner.run()
    return runner


def test_killed_at_ten_moments_it_is_the_uninterrupted_run(
    whole: Fast, server: Server, tmp_path: Path
) -> None:
    chance = random.Random(6)
    runner = Fast(tmp_path / "work", server)
    chance.shuffle(MOMENTS)
    shared: list[dict[Path, int]] = []
    for moment in MOMENTS:
        process = runner.start()
        if moment == "rows":
            wait_until(runner.trains_on(chance.randrange(1, 30)), process)
        else:  # wherever it then is
            time.sleep(chance.uniform(0.1, 2))
        if (runner.folder / "runs/tiny/.lock").exists():
            shared.append(runner.shared())
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(SECONDS) == -signal.SIGKILL
    assert 0 < runner.batches() < NUM_BATCHES
    runner.run()
    same_run(runner, whole)
    assert all(gone(segments) for segments in shared if segments)
    assert not runner.left()


def test_sigterm_saves_wherever_it_comes(whole: Fast, server: Server, tmp_path: Path) -> None:
    """Before anything, while text is compiled, within an evaluation, in either stage."""
    runner = Fast(tmp_path / "work", server)
    evaluations = runner.folder / "runs/tiny/evaluations.jsonl"

    def evaluated(rows: int) -> Callable[[], bool]:
        return lambda: evaluations.exists() and evaluations.read_text().count("\n") >= rows

    moments: list[Callable[[], bool]] = [
        lambda: any(runner.folder.glob("runs/tiny/.lock")),
        lambda: any(runner.cache.glob("*/tokenizer.json")),
        runner.trains_on(20),
        evaluated(2),
        lambda: (runner.folder / f"runs/tiny/checkpoints/0-warm/ba{FIRST_STAGE:06}.pt").exists(),
        lambda: runner.batches() > FIRST_STAGE + 20,
    ]
    for ready in moments:
        process = runner.start()
        wait_until(process.speaks, process)
        wait_until(ready, process)
        os.kill(process.pid, signal.SIGTERM)
        output = output_of(process)
        assert process.returncode == 143, output
        assert "again to resume" in output and "Traceback" not in output
        rows = runner.rows() if runner.batches() else []
        if rows:
            stages = [row["stage"] for row in rows]
            saved = f"checkpoints/*-{stages[-1]}/ba{stages.count(stages[-1]):06}.pt"
            assert list((runner.folder / "runs/tiny").glob(saved))
        assert not runner.left()
    runner.run()
    same_run(runner, whole)


def test_an_evaluation_is_broken_off_and_made_up_for(server: Server, tmp_path: Path) -> None:
    runners = [Fast(tmp_path / name, server) for name in ("whole", "work")]
    for runner in runners:
        (runner.folder / "tiny.yaml").write_text(
            CURRICULUM.split("stages:")[0].replace("{bpe: 300, train_on: [words]}", "bytes")
            + "stages: [{name: one, duration: 20ba, mixture: {static: 1, lively: 1}}]\n"
            "evaluate: {every: 10ba, sources: [static], samples: 8000}\n"
        )
    whole, runner = runners
    whole.run()
    process = runner.start()
    wait_until(lambda: runner.batches() == 10, process)
    os.kill(process.pid, signal.SIGTERM)
    output = output_of(process)
    assert process.returncode == 143, output
    assert [row["when"] for row in runner.rows(name="evaluations.jsonl")] == ["start"]
    assert list((runner.folder / "runs/tiny").glob("checkpoints/0-one/ba000010*"))
    again = runner.start()
    wait_until(lambda: len(runner.rows(name="evaluations.jsonl")) == 2, again)
    os.killpg(again.pid, signal.SIGKILL)  # before the next checkpoint, perhaps
    again.wait(SECONDS)
    runner.run()
    same_run(runner, whole)


def ranks_of(launcher: int) -> list[int]:
    """The ranks that a process has launched, in their order."""
    found = []
    for process in group(launcher):
        try:
            parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
            told = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        found += [
            (rank, process) for rank in told if rank.startswith(b"RANK=") and parent == launcher
        ]
    return [process for _, process in sorted(found)]


def ended(process: subprocess.Popen[str], session: int) -> str:
    """What it said; nothing that it started lives on."""
    output = output_of(process)
    wait_until(lambda: not group(session))
    return output


def test_ranks_come_go_and_are_killed(whole: Fast, server: Server, tmp_path: Path) -> None:
    two = Fast(tmp_path / "two", server, whole.cache)
    reference = two.ranks("--set", "trainer.workers=2")
    output = ended(reference, reference.pid)
    assert reference.returncode == 0, output
    assert output.count("tokens), then text") == 1 and "report.html" in output
    assert "Press Ctrl-C" not in output  # Composer's launcher
    assert two.digests() == whole.digests()
    for ours, theirs in zip(two.rows(), whole.rows(), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-2)

    runner = Fast(tmp_path / "work", server, whole.cache)
    launched = runner.ranks()
    wait_until(runner.trains_on(31), launched)
    shared = runner.shared()
    second = started(runner.command("--ranks", "2"), runner.folder, runner.env)
    assert "another process is working in" in output_of(second)
    assert second.returncode == 2
    os.killpg(launched.pid, signal.SIGKILL)  # its ranks end with it
    ended(launched, launched.pid)

    launched = runner.ranks()
    wait_until(runner.trains_on(20), launched)
    os.kill(ranks_of(launched.pid)[1], signal.SIGTERM)
    output = ended(launched, launched.pid)
    assert launched.returncode == 143, output
    assert output.count("again to resume") == 1 and "Traceback" not in output
    assert runner.rows() == two.rows()[: runner.batches()]  # to the bit
    assert gone(shared)

    alone = runner.start("--set", "trainer.workers=2")
    wait_until(runner.trains_on(1), alone)
    wait_until(lambda: runner.batches() > FIRST_STAGE + 10, alone)
    os.killpg(alone.pid, signal.SIGTERM)  # the workers, too
    output = output_of(alone)
    assert alone.returncode == 143, output

    launched = runner.ranks()
    wait_until(runner.trains_on(5), launched)
    os.kill(ranks_of(launched.pid)[1], signal.SIGKILL)
    output = ended(launched, launched.pid)
    assert launched.returncode == 128 + signal.SIGKILL, output

    runner.run()
    assert runner.digests() == whole.digests()
    assert not runner.left()
    again = runner.ranks()
    assert "is finished" in output_of(again) and again.returncode == 0
