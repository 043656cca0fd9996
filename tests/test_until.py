"""Stages that end on evidence: decided once, written down, and replayed by whoever resumes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from test_run import Runner, same_run

CURRICULUM = """
ncamix: 1
name: tiny
seed: 3
tokenizer: bytes
sources:
  still: {kind: nca, alphabet: 2, grid: 6, band: {gzip: [0.0, 0.30]}}
  lively: {kind: nca, alphabet: 3, grid: 6, band: {gzip: [0.20, 1.00]}}
  static: {kind: noise, distribution: zipf, symbols: 50, transform: shuffle_tokens}
  hum: {kind: noise, symbols: 20}
  own: {kind: blend, clock: self, mixture: {0%: {static: 1}, 100%: {lively: 1}}}
  words: {kind: text, files: ["corpus/*.txt"], holdout: {share: 0.2}, repeat: free}
stages:
  - name: warm
    duration: 60%
    mixture: {0%: {still: 3, own: 1}, 100%: {lively: 1}}
    until: {loss/still: {below: 2.6}}
  - name: again
    duration: 10ba
    batch_size: 6
    sequence_length: 16
    mixture: {0%: {own: 1}, 100%: {still: 1, hum: 1}}
    transform: reverse
    draw: {still: replay}
    optimizer: {lr: {start: continue, decay: linear}}
    enter: {keep_only: [attention, {mlp: 0}], spare: [text]}
  - name: text
    duration: rest
    batch_size: 2
    sequence_length: 64
    mixture: {words: 90%, lively: 10%}
evaluate: {every: 5%, sources: [still, words], samples: 8}
"""
PLANNED = 120  # batches of the first stage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """An uninterrupted run."""
    runner = new_runner(tmp_path_factory.mktemp("whole"))
    runner.run()
    return runner


def new_runner(folder: Path, cache: Path | None = None) -> Runner:
    runner = Runner(folder, cache)
    (folder / "tiny.yaml").write_text(CURRICULUM)
    return runner


def folder_of(runner: Runner) -> Path:
    return runner.folder / "runs/tiny"


def test_a_stage_ends_on_evidence_and_leaves_the_rest_to_the_rest(whole: Runner) -> None:
    decided = json.loads((folder_of(whole) / "decisions.json").read_text())["warm"]
    ended = decided["num_batches"]
    assert 0 < ended < PLANNED
    assert decided["values"]["loss/still"] < 2.6
    rows, plan = whole.rows(), json.loads((folder_of(whole) / "plan.json").read_text())
    stages = [row["stage"] for row in rows]
    assert stages.count("warm") == ended == plan["stages"][0]["num_batches"]
    assert plan["stages"][0]["num_batches_planned"] == PLANNED
    again = 10 * 6 * 16
    assert stages.count("text") == (25600 - ended * 128 - again) // 128
    assert rows[-1]["tokens"] == 25600 - (25600 - again) % 128
    evaluations = whole.rows(name="evaluations.jsonl")
    losses = [e["loss"] for e in evaluations if e["stage"] == "warm" and e["source"] == "still"]
    assert losses[-1] < 2.6 <= min(losses[:-1])  # at the first evaluation that says so
    at_end = [e for e in evaluations if e["batch"] == ended and e["stage"] == "warm"]
    # Of the text nothing yet: it is evaluated once a stage draws it.
    assert [(e["source"], e["when"]) for e in at_end] == [("still", "end")]
    assert {"words", "words@64", "still@16", "hum@16", "lively@64"} < plan["sources"].keys()
    summary = json.loads((folder_of(whole) / "summary.json").read_text())
    assert summary["stages"][0]["realised"] == plan["stages"][0]["counts"]
    assert [p.name for p in sorted((folder_of(whole) / "checkpoints").glob("0-warm/*.pt"))] == [
        f"ba{ended:06}.pt"
    ]


def test_the_rate_goes_on_from_where_the_stage_ended(whole: Runner) -> None:
    rates = {
        name: [r["lr"] for r in whole.rows() if r["stage"] == name] for name in ("warm", "again")
    }
    assert rates["warm"][-1] == 1e-2  # the trainer's, a constant
    assert rates["again"] == pytest.approx([1e-2 * (1 - (t + 0.5) / 10) for t in range(10)])


@pytest.mark.parametrize("moment", ["decided", "after"])
def test_killed_and_rerun_it_decides_the_same(moment: str, whole: Runner, tmp_path: Path) -> None:
    runner = new_runner(tmp_path / "work", whole.cache)
    ended = json.loads((folder_of(whole) / "decisions.json").read_text())["warm"]["num_batches"]
    decisions = folder_of(runner) / "decisions.json"
    ready = {
        "decided": decisions.is_file,
        "after": lambda: runner.batches() >= ended + 14,
    }[moment]
    assert runner.stop_when(ready, signal.SIGKILL)[0] == -signal.SIGKILL
    runner.run()
    same_run(runner, whole)
    assert decisions.read_bytes() == (folder_of(whole) / "decisions.json").read_bytes()
    # The run is known by the plan that it was started with.
    assert "is finished" in runner.run()


def test_an_epoch_is_a_duration(tmp_path: Path) -> None:
    runner = Runner(tmp_path / "work")
    (runner.folder / "tiny.yaml").write_text(
        CURRICULUM.partition("stages:")[0]
        + "stages:\n  - {name: text, duration: 0.5ep, mixture: {words: 50%, lively: 50%}}\n"
    )
    runner.run("--set", "trainer.batch_size=32")
    rows = runner.rows()
    plan = json.loads((folder_of(runner) / "plan.json").read_text())
    size = plan["sources"]["words"]["num_samples"]
    assert rows[-1]["count/words"] + rows[-1]["count/lively"] == size // 32 * 32
    assert abs(rows[-1]["count/words"] - size / 2) < 17


def test_two_ranks_decide_alike(whole: Runner, tmp_path: Path) -> None:
    runner = new_runner(tmp_path / "work", whole.cache)
    status, output = runner.launch()
    assert status == 0, output
    decided = [
        json.loads((folder_of(r) / "decisions.json").read_text())["warm"] for r in (runner, whole)
    ]
    assert decided[0]["num_batches"] == decided[1]["num_batches"]
    assert [r["digest"] for r in runner.rows()] == [r["digest"] for r in whole.rows()]
