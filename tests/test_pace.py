"""How fast a plan would train: what is measured, by a clock that samples move."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TRAINER, Planner
from torch import Tensor

from ncamix.training import pace
from ncamix.training.model import CurriculumModel
from ncamix.training.pace import EVALUATION, measure_pace

pytestmark = pytest.mark.usefixtures("one_thread")
BODY = """
tokenizer: bytes
sources:
  still: {kind: nca, alphabet: 2, grid: 6, band: {gzip: [0.0, 0.30]}}
  hiss: {kind: noise, symbols: 50}
  hum: {kind: noise, symbols: 50, distribution: zipf}
  words: {kind: text, files: [a.txt], holdout: {share: 0.2}, repeat: free, attention: document}
stages:
  - {name: one, duration: 5ba, mixture: {still: 1, hiss: 1}}
  - {name: two, duration: 5ba, mixture: {hiss: 1, still: 2}, enter: {permute: mlp}}
  - {name: three, duration: 5ba, mixture: {hum: 1}, batch_size: 24, sequence_length: 16}
  - {name: four, duration: rest, mixture: {words: 1}, precision: bf16}
evaluate: {sources: [hiss, hum, words], samples: 10}
"""


class Clock:
    """Moves by a second for each sample that passes through a model, and for each act by some."""

    def __init__(self, patch: pytest.MonkeyPatch, fits: int = 1 << 20, slow: float = 0.0) -> None:
        self.now, self.slow, self.seen = 0.0, slow, list[tuple[int, int]]()
        forward, losses = CurriculumModel.forward, CurriculumModel.eval_losses

        def pass_forward(model: CurriculumModel, batch: Mapping[str, Tensor]) -> Any:
            self.take(batch["input_ids"])
            if len(batch["input_ids"]) > fits:
                raise torch.OutOfMemoryError
            return forward(model, batch)

        def pass_evaluation(model: CurriculumModel, batch: Mapping[str, Tensor], ids: Any) -> Any:
            self.take(batch["input_ids"])
            return losses(model, batch, ids)

        patch.setattr(CurriculumModel, "forward", pass_forward)
        patch.setattr(CurriculumModel, "eval_losses", pass_evaluation)
        patch.setattr(pace, "time", self)
        patch.setattr(pace, "BUSY_SECONDS", 5.5)

    def take(self, ids: Tensor) -> None:
        self.seen.append((len(ids), ids.shape[1]))
        self.now += len(ids)

    def perf_counter(self) -> float:
        self.now += self.slow
        return self.now


def plan_with_text(folder: Path, plan_of: Planner, body: str = BODY, trainer: str = TRAINER) -> Any:
    (folder / "a.txt").write_text("words and more words\n" * 400)
    return plan_of(body, trainer)


def test_every_kind_of_batch_is_measured_once_and_told_in_batches(
    tmp_path: Path, plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, clock = plan_with_text(tmp_path, plan_of), Clock(monkeypatch)
    files = set(tmp_path.rglob("*"))
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    found = measure_pace(plan, "cpu", 1)
    # A second a sample: batches of 8, 8, 24 and 8; of steps the clock knows nothing.
    assert {name: found[name] for name in ("one", "two", "three", "four")} == {
        "one": 8,
        "two": 8,
        "three": 24,
        "four": 8,
    }
    # Of each source ten samples, and eight that show how a model copies.
    assert found[EVALUATION] == pytest.approx(3 * 10 + 8)
    # One and two are alike; hiss and hum, too. More than 5.5 seconds' worth is not tried at once.
    sizes = [number for number, length in clock.seen if length == 16]
    assert sizes[:6] == [1, 1, 4, 16, 16, 16] and max(n for n, _ in clock.seen) == 16
    assert [number for number, length in clock.seen if length == 32][:12] == [1, 1, 4, 8, 8, 8] * 2
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    assert set(tmp_path.rglob("*")) == files  # nothing is compiled or written


def test_parts_of_a_batch_stand_for_it(
    tmp_path: Path, plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit, is slow, or is not taken at once."""
    plan = plan_with_text(tmp_path, plan_of)
    with monkeypatch.context() as patch:
        clock = Clock(patch, fits=4)
        assert measure_pace(plan, "cpu", 1)["three"] == 24
        tried = [number for number, length in clock.seen if length == 16]
        assert tried[:6] == [1, 1, 4, 16, 4, 4]
    with monkeypatch.context() as patch:
        clock = Clock(patch, slow=6)
        # Each act takes 6 more: one sample a pass, and one step a batch.
        assert measure_pace(plan, "cpu", 1)["one"] == 8 * 7 + 6
        assert [n for n, _ in clock.seen][:4] == [1, 1, 1, 1]
    with monkeypatch.context() as patch:
        clock = Clock(patch)
        small = plan_with_text(tmp_path, plan_of, trainer=TRAINER + "microbatch: 2\n")
        assert measure_pace(small, "cpu", 1)["one"] == 8
        assert {n for n, _ in clock.seen[:6]} == {1, 2}


@pytest.mark.parametrize(
    "more",
    [
        "",
        "parallelism: fsdp\n",
        "compile: true\n",
        "activation_checkpointing: true\naveraging: {ema: 0.9}\n",
        "precision: bf16\nz_loss: 1e-4\n",
    ],
)
def test_any_trainer_is_measured_alone_and_not_compiled(
    tmp_path: Path, plan_of: Planner, more: str
) -> None:
    trainer = TRAINER.replace("{lr: 1e-3}", "{kind: muon, lr: 1e-3, clip: 0.5}") + more
    plan = plan_with_text(tmp_path, plan_of, trainer=trainer)
    found = measure_pace(plan, "cpu", 1)
    assert list(found) == ["one", "two", "three", "four", EVALUATION]
    assert all(seconds > 0 for seconds in found.values())


def test_a_models_own_weights_are_not_read(tmp_path: Path, plan_of: Planner) -> None:
    config = {"model_type": "gpt2", "vocab_size": 300, "n_layer": 1, "n_head": 1, "n_embd": 8}
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps({**config, "n_positions": 64}))
    trainer = TRAINER.replace(
        "{layers: 1, heads: 1, width: 8}", "{kind: huggingface, config: model}"
    )
    plan = plan_with_text(tmp_path, plan_of, trainer=trainer)
    model = plan.trainer.trainer.model
    model._files = replace(model.files, content="gone", weights=(tmp_path / "gone",))
    assert model.pretrained and not model.fresh().pretrained
    assert measure_pace(plan, "cpu", 1)["one"] > 0


def test_where_nothing_is_evaluated_copying_still_is(
    tmp_path: Path, plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_with_text(tmp_path, plan_of, BODY.partition("evaluate:")[0])
    Clock(monkeypatch)
    assert measure_pace(plan, "cpu", 1)[EVALUATION] == 8
