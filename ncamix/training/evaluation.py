"""Evaluation: losses on held-out samples, per source.

Endless sources are evaluated on samples that no seed of the run reaches, text on its validation
split. The loss is the mean over unmasked targets in nats, normalised over the ids that the source
can emit (for text: the ids that the export keeps); over all rows of the vocabulary as well where
asked. Bits per byte: the summed loss of text in bits over the UTF-8 bytes of its targets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from composer.utils import dist
from numpy.typing import NDArray

from ncamix import cache
from ncamix.plan import Plan, PlannedSource
from ncamix.shards import read_samples
from ncamix.sources import open_generator
from ncamix.sources.base import MASKED
from ncamix.training.loss import ActiveIds
from ncamix.training.model import CurriculumModel

if TYPE_CHECKING:
    from ncamix.text_compilation import TextFacts

BATCH_TOKENS = 1 << 13  # tokens that a device evaluates at once


@dataclass(frozen=True)
class EvaluationSet:
    """Held-out samples of one source: uint32 [num_samples, sequence_length + 1].

    num_bytes: UTF-8 bytes of the unmasked targets, None for what is not text.
    """

    source: PlannedSource
    samples: NDArray[np.uint32]
    num_bytes: int | None

    @property
    def num_tokens(self) -> int:
        """Unmasked targets."""
        return len(self.samples) * self.source.loss_tokens


def evaluation_set(
    plan: Plan, name: str, facts: TextFacts | None, data: Path | None
) -> EvaluationSet:
    """The set of an evaluated source; text is compiled. facts: of text's tokenizer. data: where
    compiled datasets lie, if not in the cache."""
    source, limit = plan.sources[name], plan.curriculum.curriculum.evaluate.samples
    if source.text is None:
        samples = open_generator(source.evaluation_meaning()).samples(0, limit)
        return EvaluationSet(source, samples, None)
    folder = cache.entry(source.fingerprint) if data is None else data / name
    samples = read_samples(folder / "validation", limit)
    assert facts is not None
    num_bytes = int(np.array(facts.bytes_per_id)[samples[:, source.loss_start :]].sum())
    return EvaluationSet(source, samples, num_bytes)


def evaluate(
    model: CurriculumModel, held: EvaluationSet, rows: int, all_rows: bool, device: torch.device
) -> dict[str, Any]:
    """Loss, perplexity and bits per byte of one set; every rank takes its share and gets the same.

    rows: of the model's vocabulary. all_rows: also normalise over all of them.
    """
    source = held.source
    own = ActiveIds([(source.first_id, source.first_id + source.num_ids)])
    sums = torch.zeros(2, dtype=torch.float64)
    step = max(1, BATCH_TOKENS // source.sequence_length)
    ranks = dist.get_world_size()
    mine = held.samples[dist.get_global_rank() :: ranks].astype(np.int64)
    for first in range(0, -(-len(held.samples) // ranks), step):
        chunk = mine[first : first + step]
        # A rank without a sample left passes one without loss: sharded models move in step.
        tokens = torch.from_numpy(chunk if len(chunk) else held.samples[:1].astype(np.int64))
        tokens = tokens.to(device)
        labels = tokens[:, 1:].clone()
        labels[:, : source.loss_start - 1 if len(chunk) else None] = MASKED
        batch = {"input_ids": tokens[:, :-1].contiguous(), "labels": labels}
        sums[0] += model.eval_losses(batch, own).double().sum().cpu()
        if all_rows:
            every = ActiveIds([(0, rows)])
            sums[1] += model.eval_losses(batch, every).double().sum().cpu()
    sums = sums.to(device)
    dist.all_reduce(sums)
    total, total_all = sums.tolist()
    result: dict[str, Any] = {
        "source": source.name,
        "num_tokens": held.num_tokens,
        "num_bytes": held.num_bytes,
    }
    for suffix, summed in (("", total), ("_all_rows", total_all if all_rows else None)):
        loss = None if summed is None else summed / held.num_tokens
        result[f"loss{suffix}"] = loss
        result[f"perplexity{suffix}"] = None if loss is None else math.exp(min(loss, 700.0))
        bits = None
        if summed is not None and held.num_bytes:
            bits = summed / math.log(2) / held.num_bytes
        result[f"bits_per_byte{suffix}"] = bits
    return result
