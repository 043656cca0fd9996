"""Experts that no token came to: they have gradients of zeros, and all others keep theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_architectures import fresh
from test_parallelism import losses, trainer

from ncamix.training.parallelism import spread


@pytest.mark.parametrize("kind", ["mixtral", "qwen2_moe"])
@pytest.mark.parametrize("again", [False, True], ids=["kept", "computed again"])
def test_all_experts_have_gradients(kind: str, again: bool, tmp_path: Path) -> None:
    experts = {"num_local_experts": 40, "num_experts": 40, "sliding_window": None}
    plain, model = (fresh(tmp_path / name, kind, **experts).train() for name in ("a", "b"))
    spread(model, trainer(activation_checkpointing=again), "fp32", "cpu")
    for found in (plain, model):
        losses(found).backward()
    pairs: list[tuple[Any, Any]] = [
        (one.grad, other.grad)
        for one, other in zip(plain.parameters(), model.parameters(), strict=True)
    ]
    assert any(one is None for one, _ in pairs), "an expert that no token came to"
    for one, other in pairs:
        assert other is not None
        if one is None:
            assert not other.any()
        else:
            torch.testing.assert_close(one, other)
    with torch.no_grad():
        assert torch.equal(losses(plain), losses(model))
