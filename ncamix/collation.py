"""Collation: samples of a dataset -> a batch of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ncamix.shards import sample_digest
from ncamix.sources.base import MASKED


class Collate:
    """Samples -> a batch of tensors; picklable, for worker processes.

    loss_starts: of each source of the stage, the first position that is a target.
    """

    def __init__(self, loss_starts: list[int]) -> None:
        self.loss_starts = loss_starts

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A dict of `input_ids` and `labels` int64 [B, L] (labels shifted, MASKED where there is no
        loss), `source` int64 [B], and `digest` int64 [B] (xxh64, reinterpreted as signed)."""
        tokens = np.stack([sample["tokens"] for sample in samples]).astype(np.int64)
        source = np.array([sample["source"] for sample in samples], np.int64)
        labels = tokens[:, 1:].copy()
        for row, index in enumerate(source):
            labels[row, : self.loss_starts[index] - 1] = MASKED
        digests = np.array([sample_digest(s["tokens"]) for s in samples], np.uint64)
        return {
            "input_ids": torch.from_numpy(tokens[:, :-1].copy()),
            "labels": torch.from_numpy(labels),
            "source": torch.from_numpy(source),
            "digest": torch.from_numpy(digests.view(np.int64)),
        }
