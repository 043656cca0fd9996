"""Studies, run: what is missing is trained, once, and what is done stays."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from warm_workers import WarmWorkers

from ncamix.jobs import Job
from ncamix.shares import Shard
from ncamix.study_agenda import Agenda, open_study
from ncamix.study_running import train_study
from ncamix.study_runs import StudyRun, is_finished, state_of
from ncamix.variants import load_study
from ncamix.waiting import quiet

BASE = """\
ncamix: 1
name: base
tokenizer: bytes
sources:
  hiss: {kind: noise, symbols: 50}
  hum: {kind: dyck, style: nested, symbols: 10, depth: 4}
  words: {kind: text, files: ["text/*.txt"], holdout: {share: 0.3}, repeat: free}
stages:
  - {name: before, duration: 8ba, mixture: {0%: {hiss: 1}, 100%: {hum: 1}}}
  - {name: text, duration: rest, mixture: {words: 1}, enter: {reinitialize: [embeddings]}}
evaluate: {every: 8ba, sources: [words], samples: 8}
"""
TRAINER = """\
ncamix: 1
name: small
model: {layers: 1, heads: 2, width: 16, tie_embeddings: true}
sequence_length: 32
batch_size: 4
budget: 2560tok
optimizer: {lr: 1e-2}
"""
STUDY = """\
ncamix: 1
name: tried
base: base.yaml
trainer: small.yaml
seeds: [1, 2]
tune: {stages.text.optimizer.lr: [0.1x, 1x], seeds: [9]}
variants: {up: {}, down: {stages.before.transform: reverse}}
controls: {use: [scratch_natural], transition: same}
compare: {primary: [up, down], metric: bits_per_byte/words, smallest_effect: 0.01}
"""
WHOLE = Shard()


class Tried:
    """A study in a folder, and what trains it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "runs/tried"
        (folder / "text").mkdir()
        for i in range(30):
            lines = "\n".join(f"line {j} of text {i}, {i * j}" for j in range(20))
            (folder / f"text/{i}.txt").write_text(lines)
        (folder / "base.yaml").write_text(BASE)
        (folder / "small.yaml").write_text(TRAINER)
        self.write(STUDY)
        self.workers: WarmWorkers | None = None
        self.said = ""

    def write(self, text: str) -> None:
        (self.folder / "study.yaml").write_text(text)

    def agenda(self) -> Agenda:
        return open_study(load_study(self.folder / "study.yaml"), self.out, quiet)

    def __call__(self, shard: Shard = WHOLE, status: int = 0, before: Any = None) -> list[str]:
        """Run the study; the folders of the runs that it started."""

        def workers() -> WarmWorkers:
            if self.workers is None:
                self.workers = WarmWorkers(self.folder)
            self.workers.jobs.clear()
            self.workers.before = before or (lambda job: None)
            return self.workers

        out = io.StringIO()
        found = train_study(self.agenda(), workers, None, shard, Console(file=out, width=300))
        self.said = out.getvalue()
        assert found == status, self.said
        jobs = self.workers.jobs if self.workers is not None else []
        started = [str(job.folder.relative_to(self.out)) for job in jobs]
        jobs.clear()
        return started

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / "study.json").read_text())
        return found

    def runs(self) -> list[StudyRun]:
        return self.agenda().expected()


