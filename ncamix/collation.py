"""Collation: samples of a dataset -> a batch of tensors.

    tokens [L + 1]            -> input ids [L], and labels [L]: the ids that follow them
    loss_start, or loss_mask  -> labels that are no targets, masked
    ends of text              -> segments, where attention stays within documents

Training and evaluation mask and segment alike, by the functions below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ncamix.planned_source import PlannedSource
from ncamix.shards import MASK, sample_digest
from ncamix.sources.base import MASKED


@dataclass(frozen=True)
class Rows:
    """How the samples of one source become rows of a batch; plain data, for worker processes.

    loss_start: the first position that is a target, where a sample has no mask that says less.
    boundary: the id behind which a document ends, where attention stays within documents.
    """

    loss_start: int
    boundary: int | None = None


def rows_of(source: PlannedSource, end_of_text_id: int | None) -> Rows:
    """The rows of a planned source. end_of_text_id: of the tokenizer, None where there is no
    text."""
    within = source.spec.attends_within_documents()
    assert not within or end_of_text_id is not None, "documents come with a tokenizer"
    return Rows(source.loss_start, end_of_text_id if within else None)


def labels_of(
    tokens: NDArray[np.int64], loss_start: int, mask: NDArray[Any] | None
) -> NDArray[np.int64]:
    """Targets, int64 [..., L], of samples, int64 [..., L + 1]; MASKED where there is no loss.

    mask: of any integer type or bool, of the samples' shape; 0 where an id is no target.
    """
    labels = tokens[..., 1:].copy()
    labels[..., : loss_start - 1] = MASKED
    if mask is not None:
        labels[mask[..., 1:] == 0] = MASKED
    return labels


def segments_of(ids: NDArray[np.int64], boundary: int) -> NDArray[np.int64]:
    """Numbers of the documents that ids belong to, int64 [..., L], from 0 in every row.

    A document reaches from behind one `boundary` id to the next, which it includes.
    """
    ended = np.zeros(ids.shape, np.int64)
    ended[..., 1:] = ids[..., :-1] == boundary
    return ended.cumsum(axis=-1)


class Collate:
    """Samples -> a batch of tensors; picklable, for worker processes.

    sources: the rows of each source of the stage.
    """

    def __init__(self, sources: Sequence[Rows]) -> None:
        self.sources = tuple(sources)

    def __call__(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A dict of `input_ids` and `labels` int64 [B, L] (labels shifted, MASKED where there is no
        loss), `source` int64 [B], and `digest` int64 [B] (xxh64, reinterpreted as signed); with
        `segments` int64 [B, L] if attention stays within documents in any of the rows."""
        rows = [self.sources[sample["source"]] for sample in samples]
        tokens = np.stack([sample["tokens"].astype(np.int64) for sample in samples])
        labels = np.stack(
            [
                labels_of(ids, row.loss_start, sample.get(MASK))
                for ids, row, sample in zip(tokens, rows, samples, strict=True)
            ]
        )
        digests = np.array([sample_digest(s["tokens"]) for s in samples], np.uint64)
        batch = {
            "input_ids": torch.from_numpy(tokens[:, :-1].copy()),
            "labels": torch.from_numpy(labels),
            "source": torch.tensor([sample["source"] for sample in samples], dtype=torch.int64),
            "digest": torch.from_numpy(digests.view(np.int64)),
        }
        if any(row.boundary is not None for row in rows):
            segments = np.zeros(labels.shape, np.int64)
            for segment, ids, row in zip(segments, tokens, rows, strict=True):
                if row.boundary is not None:
                    segment[:] = segments_of(ids[:-1], row.boundary)
            batch["segments"] = torch.from_numpy(segments)
        return batch
