"""Forked runs: what another run has trained is taken over, and nothing tells the difference."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import output_to, started

from ncamix.forking import FORKED, drop_checkpoints, finished_stages, fork
from ncamix.loading import load_curriculum
from ncamix.plan import Plan
from ncamix.planning import make_plan
from ncamix.run_folder import DIVERGED, checkpoints_in
from ncamix.run_log import RECORDS
from ncamix.trainer import load_trainer

CURRICULUM = """
ncamix: 1
name: tiny
seed: 3
vocabulary: {rows: 200}
sources:
  hiss: {kind: noise, symbols: 50}
  hush: {kind: noise, distribution: zipf, symbols: 50}
  hum: {kind: dyck, style: nested, symbols: 10, depth: 4}
stages:
  - {name: warm, duration: 20ba, mixture: {hiss: 1}, until: {loss/hum: {below: 100.0}}}
  - {name: middle, duration: 12ba, mixture: {hush: 1, hum: 1}, enter: {reinitialize: [embeddings]}}
  - {name: last, duration: 8ba, mixture: {hum: 1}, enter: {optimizer_state: keep}}
evaluate: {every: 15ba, sources: [hum], samples: 4}
"""
TRAINER = """
ncamix: 1
name: small
model: {layers: 1, heads: 2, width: 16, tie_embeddings: true}
sequence_length: 32
batch_size: 4
budget: 7680tok
optimizer: {lr: 1e-2, clip: 1.0}
"""
OTHER = "stages.last.optimizer.lr=3e-3"  # of the last stage alone

Run = Callable[..., str]


def plan_with(folder: Path, *settings: str) -> Plan:
    curriculum = load_curriculum(folder / "tiny.yaml", settings)
    return make_plan(curriculum, load_trainer(folder / "small.yaml", settings))


def runs_in(folder: Path) -> Run:
    """What trains the curriculum with settings into a folder; all runs in one process."""
    program = str(Path(__file__).with_name("edited_runs.py"))
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = started([sys.executable, program], folder, env, talks=True)

    def run(out: str, *settings: str) -> str:
        words = [word for setting in settings for word in ("--set", setting)]
        assert process.stdin is not None
        command = [["tiny.yaml", "-t", "small.yaml", *words, "--out", out], None]
        process.stdin.write(json.dumps(command) + "\n")
        process.stdin.flush()
        status, output = json.loads(output_to(process, "\n").splitlines()[-1])
        assert status == 0, output
        return str(output)

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run `donor`, and `alone`, whose last stage is another."""
    folder = tmp_path_factory.mktemp("forking")
    (folder / "tiny.yaml").write_text(CURRICULUM)
    (folder / "small.yaml").write_text(TRAINER)
    run = runs_in(folder)
    run("donor")
    run("alone", OTHER)
    return folder


def test_plans_begin_alike_as_far_as_their_stages_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(CURRICULUM)
    (tmp_path / "small.yaml").write_text(TRAINER)
    base = plan_with(tmp_path)

    def common(*settings: str) -> list[bool]:
        other = plan_with(tmp_path, *settings)
        return [base.beginning(n) == other.beginning(n) for n in (1, 2, 3)]

    assert common() == [True, True, True]
    assert common(OTHER) == [True, True, False]
    assert common("stages.middle.duration=9ba") == [True, False, False]
    assert common("stages.middle.enter.initializer=torch") == [True, False, False]
    assert common("stages.middle.mixture={hush: 1}") == [True, False, False]
    for setting in (
        "seed=4",
        "trainer.model.width=32",
        "vocabulary.rows=201",
        "stages.warm.optimizer.lr=1e-3",
        "sources.hum.depth=5",  # it is evaluated from the first stage on
        "evaluate.samples=5",
        "evaluate.every=14ba",
        "trainer.averaging={ema: 0.9}",
    ):
        assert common(setting) == [False, False, False], setting
    assert common("name=other", "trainer.checkpoint.keep=1") == [True, True, True]


def test_a_forked_run_ends_as_one_that_was_trained_alone(trained: Path) -> None:
    plan, run, donor = plan_with(trained, OTHER), runs_in(trained), trained / "donor"
    stages = tuple((stage.name, stage.num_batches) for stage in plan.stages)
    assert finished_stages(donor, stages) == 3
    kept = {p: p.read_bytes() for p in donor.rglob("*") if p.is_file() and p.name != ".lock"}
    for num_stages, reached in ((1, "warm"), (2, "middle")):
        made = trained / f"forked{num_stages}"
        fork(donor, plan, num_stages, made)
        assert finished_stages(made, stages) == num_stages
        assert f"of stage '{reached}'" in run(made.name, OTHER)  # it resumed
        for record in RECORDS:
            if record != "speed.jsonl":
                ours = (made / record).read_bytes()
                assert ours == (trained / "alone" / record).read_bytes(), record
        for index, (name, _) in enumerate(stages):
            weights = f"checkpoints/{index}-{name}/weights.safetensors"
            assert weights_of(made / weights) == weights_of(trained / "alone" / weights)
        assert json.loads((made / FORKED).read_text()) == {
            "run": "../donor",
            "stages": ["warm", "middle"][:num_stages],
        }
    assert kept == {path: path.read_bytes() for path in kept}, "the donor stays as it is"


def weights_of(file: Path) -> bytes:
    """The values of a safetensors file, without what it says about itself."""
    data = file.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def test_only_finished_stages_with_their_last_state_can_be_gone_on_from(
    trained: Path,
) -> None:
    plan = plan_with(trained, OTHER)
    stages = tuple((stage.name, stage.num_batches) for stage in plan.stages)
    assert finished_stages(trained / "nothing", stages) == 0
    alone = trained / "alone"
    assert finished_stages(alone, stages) == 3
    drop_checkpoints(alone, 1, "middle")
    assert finished_stages(alone, stages) == 1
    assert not checkpoints_in(alone / "checkpoints/1-middle")
    assert (alone / "checkpoints/1-middle/weights.safetensors").is_file()


def test_a_fork_that_fails_leaves_nothing(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ncamix.forking._copy_rows", full)
    before = sorted(trained.iterdir())
    with pytest.raises(OSError, match="No space"):
        fork(trained / "donor", plan_with(trained, OTHER), 1, trained / "torn")
    assert sorted(trained.iterdir()) == before


def test_a_run_that_diverges_says_where(trained: Path) -> None:
    """The record by which a study knows that there is nothing to be tried again."""
    plan = plan_with(trained, "stages.warm.optimizer={lr: 1e18}")
    words = ["--set", "stages.warm.optimizer={lr: 1e18}", "--out", "diverged"]
    command = [sys.executable, "-m", "ncamix", "run", "tiny.yaml", "-t", "small.yaml", *words]
    process = started(command, trained, {**os.environ, "OMP_NUM_THREADS": "1"})
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2 and "the loss is not finite in batch" in said
    told = json.loads((trained / "diverged" / DIVERGED).read_text())
    assert told["fingerprint"] == plan.fingerprint
    assert told["what"] in said and told["tokens"] > 0