@pytest.fixture
def tried(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Tried:
    monkeypatch.chdir(tmp_path)
    return Tried(tmp_path)


TUNED = [f"tuning/{arm}/lr={x}x/9" for arm in ("up", "down", "scratch_natural") for x in (0.1, 1)]
FINAL = [f"{arm}/{seed}" for seed in (1, 2) for arm in ("up", "down", "scratch_natural")]


def written(folder: Path) -> dict[Path, int]:
    """When each file was written, but for locks, which say who is there."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")
    return {p: p.stat().st_mtime_ns for p in files}


def test_a_study_trains_what_is_missing_and_nothing_else(tried: Tried) -> None:
    started = tried()
    assert sorted(started) == sorted([*TUNED, *FINAL]) and len(set(started)) == len(started)
    assert all(state_of(run, tried.out) == "finished" for run in tried.runs())
    record = tried.record()
    assert {name: arm["chosen"] for name, arm in record["arms"].items()} == dict.fromkeys(
        ("up", "down", "scratch_natural"), "lr=1x"
    )
    assert [run["folder"] for run in record["runs"]] == [*TUNED, *FINAL]
    assert (tried.out / "study.html").is_file() and (tried.out / "results.json").is_file()

    # what the runs of an arm begin with was trained once
    forked = sorted(str(p.parent.relative_to(tried.out)) for p in tried.out.rglob("forked.json"))
    assert forked == ["tuning/down/lr=1x/9", "tuning/up/lr=1x/9"]
    assert not list(tried.out.rglob("ba*.pt")), "no run needs training states any more"

    # again: nothing
    kept = written(tried.out)
    assert tried() == []
    assert "12 runs are over" in tried.said
    assert kept == written(tried.out)

    # one run deleted: that one, to the byte
    losses = (tried.out / "down/2/metrics.jsonl").read_bytes()
    shutil.rmtree(tried.out / "down/2")
    assert tried() == ["down/2"]
    assert (tried.out / "down/2/metrics.jsonl").read_bytes() == losses

    # the figures of its test lost: tested again by its last weights, and not trained
    figures, times = ((tried.out / "down/2" / name) for name in ("test.json", "speed.jsonl"))
    tested, taken = figures.read_bytes(), times.read_bytes()
    figures.unlink()
    assert tried() == ["down/2"]
    assert figures.read_bytes() == tested and times.read_bytes() == taken

    # a third seed: its runs
    tried.write(STUDY.replace("seeds: [1, 2]", "seeds: [1, 2, 3]"))
    assert sorted(tried()) == ["down/3", "scratch_natural/3", "up/3"]

    # another length of the text: all anew, the old ones aside
    tried.write(STUDY.replace("up: {}", "up: {stages.text.duration: 10ba}"))
    started = tried()
    assert {"up/1", "up/2", "tuning/up/lr=1x/9"} <= set(started)
    assert not any(folder.startswith("down") for folder in started)
    assert "the old run is moved aside" in tried.said
    assert len(list((tried.out / "up").glob("1.*"))) == 1

    # each command trains its run alone
    (command,) = [r["command"] for r in tried.record()["runs"] if r["folder"] == "up/2"]
    assert command.startswith("ncamix run base.yaml --trainer small.yaml --set ")
    assert "--set stages.text.optimizer.lr=1x --set seed=2 --out runs/tried/up/2" in command


def test_a_run_that_fails_or_diverges_does_not_stop_the_others(tried: Tried) -> None:
    study = STUDY.replace("[0.1x, 1x]", "[1x, 1e18]").replace("seeds: [1, 2]", "seeds: [1]")
    tried.write(study)

    def before(job: Job) -> None:
        if job.folder == tried.out / "down/1":  # somebody's things where it should be
            job.folder.mkdir(parents=True)
            (job.folder / "notes.txt").write_text("mine")

    started = tried(status=2, before=before)
    assert len(started) == 9
    states = {run.folder: state_of(run, tried.out) for run in tried.runs()}
    assert {folder for folder, state in states.items() if state == "diverged"} == {
        f"tuning/{arm}/lr=1e18/9" for arm in ("up", "down", "scratch_natural")
    }
    assert states["down/1"] == "failed" and states["up/1"] == "finished"
    assert "the loss is not finite" in tried.said
    assert "down, seed 1: failed: the output folder" in tried.said
    assert (tried.out / "down/1/notes.txt").read_text() == "mine"
    (tried.out / "down/1/notes.txt").unlink()
    assert tried() == ["down/1"]  # what failed is tried again, and what diverged is not


def test_shares_make_up_the_study(tried: Tried) -> None:
    first = tried(Shard(1, 2))
    assert "are still to be trained" in tried.said
    second = tried(Shard(2, 2))
    assert first and second and not set(first) & set(second)
    assert sorted([*first, *second]) == sorted([*TUNED, *FINAL])
    assert tried() == []
    folders = {run.arm: run for run in tried.runs()}
    assert all(is_finished(tried.out / run.folder, run.fingerprint) for run in folders.values())
