"""What stages begin with, seen in the weights of real runs, also of such as were killed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_run import Runner, same_run
from torch import Tensor

from ncamix.errors import UserError
from ncamix.groups import Group, parts
from ncamix.loading import load_curriculum
from ncamix.plan import Plan
from ncamix.planning import make_plan
from ncamix.run_folder import WEIGHTS, RunFolder
from ncamix.trainer import load_trainer
from ncamix.training.handover import enter_stage, load_weights, stage_model
from ncamix.training.model import build_llama, parameter_groups
from ncamix.training.transitions import permute, reinitialize

# A stage whose rate is zero leaves the weights as it found them: its own are those it began with.
CURRICULUM = """
ncamix: 1
name: tiny
seed: 3
tokenizer: bytes
sources:
  lively: {kind: nca, alphabet: 3, grid: 6, band: {gzip: [0.20, 1.00]}}
  hiss: {kind: noise, symbols: 30}
  words: {kind: text, files: ["corpus/*.txt"], repeat: free}
  answers: {kind: pairs, files: [pairs.jsonl], prompt: p, response: r, holdout: {share: 0.2}}
stages:
  - {name: one, duration: 8ba, mixture: {lively: 1, hiss: 1}}
  - name: two
    duration: 2ba
    mixture: {words: 1}
    optimizer: {lr: 0x}
    enter:
      reinitialize: [embeddings, {mlp: 1}]
      permute: {attention: 0, norms: 1}
      spare: [nca]
      initializer: {normal: 0.3}
      optimizer_state: keep
  - name: three
    duration: 60ba
    mixture: {words: 1, hiss: 1}
    batch_size: 8
    sequence_length: 16
    optimizer: {weight_decay: 0.1}
    enter:
      freeze: {attention: all, norms: {layers: 0, until: 50%}}
      optimizer_state: keep
  - name: four
    duration: 3ep
    mixture: {answers: 1}
    optimizer: {lr: {peak: 0.1x, warmup: 10%, decay: cosine}}
