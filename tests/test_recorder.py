"""The recorder: what ranks sum lies where their process group can sum it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from composer.utils import dist

from ncamix.training.recorder import Recorder


class Reduced(Exception):
    """Says where something lies that is to be summed over ranks."""


def test_the_counts_of_a_batch_are_summed_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches come from the CPU, and NCCL sums what lies on GPUs alone."""
    recorder: Any = Recorder.__new__(Recorder)
    recorder.stage = SimpleNamespace(sources=["a", "b"])
    recorder.model = torch.nn.Linear(1, 1, device="meta")
    ones = torch.ones(4, dtype=torch.int64)
    batch = {"source": ones, "labels": ones[:, None], "digest": ones}

    def reduce(summed: torch.Tensor) -> None:
        raise Reduced(summed.device)

    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_reduce", reduce)
    with pytest.raises(Reduced, match="meta"):
        recorder.batch_start(SimpleNamespace(batch=batch), None)
