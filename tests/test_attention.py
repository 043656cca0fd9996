"""Causal attention without a mask: the usual one's numbers, under no name that leaves a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_architectures import fresh, make_batch
from test_model import small
from torch.nn import functional

from ncamix.hub_folder import MARK, write_hub_folder
from ncamix.training.attention import CAUSAL, PLAIN, USUAL
from ncamix.training.model import CurriculumModel

SEEN: list[bool] = []  # whether each product of attention was given a mask


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    SEEN.clear()
    product = functional.scaled_dot_product_attention

    def told(*args: Any, **kwargs: Any) -> torch.Tensor:
        SEEN.append(kwargs.get("attn_mask") is not None)
        return product(*args, **kwargs)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", told)


def gradients(model: Any, batch: dict[str, Any]) -> list[torch.Tensor]:
    """Losses of a batch, and all gradients."""
    model.zero_grad()
    found = CurriculumModel(model)(batch)
    found["loss"].backward()
    return [found["losses"], *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("kind", ["sizes", *PLAIN])
@pytest.mark.parametrize("packed", [False, True])
def test_numbers_are_the_usual_ones_and_a_mask_is_what_the_caller_made(
    kind: str, packed: bool, tmp_path: Path
) -> None:
    windowless = {"sliding_window": None} if kind == "mistral" else {}
    model: Any = small() if kind == "sizes" else fresh(tmp_path, kind, **windowless)
    assert model.config._attn_implementation == CAUSAL
    batch = make_batch()
    if packed:
        batch["segments"] = (torch.arange(12) // 5).expand(3, -1)
    SEEN.clear()
    found = gradients(model, batch)
    assert [packed] * 2 == SEEN
    model.set_attn_implementation(USUAL)
    wanted = gradients(model, batch)
    assert SEEN[2:] == [True] * 2  # if this fails, the library has learned to do without
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_what_asks_for_more_than_looking_back_keeps_its_attention(tmp_path: Path) -> None:
    for i, (kind, changes) in enumerate(
        [
            ("mistral", {"sliding_window": 3}),
            ("qwen2", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
            ("gpt2", {}),
        ]
    ):
        assert fresh(tmp_path / str(i), kind, **changes).config._attn_implementation == USUAL


def test_an_export_says_nothing_of_it(tmp_path: Path) -> None:
    write_hub_folder(small(), tmp_path / "export", 12, None, True, {MARK: b"{}"})
    assert CAUSAL not in (tmp_path / "export" / "config.json").read_text()