evaluate: {every: 30ba, sources: [answers], samples: 4}
"""
TRAINER = """
ncamix: 1
name: small
model: {layers: 2, heads: 2, width: 16}
sequence_length: 32
batch_size: 4
budget: 10ktok
averaging: {ema: 0.9}
checkpoint: {every: 20ba, keep: 2}
optimizer: {kind: muon, lr: 1e-2, clip: 1.0, adam_ratio: 0.5}
"""
STAGES = ("one", "two", "three", "four")
FIRST_TWO = 10  # batches


class EnteredRunner(Runner):
    """One working folder, with a curriculum whose stages are entered in many ways."""

    curriculum, trainer = CURRICULUM, TRAINER

    def __init__(self, folder: Path, cache: Path | None = None) -> None:
        super().__init__(folder, cache)
        pairs = ({"p": f"p{i}", "r": f"response {i * i}"} for i in range(60))
        (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))

    def file(self, stage: str, name: str, run: str = "runs/tiny") -> Path:
        (folder,) = (self.folder / run / "checkpoints").glob(f"*-{stage}")
        return folder / name

    def weights(self, stage: str) -> dict[str, Tensor]:
        return load_file(self.file(stage, WEIGHTS))

    def planned(self, text: str) -> Plan:
        (self.folder / "other.yaml").write_text(text)
        trainer = load_trainer(self.folder / "small.yaml")
        return make_plan(load_curriculum(self.folder / "other.yaml"), trainer)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> EnteredRunner:
    """An uninterrupted run."""
    runner = EnteredRunner(tmp_path_factory.mktemp("whole"))
    runner.run()
    return runner


def model_of(plan: Plan) -> Any:
    return plan.trainer.trainer.model


def run_of(runner: EnteredRunner) -> RunFolder:
    return RunFolder(runner.folder / "runs/tiny")


def test_what_is_drawn_anew_and_what_stays(whole: EnteredRunner) -> None:
    before, after = whole.weights("one"), whole.weights("two")
    plan = whole.planned(CURRICULUM)
    twin = build_llama(model_of(plan), plan.vocabulary.rows, 16, 3)
    chosen = parts([Group("embeddings"), Group("mlp", (1, 1))], 2)
    drawn = set(reinitialize(twin, chosen, ("normal", 0.3), 3, "two"))
    moved = {name for name in before if "layers.0.self_attn" in name or "layers.1" in name} - drawn
    moved -= {name for name in before if "layers.1.self_attn" in name}
    assert len(moved) == 4 + 2
    first, size = plan.vocabulary.ranges["nca 3 states 2x2"]
    for name, value in after.items():
        if name in moved:
            assert not torch.equal(value, before[name])
            assert torch.equal(value.flatten().sort()[0], before[name].flatten().sort()[0])
            continue
        if name not in drawn:
            assert torch.equal(value, before[name]), name
            continue
        wanted = twin.get_parameter(name).detach().clone()
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            wanted[first : first + size] = before[name][first : first + size]
        assert torch.equal(value, wanted), name
        assert not torch.equal(value, before[name])
    with torch.no_grad():
        for name in moved:
            twin.get_parameter(name).copy_(before[name])
    assert set(permute(twin, {("attention", 0), ("norms", 1)}, 3, "two")) == moved
    assert all(torch.equal(twin.get_parameter(name), after[name]) for name in moved)


def test_frozen_groups_stay_and_thaw(whole: EnteredRunner) -> None:
    before, after = whole.weights("two"), whole.weights("three")
    groups = parameter_groups(
        build_llama(whole.planned(CURRICULUM).trainer.trainer.model, 50, 16, 0)
    )  # type: ignore[arg-type]
    for group, names in groups.items():
        for name in names:
            assert torch.equal(after[name], before[name]) == (group == "attention"), name


def test_the_state_goes_on(whole: EnteredRunner) -> None:
    """Steps, by which Adam corrects its moments: two of `two` where values were changed."""
    state = saved(whole, "two")["moments"]
    steps = {name: int(known["step"]) for name, known in state.items() if "step" in known}
    assert steps.pop("model.embed_tokens.weight") == steps.pop("lm_head.weight") == 2
    assert [steps.pop(name) for name in sorted(steps) if "layers.1." in name] == [2, 2]
    assert set(steps.values()) == {10} and len(steps) == 3
    state = saved(whole, "three")["moments"]
    thawed = state["model.layers.0.input_layernorm.weight"]["step"]
    assert int(thawed) == 10 + 30 and int(state["model.norm.weight"]["step"]) == 10 + 60


def saved(runner: EnteredRunner, stage: str) -> dict[str, Any]:
    (path,) = runner.file(stage, WEIGHTS).parent.glob("ba*.pt")  # the last one alone stays
    return torch.load(path, map_location="cpu", weights_only=True)


def test_the_average_is_handed_over_and_evaluated(whole: EnteredRunner) -> None:
    for stage in STAGES:
        state, handed = saved(whole, stage), whole.weights(stage)
        average = state["callbacks"]["Averages"]
        assert average["number"] == len([r for r in whole.rows() if r["stage"] == stage])
        for name, value in handed.items():
            assert torch.equal(value, average["values"][name]), name
            raw = state["model"][name]
            moved = stage in ("one", "four") or (stage == "three" and "self_attn" not in name)
            assert torch.equal(value, raw) != moved, name
    rows = [row for row in whole.rows(name="evaluations.jsonl") if row["stage"] == "three"]
    ends = {row["when"]: row["loss"] for row in rows if row["batch"] == 60}
    assert set(ends) == {"raw", "end"} and ends["raw"] != ends["end"]
    summary = json.loads((whole.folder / "runs/tiny/summary.json").read_text())
    assert summary["stages"][2]["evaluation"]["answers"]["after"]["loss"] == ends["end"]
    last = [row for row in whole.rows(name="evaluations.jsonl") if row["stage"] == "two"]
    assert [row["when"] for row in last] == ["start", "raw", "end"]


def test_fine_tuning_on_pairs_ends_the_papers_three_stages(whole: EnteredRunner) -> None:
    """Whole batches of three epochs, each pair at most three times; the loss is the responses'."""
    run = whole.folder / "runs/tiny"
    summary, plan = (json.loads((run / f"{n}.json").read_text()) for n in ("summary", "plan"))
    samples, stage = plan["sources"]["answers"]["num_samples"], summary["stages"][3]
    assert stage["realised"] == {"answers": 3 * samples // 4 * 4}
    rows = [row for row in whole.rows() if row["stage"] == "four"]
    seen = rows[-1]["count/answers"]
    assert seen == 3 * samples // 4 * 4 and 0 < rows[-1]["loss_tokens/answers"] < seen * 32 * 0.9
    assert rows[-1]["loss/answers"] < rows[0]["loss/answers"]
    ends = stage["evaluation"]["answers"]
    assert ends["after"]["loss"] < ends["before"]["loss"]
    assert all(rate["lr"] <= 1e-3 for rate in rows)


def test_killed_behind_a_boundary_and_within_a_stage(whole: EnteredRunner, tmp_path: Path) -> None:
    killed = EnteredRunner(tmp_path / "killed", whole.cache)
    for batches in (FIRST_TWO + 3, FIRST_TWO + 24):  # before the first checkpoint; behind it
        status, _ = killed.stop_when(lambda n=batches: killed.batches() >= n, signal.SIGKILL)
        assert status == -signal.SIGKILL and killed.batches() < FIRST_TWO + 60
    killed.run()
    same_run(killed, whole)
    for stage in STAGES:
        assert killed.file(stage, WEIGHTS).read_bytes() == whole.file(stage, WEIGHTS).read_bytes()


def test_a_stage_of_another_run_is_begun_with(whole: EnteredRunner, tmp_path: Path) -> None:
    """Its weights, parameter by parameter; rows by their names; what is drawn anew as always."""
    origin = f"{whole.folder}/runs/tiny/three"
    text = f"""
ncamix: 1
name: later
tokenizer: bytes
sources:
  words: {{kind: text, files: ["corpus/*.txt"], repeat: free}}
  hiss: {{kind: noise, symbols: 30}}
  buzz: {{kind: noise, symbols: 70}}
stages:
  - {{name: one, duration: 2ba, mixture: {{buzz: 1}}}}
  - name: two
    duration: 2ba
    mixture: {{hiss: 1, words: 1}}
    enter: {{from: {origin}, reinitialize: final_norm}}
"""
    plan, old = whole.planned(text), whole.planned(CURRICULUM).vocabulary
    new = plan.vocabulary
    model = enter_stage(plan, plan.stages[1], RunFolder(tmp_path), resumed=False)
    there, fresh = (
        whole.weights("three"),
        build_llama(model_of(plan), new.rows, 16, plan.seeds.init),
    )
    spans = [(new.ranges[n][0], old.ranges[n]) for n in ("text", "noise 30")]
    assert spans[1][0] != spans[1][1][0] and new.rows != old.rows
    for name, parameter in model.named_parameters():
        wanted = there[name]
        if len(wanted) == old.rows:
            wanted = fresh.get_parameter(name).detach().clone()
            for first, (other, size) in spans:
                wanted[first : first + size] = there[name][other : other + size]
        elif name == "model.norm.weight":
            wanted = torch.ones(16)
        assert torch.equal(parameter, wanted), name
    save_file({**there, "more": torch.ones(1)}, tmp_path / WEIGHTS)
    with pytest.raises(UserError, match="are another model's: more differ"):
        load_weights(fresh, tmp_path / WEIGHTS, ())
    with pytest.raises(UserError, match="differ"):
        load_weights(fresh, whole.file("three", WEIGHTS))


def test_weights_that_changed_since_they_were_planned(whole: EnteredRunner, tmp_path: Path) -> None:
    copy = tmp_path / "runs/tiny/checkpoints/0-one" / WEIGHTS
    copy.parent.mkdir(parents=True)
    copy.write_bytes(whole.file("one", WEIGHTS).read_bytes())
    plan_file = whole.folder / "runs/tiny/plan.json"
    (tmp_path / "runs/tiny/plan.json").write_text(plan_file.read_text())
    enter = f"{{from: {tmp_path}/runs/tiny/one}}"
    noise = "sources: {hiss: {kind: noise, symbols: 30}}"
    stage = f"{{name: one, duration: 2ba, mixture: {{hiss: 1}}, enter: {enter}}}"
    plan = whole.planned(f"ncamix: 1\nname: later\n{noise}\nstages: [{stage}]\n")
    weights = load_file(copy)
    save_file({name: value + 1 for name, value in weights.items()}, copy)
    with pytest.raises(UserError, match="have changed since this run was planned"):
        enter_stage(plan, plan.stages[0], RunFolder(tmp_path), resumed=False)
    copy.unlink()
    with pytest.raises(UserError, match="are gone"):
        enter_stage(plan, plan.stages[0], RunFolder(tmp_path), resumed=False)


def test_the_model_of_a_stage_is_as_the_stage_left_it(whole: EnteredRunner) -> None:
    plan = whole.planned(CURRICULUM)
    for stage in plan.stages:
        model = stage_model(plan, stage, run_of(whole))
        wanted = whole.weights(stage.name)
        assert all(torch.equal(value, wanted[name]) for name, value in model.named_parameters())
