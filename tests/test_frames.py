"""Next-frame accuracy, against models that are known to be right, wrong, or to copy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Planner

from ncamix.decoding import frames_of
from ncamix.training import frames
from ncamix.training.evaluation import EvaluationSet, evaluation_set
from ncamix.training.frames import next_frame_accuracy

BODY = """
sources:
  static: {kind: noise, symbols: 7}
  rules:
    {kind: nca, alphabet: 3, grid: 4, burn_in: 0, band: {gzip: [0.0, 1.0]}KEYS}
stages: [{name: one, duration: rest, mixture: {static: 1, rules: 1}}]
evaluate: {sources: [static, rules], samples: 20}
"""
CPU = torch.device("cpu")


class Known(torch.nn.Module):
    """Predicts ids by a function of whole samples: int64 [n, L + 1] -> the next ids [n, L]."""

    def __init__(self, held: EvaluationSet, guess: Any, rows: int) -> None:
        super().__init__()
        self.model = Decoder(held, guess, rows)


class Decoder(torch.nn.Module):
    def __init__(self, held: EvaluationSet, guess: Any, rows: int) -> None:
        super().__init__()
        self.samples, self.guess = torch.from_numpy(held.samples.astype(np.int64)), guess
        self.config = SimpleNamespace(vocab_size=rows)

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
        assert not self.training
        whole = [next(s for s in self.samples if torch.equal(s[:-1], row)) for row in input_ids]
        guessed = self.guess(torch.stack(whole))
        logits = torch.nn.functional.one_hot(guessed, self.config.vocab_size).float()
        return SimpleNamespace(logits=logits)


def held_set(plan_of: Planner, keys: str = "") -> tuple[EvaluationSet, int]:
    plan = plan_of(BODY.replace("KEYS", keys))
    return evaluation_set(plan, "rules", None, None), plan.vocabulary.rows


def test_a_model_that_knows_everything_is_right(plan_of: Planner) -> None:
    held, rows = held_set(plan_of)
    model = Known(held, lambda samples: samples[:, 1:], rows)
    found = next_frame_accuracy(model, held, CPU)  # type: ignore[arg-type]
    num_frames = 33 // 6  # of 4 patches and two delimiters
    assert found["frames_seen"] == list(range(1, num_frames))
    assert found["cell_accuracy"] == found["frame_accuracy"] == [1.0] * (num_frames - 1)
    assert model.training
    cells = frames_of(held.source, held.samples[: frames.NUM_ROLLOUTS])[:, :num_frames]
    same = cells[:, 1:] == cells[:, :-1]
    assert found["copied_cells"] == pytest.approx(same.mean((0, 2, 3)), abs=1e-6)
    assert found["copied_frames"] == pytest.approx(same.all((2, 3)).mean(0), abs=1e-6)


def test_a_model_that_copies_scores_as_copying_does(
    plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "BATCH_LOGITS", 1)  # a rollout at a time
    held, rows = held_set(plan_of)

    def before(samples: torch.Tensor) -> torch.Tensor:
        return torch.cat([samples[:, :6], samples[:, :-6]], dim=1)[:, 1:]

    found = next_frame_accuracy(Known(held, before, rows), held, CPU)  # type: ignore[arg-type]
    assert found["cell_accuracy"] == found["copied_cells"]
    assert found["frame_accuracy"] == found["copied_frames"]
    assert min(found["copied_cells"]) > 0 and max(found["copied_cells"]) < 1


def test_delimiters_do_not_compete_with_patches(plan_of: Planner) -> None:
    held, rows = held_set(plan_of, ", loss_from_frame: 2")
    end = held.source.first_id + held.source.spec.special_ids()["frame_end"]

    class Delimited(Decoder):
        """To it an end is the likeliest id everywhere, and the right one the next."""

        def forward(self, input_ids: torch.Tensor, use_cache: bool) -> Any:
            found = super().forward(input_ids, use_cache)
            found.logits[..., end] += 2
            return found

    model = Known(held, None, rows)
    model.model = Delimited(held, lambda samples: samples[:, 1:], rows)
    found = next_frame_accuracy(model, held, CPU)  # type: ignore[arg-type]
    assert found["frames_seen"] == [2, 3, 4]
    assert found["cell_accuracy"] == found["frame_accuracy"] == [1.0] * 3


def test_what_is_not_made_of_frames_has_none(plan_of: Planner) -> None:
    held, rows = held_set(plan_of, ", transform: shuffle_tokens")
    model = Known(held, None, rows)
    assert next_frame_accuracy(model, held, CPU) == {}  # type: ignore[arg-type]
    static = evaluation_set(plan_of(BODY.replace("KEYS", "")), "static", None, None)
    assert next_frame_accuracy(model, static, CPU) == {}  # type: ignore[arg-type]
