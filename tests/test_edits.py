"""Runs whose future is edited: what was trained stays to the byte, or the edit is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from processes import output_to, started
from ruamel.yaml import YAML
from test_advice import merged

from ncamix.inspection import Request, inspect
from ncamix.replanning import replan

CURRICULUM = """
ncamix: 1
name: tiny
seed: 3
vocabulary: {rows: 200, softmax: all}
sources:
  hiss: {kind: noise, symbols: 50}
  hush: {kind: noise, distribution: zipf, symbols: 50}
  hum: {kind: dyck, style: nested, symbols: 10, depth: 4}
stages:
  - name: warm
    duration: 50%
    mixture: {0%: {hiss: 1}, 100%: {hush: 1}}
    optimizer: {lr: {peak: 0.5x, warmup: 10%, decay: cosine}}
  - name: main
    duration: rest
    enter: {reinitialize: [embeddings]}
    mixture: {hush: 1, hum: 1}
evaluate: {every: 25%, sources: [hum], samples: 4}
"""
TRAINER = """
ncamix: 1
name: small
model: {layers: 1, heads: 2, width: 16, tie_embeddings: true}
sequence_length: 32
batch_size: 4
budget: 7680tok
optimizer: {lr: 1e-2, clip: 1.0}
checkpoint: {every: 10ba, keep: 2}
"""
Written = dict[str, Any]


def read(text: str) -> Written:
    found: Written = YAML(typ="safe").load(text)
    return found


def advised(output: str) -> list[str]:
    """The lines of YAML that a refusal tells to write."""
    lines = output.split("(then and now)\n")[1].split("    write the lines above")[0].split("\n")
    return [line.removeprefix("    ") for line in lines if line]


class EditedRun:
    """A run's folder, whose files change; commands run one after the other in one process."""

    def __init__(self, folder: Path, process: subprocess.Popen[str]) -> None:
        self.folder, self.process = folder, process
        self.curriculum, self.trainer = read(CURRICULUM), read(TRAINER)
        self.run = folder / "runs/tiny"

    def __call__(self, *extra: str, status: int = 0, stop: int | None = None) -> str:
        (self.folder / "tiny.yaml").write_text(json.dumps(self.curriculum))
        (self.folder / "small.yaml").write_text(json.dumps(self.trainer))
        assert self.process.stdin is not None
        command = [["tiny.yaml", "-t", "small.yaml", *extra], stop]
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        found, output = json.loads(output_to(self.process, "\n").splitlines()[-1])
        assert found == (143 if stop else status), output
        assert "Traceback" not in output
        return str(output)

    def stage(self, name: str) -> Written:
        (found,) = (stage for stage in self.curriculum["stages"] if stage["name"] == name)
        return dict(found) and found

    def metrics(self) -> bytes:
        return (self.run / "metrics.jsonl").read_bytes()

    def rows(self, name: str = "metrics.jsonl", run: str = "runs/tiny") -> list[Written]:
        return [json.loads(x) for x in (self.folder / run / name).read_text().splitlines()]

    @contextmanager
    def past_stays(self, batches: int | None = None) -> Iterator[None]:
        """The first rows of metrics.jsonl stay as they are, to the byte; all of them by default,
        and the files of the folder, too."""
        before = self.metrics()
        if batches is not None:
            before = b"".join(before.splitlines(keepends=True)[:batches])
        files = self.files()
        yield
        assert self.metrics()[: len(before)] == before
        assert batches is not None or files == self.files()

    def files(self) -> dict[str, bytes]:
        found = (path for path in self.run.rglob("*") if path.is_file() and path.name != ".lock")
        return {str(path): path.read_bytes() for path in found}


@pytest.fixture
def edited(tmp_path: Path, own_cache: Path) -> EditedRun:
    program = str(Path(__file__).with_name("edited_runs.py"))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "500"}
    process = started([sys.executable, program], tmp_path, env, talks=True)
    return EditedRun(tmp_path, process)


def test_a_run_is_edited_again_and_again(edited: EditedRun) -> None:
    """Its past stays to the byte, and it ends as a run does that had the last files all along."""
    edited(stop=12)
    edited.trainer["budget"] = "10240tok"  # lengthens a stage whose keyframes are in percent
    with edited.past_stays():
        output = edited(status=2)
    assert "from batch 0 of stage 'warm' on: a learning rate of 0.000833333 and 0.000625" in output
    edited.curriculum = merged(edited.curriculum, advised(output))
    with edited.past_stays(12):
        output = edited(stop=25)
    assert "the future has changed from batch 30 of stage 'warm' on" in output

    edited.stage("main")["mixture"] = {"hum": 1}
    with edited.past_stays(25):
        assert "from batch 0 of stage 'main' on" in edited(stop=50)

    edited.stage("main")["mixture"] = {"0ba": {"hum": 1}, "40ba": {"hum": 1}, "50ba": {"hiss": 1}}
    edited.stage("main")["duration"] = "50ba"
    edited.stage("warm")["duration"] = "40ba"  # as it was, of a budget that is not filled any more
    edited.curriculum["stages"].append({"name": "more", "duration": "6ba", "mixture": {"hush": 1}})
    with edited.past_stays(50):
        assert "from batch 40 of stage 'main' on" in edited()
    with edited.past_stays():
        assert "is finished" in edited()
        lr = edited.stage("warm")["optimizer"]["lr"]
        edited.stage("warm")["optimizer"]["lr"] = "1x"
        assert "would change its past" in edited(status=2)
        edited.stage("warm")["optimizer"]["lr"] = lr

    edited.stage("more")["duration"] = "9ba"
    report = (edited.run / "report.html").stat().st_mtime_ns
    with edited.past_stays(96):
        assert "from batch 6 of stage 'more' on" in edited()
    assert (edited.run / "report.html").stat().st_mtime_ns > report
    edited.curriculum["evaluate"]["sources"] = ["hum", "hush"]
    with edited.past_stays(99):
        assert "no batch with them" in edited()

    summary = json.loads((edited.run / "summary.json").read_text())
    assert [s["num_batches"] for s in summary["stages"]] == [40, 50, 9]
    assert all(s["planned"] == s["realised"] for s in summary["stages"])
    edits = edited.rows("edits.jsonl")
    assert [(e["stage"], e["batches"]) for e in edits] == [
        ("warm", 12),
        ("warm", 25),
        ("main", 10),
        ("more", 6),
        ("more", 9),
    ]
    assert [a["after"] for a in edits] == [
        *(b["before"] for b in edits[1:]),
        summary["plan_fingerprint"],
    ]
    first = read((edited.run / "edits/1/curriculum.yaml").read_text())
    assert first == read(CURRICULUM)

    edited("--out", "runs/whole")
    ours, theirs = edited.rows(), edited.rows(run="runs/whole")
    assert len(ours) == len(theirs) == 99
    for one, other in zip(ours, theirs, strict=True):
        new = {key for key in other if key not in one}  # sources that came to the stage later
        assert one == {key: other[key] for key in one} and not any(other[key] for key in new)
    plan, difference = replan(edited.run)
    assert difference == ""
    for row in ours[::25]:
        found = inspect(plan, Request(token=row["tokens"]), edited.run)
        assert found.as_trained and found.batch.rate == row["lr"]
