"""Evaluation: losses on held-out samples, per source.

Endless sources are evaluated on samples that no seed of the run reaches, text and pairs on their
validation split, masked and segmented as in training. The loss is the mean over unmasked targets in
nats, normalised over the ids that the source can emit (for text: the ids that the export keeps);
over all rows of the vocabulary as well where asked. Bits per byte: the summed loss of text in bits
over the UTF-8 bytes of its unmasked targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from composer.utils import dist
from numpy.typing import NDArray

from ncamix import cache
from ncamix.collation import Rows, labels_of, rows_of, segments_of
from ncamix.compilation.compiled import held_out_in
from ncamix.compilation.samples import Compiled
from ncamix.plan import Plan
from ncamix.planned_source import PlannedSource
from ncamix.sources import open_generator
from ncamix.sources.base import MASKED
from ncamix.streams import slots_of
from ncamix.text_compilation import held_out_samples
from ncamix.training.loss import ActiveIds
from ncamix.training.model import CurriculumModel

if TYPE_CHECKING:
    from ncamix.text_compilation import TextFacts

BATCH_TOKENS = 1 << 13  # tokens that a device evaluates at once


@dataclass(frozen=True)
class EvaluationSet:
    """Held-out samples of one source: uint32 [num_samples, sequence_length + 1].

    masks: bool of that shape, where the samples have masks. rows: how they become batches.
    num_bytes: UTF-8 bytes of the unmasked targets, None for what is not text.
    """

    source: PlannedSource
    rows: Rows
    samples: NDArray[np.uint32]
    masks: NDArray[np.bool_] | None
    num_bytes: int | None

    @cached_property
    def num_tokens(self) -> int:
        """Unmasked targets."""
        return int((self.labels(slice(None)) != MASKED).sum())

    def labels(self, part: slice) -> NDArray[np.int64]:
        """Targets of some samples, int64 [n, sequence_length], MASKED where there is no loss."""
        masks = self.masks[part] if self.masks is not None else None
        return labels_of(self.samples[part].astype(np.int64), self.rows.loss_start, masks)

    def batch(self, part: slice) -> dict[str, torch.Tensor]:
        """Some samples as a batch for the model."""
        ids = self.samples[part, :-1].astype(np.int64)
        arrays = {"input_ids": ids, "labels": self.labels(part)}
        if self.rows.boundary is not None:
            arrays["segments"] = segments_of(ids, self.rows.boundary)
        return {key: torch.from_numpy(array) for key, array in arrays.items()}


def evaluation_set(
    plan: Plan, name: str, facts: TextFacts | None, data: Path | None
) -> EvaluationSet:
    """The set of an evaluated source; text is compiled. facts: of text's tokenizer. data: where
    compiled datasets lie, if not in the cache.

    Raises:
        UserError: what is held out is not what was written.
    """
    source, limit = plan.sources[name], plan.curriculum.curriculum.evaluate.samples
    rows = rows_of(source, facts.end_of_text_id if facts is not None else None)
    if source.text is None:
        generator = open_generator(source.evaluation_meaning())
        slots = slots_of(plan.trainer.trainer)
        samples = slots.make(lambda num_threads: generator.samples(0, limit, num_threads))
        return EvaluationSet(source, rows, samples, None, None)
    if data is None:
        folder, held = cache.entry(source.fingerprint), held_out_samples(source, "validation")
    else:
        folder, held = data / name, held_out_in(data, source, "validation")
    limit = min(limit, held)  # there may be more than the plan's own
    samples, masks = Compiled(folder / "validation").range(0, limit)
    assert facts is not None
    targets = labels_of(samples.astype(np.int64), rows.loss_start, masks)
    num_bytes = int(np.array(facts.bytes_per_id)[targets[targets != MASKED]].sum())
    return EvaluationSet(source, rows, samples, masks, num_bytes)


def evaluate(
    model: CurriculumModel,
    held: EvaluationSet,
    rows: int,
    all_rows: bool,
    device: torch.device,
    look: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Loss, perplexity and bits per byte of one set; every rank takes its share and gets the same.

    rows: of the model's vocabulary. all_rows: also normalise over all of them. look: called by all
    ranks before each batch; what it raises breaks the evaluation off.
    """
    source = held.source
    own = ActiveIds([(source.first_id, source.first_id + source.num_ids)])
    sums = torch.zeros(2, dtype=torch.float64)
    step = max(1, BATCH_TOKENS // source.sequence_length)
    ranks, rank, num = dist.get_world_size(), dist.get_global_rank(), len(held.samples)
    for first in range(0, num, step * ranks):
        look()
        # This rank's samples of these: every so many, from its own on.
        part = slice(first + rank, min(first + step * ranks, num), ranks)
        # A rank without a sample left passes one without loss: sharded models move in step.
        some = part.start < part.stop
        batch = {key: t.to(device) for key, t in held.batch(part if some else slice(1)).items()}
        if not some:
            batch["labels"].fill_(MASKED)
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
        loss = summed / held.num_tokens if summed is not None and held.num_tokens else None
        result[f"loss{suffix}"] = loss
        result[f"perplexity{suffix}"] = None if loss is None else math.exp(min(loss, 700.0))
        bits = None
        if summed is not None and held.num_bytes:
            bits = summed / math.log(2) / held.num_bytes
        result[f"bits_per_byte{suffix}"] = bits
    return result
