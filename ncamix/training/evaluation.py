"""Evaluation: losses on held-out samples, per source.

Endless sources are evaluated on samples that no seed of the run reaches, text and pairs on their
validation split, masked and segmented as in training. What a run is tested on at its end is apart
from that: further such samples, and the test split. The loss is the mean over unmasked targets in
nats, normalised over the ids that the source can emit (for text: the ids that the export keeps);
over all rows of the vocabulary as well where asked. Bits per byte: the summed loss of text in bits
over the UTF-8 bytes of its unmasked targets. Of a test, losses are summed by document, too.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
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
from ncamix.sources import PairsSource, open_generator
from ncamix.sources.base import MASKED
from ncamix.streams import slots_of
from ncamix.text_compilation import held_out_samples
from ncamix.training.loss import ActiveIds
from ncamix.training.model import CurriculumModel
from ncamix.training.partition import Documents, documents_of

if TYPE_CHECKING:
    from ncamix.text_compilation import TextFacts

BATCH_TOKENS = 1 << 13  # tokens that a device evaluates at once
TEST_FIRST = 1 << 20  # of an endless source's held-out samples, those from here on are for tests


@dataclass(frozen=True)
class EvaluationSet:
    """Held-out samples of one source: uint32 [num_samples, sequence_length + 1].

    masks: bool of that shape, where the samples have masks. rows: how they become batches.
    num_bytes: UTF-8 bytes of the unmasked targets, None for what is not text. documents: of text,
    where losses are wanted by document.
    """

    source: PlannedSource
    rows: Rows
    samples: NDArray[np.uint32]
    masks: NDArray[np.bool_] | None
    num_bytes: int | None
    documents: Documents | None = None

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
    if source.text is None:
        return _made(plan, source, 0, limit)
    assert facts is not None
    return _read(source, "validation", limit, facts, data)


def examination_set(
    plan: Plan, name: str, facts: TextFacts | None, data: Path | None
) -> EvaluationSet | None:
    """The set that an evaluated source is tested on; nothing of it is in `evaluation_set`. None of
    a text whose test split has no whole sample. Takes and raises what that does."""
    source, evaluated = plan.sources[name], plan.curriculum.curriculum.evaluate
    if source.text is None:
        return _made(plan, source, max(TEST_FIRST, evaluated.samples), evaluated.test_samples)
    assert facts is not None
    held = _read(source, "test", evaluated.test_samples, facts, data)
    if not len(held.samples):
        return None
    if source.spec.transform is not None:  # its documents are all over each sample
        return held
    joined = not isinstance(source.spec, PairsSource)
    num_bytes = np.array(facts.bytes_per_id)
    whole = _read(source, "test", sys.maxsize, facts, data)  # documents go on between the samples
    labels = np.full((len(whole.samples), source.sequence_length), MASKED)
    there = evenly(len(held.samples), len(whole.samples))
    labels[there] = held.labels(slice(None))
    found = documents_of(whole.samples, labels, facts.end_of_text_id, joined, num_bytes)
    return replace(held, documents=replace(found, numbers=found.numbers[there]))


def evenly(number: int, there: int) -> NDArray[np.int64]:
    """So many of `there` samples, or all, evenly spread over them: int64 [n], ascending. What is
    held out lies document by document, and the first samples would be of a few long ones."""
    count = min(number, there)
    return np.arange(count, dtype=np.int64) * there // max(1, count)


def _made(plan: Plan, source: PlannedSource, first: int, number: int) -> EvaluationSet:
    """Held-out samples of an endless source from `first` on."""
    generator = open_generator(source.evaluation_meaning())
    slots = slots_of(plan.trainer.trainer)
    samples = slots.make(lambda num_threads: generator.samples(first, number, num_threads))
    return EvaluationSet(source, rows_of(source, None), samples, None, None)


def _read(
    source: PlannedSource, split: str, limit: int, facts: TextFacts, data: Path | None
) -> EvaluationSet:
    """Samples from all over a text's held-out split, which may have none."""
    if data is None:
        folder, there = cache.entry(source.fingerprint), held_out_samples(source, split)
    else:
        folder, there = data / source.dataset, held_out_in(data, source, split)
    rows = rows_of(source, facts.end_of_text_id)
    samples, masks = np.empty((0, source.sequence_length + 1), np.uint32), None
    if there:  # of these alone: a folder may hold more than the plan's own
        samples, masks = Compiled(folder / split).chosen(evenly(limit, there))
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
    Of a set with documents also `documents`, the summed nats, targets and bytes of each.

    rows: of the model's vocabulary. all_rows: also normalise over all of them. look: called by all
    ranks before each batch; what it raises breaks the evaluation off.
    """
    source = held.source
    own = ActiveIds([(source.first_id, source.first_id + source.num_ids)])
    sums = torch.zeros(2, dtype=torch.float64)
    by_document = np.zeros(len(held.documents.num_tokens) if held.documents else 0)
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
        losses = model.eval_losses(batch, own).double()
        sums[0] += losses.sum().cpu()
        if held.documents is not None and some:
            by_document += held.documents.sums(part, losses.cpu().numpy())
        if all_rows:
            every = ActiveIds([(0, rows)])
            sums[1] += model.eval_losses(batch, every).double().sum().cpu()
    sums = torch.cat([sums, torch.from_numpy(by_document)]).to(device)
    dist.all_reduce(sums)
    total, total_all, *nats = sums.tolist()
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
    if held.documents is not None:
        result["documents"] = {
            "nats": nats,
            "num_tokens": held.documents.num_tokens.tolist(),
            "num_bytes": held.documents.num_bytes.tolist(),
        }
    return result
