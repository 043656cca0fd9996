"""The induction score: a head made by hand scores 1, random weights next to nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_model import small

from ncamix.training.induction import NUM_SEQUENCES, induction_score, repeated
from ncamix.training.loss import ActiveIds
from ncamix.training.model import CurriculumModel

RANGES = [(3, 9), (20, 36)]
CPU = torch.device("cpu")


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=4),
    st.integers(2, 400),
    st.integers(0, 2**40),
)
def test_ids_are_active_and_repeat_once(
    gaps: list[tuple[int, int]], length: int, seed: int
) -> None:
    ends = np.cumsum([n for pair in gaps for n in pair]).tolist()
    ranges = list(zip(ends[::2], ends[1::2], strict=True))
    ids = repeated(ranges, length, seed)
    allowed = {i for first, last in ranges for i in range(first, last)}
    if ids is None:
        assert min(length // 2, len(allowed)) < 4
        return
    half = ids.shape[1] // 2
    assert ids.shape[0] == NUM_SEQUENCES and 2 * half <= length
    assert torch.equal(ids[:, :half], ids[:, half:])
    assert all(len(set(row)) == half for row in ids[:, :half].tolist())
    assert set(ids.flatten().tolist()) <= allowed
    again = repeated(ranges, length, seed)
    assert again is not None and torch.equal(ids, again)


def test_a_fresh_model_scores_nothing_and_is_left_as_it_was() -> None:
    model = CurriculumModel(small(rows=40))
    model.train()
    model.reset_sums(2)
    ids = repeated(RANGES, 32, 1)
    assert ids is not None
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = induction_score(model, ids, RANGES, CPU)
    assert torch.equal(state, torch.get_rng_state()) and model.training
    assert not model.source_loss_counts.any()
    assert found == induction_score(model, ids, RANGES, CPU)
    assert abs(found["loss_drop"]) < 0.1
    losses = model.eval_losses({"input_ids": ids[:, :-1], "labels": ids[:, 1:]}, ActiveIds(RANGES))
    half = ids.shape[1] // 2
    assert found["loss_first"] == pytest.approx(losses[:, : half - 1].mean().item(), rel=1e-5)
    assert found["loss_second"] == pytest.approx(losses[:, half:].mean().item(), rel=1e-5)


def test_weights_are_those_of_eager_attention() -> None:
    model = CurriculumModel(small(rows=40))
    ids = repeated(RANGES, 32, 2)
    assert ids is not None
    found = induction_score(model, ids, RANGES, CPU)
    half = ids.shape[1] // 2
    model.model.set_attn_implementation("eager")
    model.eval()
    with torch.no_grad():
        attentions = model.model(input_ids=ids[:, :-1], output_attentions=True).attentions
    scores = torch.stack(
        [
            torch.stack([a[:, :, i, i - half + 1] for i in range(half, 2 * half - 1)]).mean((0, 1))
            for a in attentions
        ]
    )
    assert found["prefix_matching_best"] == pytest.approx(scores.max().item(), rel=1e-4)
    assert found["prefix_matching_mean"] == pytest.approx(scores.mean().item(), rel=1e-4)
    layer, head = found["prefix_matching_head"]
    assert scores[layer, head] == scores.max()
    # Attention that passes the interface by shows no weights: the loss drop alone is left.
    assert "prefix_matching_best" not in induction_score(model, ids, RANGES, CPU)


def test_a_model_that_copies_scores_high(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention replaced by what an ideal induction head does: the weights say so."""
    model = CurriculumModel(small(rows=40))
    ids = repeated(RANGES, 32, 3)
    assert ids is not None
    half = ids.shape[1] // 2

    def copying(query: torch.Tensor, key: torch.Tensor, *scales: object) -> torch.Tensor:
        weights = torch.zeros(*query.shape[:3], query.shape[2])
        for i in range(half, query.shape[2]):
            weights[:, 0, i, i - half + 1] = 1
        return weights

    monkeypatch.setattr("ncamix.training.induction._weights", copying)
    found = induction_score(model, ids, RANGES, CPU)
    assert found["prefix_matching_best"] == 1 and found["prefix_matching_head"] == [0, 0]
    heads = model.model.config.num_attention_heads
    assert found["prefix_matching_mean"] == pytest.approx(1 / heads)
