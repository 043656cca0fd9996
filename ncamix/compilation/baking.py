"""Baking: one dataset a stage, its samples in the exact order of training.

    DIR/0-automata/, DIR/1-code/          a stage each: batch t is samples t * B .. t * B + B - 1
    DIR/<source>/validation/, .../test/   what the run is evaluated on
    DIR/README.txt, DIR/plan.json         what another trainer must know

A plain StreamingDataset without ncamix replays the curriculum. Where some sample of a stage has
targets that are not trained, a column `loss_mask` stands beside `tokens` in all of the stage; where
some source attends within documents, a column `segments`, as the batches of training have it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ncamix.compilation.jobs import Job, held_out_jobs, source_facts, source_form
from ncamix.compilation.samples import (
    Generated,
    Mask,
    Samples,
    Segments,
    Tokens,
    samples_of,
)
from ncamix.order import stage_order
from ncamix.plan import Plan, PlannedStage
from ncamix.planned_source import PlannedSource
from ncamix.quantities import counted
from ncamix.shards import ShardFormat, width_of

_HEAD = """\
{name}: a curriculum, baked by ncamix for any trainer that reads MosaicML Streaming's datasets.

Read the stages one after the other, each in its stored order:

    StreamingDataset(local=FOLDER, num_canonical_nodes=1, shuffle=False, batch_size=B / ranks)

Global batch t of a stage is then its samples t * B to t * B + B - 1. The column tokens holds
L + 1 ids: the first L are inputs, the last L targets. Where there is a column loss_mask, it says
which ids are targets that are trained (1), at the same places as tokens. Where there is a column
segments, it numbers the documents that the L inputs belong to, from 0 in every sample: an input
attends to itself and earlier inputs of its own document alone (samples of other sources are one
document each). Positions run on over the whole sample. Without that column attention is causal over
the whole sample. The vocabulary has {rows:,} rows.

"""
_TAIL = """
plan.json holds each stage's learning rates (stages[].learning_rate_curve, over its progress), what
happens on entering it (stages[].enter), the optimizer's peak rate and the map of id ranges
(vocabulary.ranges). SOURCE/validation holds what the run is evaluated on, SOURCE/test what it never
sees; where source.json beside them says "attention": "document", a document ends with the id
boundary_id, and the numbers of documents are left for the reader to count.
"""


def bake_jobs(plan: Plan, zstd: int | None, boundary: int | None) -> list[Job]:
    """The datasets of a baked plan; texts must be compiled in the cache.

    zstd: level, None for files that are not compressed. boundary: the id that ends a document.
    """
    jobs = [_stage_job(plan, stage, zstd, boundary) for stage in plan.stages]
    for source in plan.sources.values():
        jobs += held_out_jobs(source, zstd, source_facts(plan, source, boundary))
    for name in plan.curriculum.curriculum.evaluate.sources:
        source = plan.sources[name]
        if not source.spec.finite:
            jobs.append(_evaluation_job(plan, source, zstd, boundary))
    return jobs


def stage_folder(stage: PlannedStage) -> str:
    """The folder of a baked stage: `0-automata`."""
    return f"{stage.index}-{stage.name}"


def readme(plan: Plan) -> str:
    """What another trainer must know, in words."""
    lines = []
    for stage in plan.stages:
        lines.append(
            f"{stage_folder(stage)}: B = {stage.batch_size:,}, L = {stage.sequence_length:,}, "
            f"{counted(stage.num_batches, 'batch', 'batches')}, "
            f"{counted(stage.num_tokens, 'token')}"
        )
        if stage.spec.until is not None:
            lines.append(f"    it may end earlier: when {stage.spec.until}")
    return _HEAD.format(name=plan.name, rows=plan.vocabulary.rows) + "\n".join(lines) + "\n" + _TAIL


def _evaluation_job(
    plan: Plan, source: PlannedSource, zstd: int | None, boundary: int | None
) -> Job:
    """The held-out samples of an endless source."""
    held = Generated(source.evaluation_meaning())
    return Job(
        f"{source.dataset}/validation",
        {"source": source.fingerprint, "split": "evaluation"},
        source_form(source, zstd),
        plan.curriculum.curriculum.evaluate.samples,
        source.samples_per_shard,
        held.range,
        facts={**source_facts(plan, source, boundary), "split": "validation"},
    )


def _stage_job(plan: Plan, stage: PlannedStage, zstd: int | None, boundary: int | None) -> Job:
    sources = [plan.dataset_of(name, stage) for name in stage.sources]
    samples = [samples_of(source) for source in sources]
    masked = any(source.loss_start > 1 for source in sources) or any(
        not isinstance(own, Generated) and own.is_masked for own in samples
    )
    width = width_of(max(source.first_id + source.num_ids for source in sources))
    sizes = {s.dataset: s.num_samples for s in sources if s.spec.finite}
    boundaries = [boundary if s.spec.attends_within_documents() else None for s in sources]
    segmented = any(end is not None for end in boundaries)
    baked = _Baked(plan, stage, sources, samples, masked, boundaries)
    return Job(
        stage_folder(stage),
        {"plan": plan.fingerprint, "stage": stage.index, "sizes": sizes},
        ShardFormat(stage.sequence_length + 1, width, zstd, masked, True, segmented),
        stage.num_samples,
        min(source.samples_per_shard for source in sources),
        baked.range,
        facts={
            "stage": stage.name,
            "batch_size": stage.batch_size,
            "num_batches": stage.num_batches,
            "sequence_length": stage.sequence_length,
            "sources": [source.name for source in sources],
            "attention": "document" if segmented else "whole",
            "rows": plan.vocabulary.rows,
            "ranges": plan.vocabulary.id_map(),
        },
        shared=all(source.stored is None for source in sources),
    )


class _Baked:
    """The samples of a stage by position."""

    def __init__(
        self,
        plan: Plan,
        stage: PlannedStage,
        sources: list[PlannedSource],
        samples: list[Samples],
        masked: bool,
        boundaries: list[int | None],
    ) -> None:
        self._order = stage_order(plan, stage)
        self._sources, self._samples, self._masked = sources, samples, masked
        self._boundaries = boundaries
        self._length = stage.sequence_length + 1

    def range(self, first: int, count: int) -> tuple[Tokens, Mask, Segments]:
        """Samples at positions first .. first + count - 1: uint32 and, if the stage is masked, bool
        [count, sequence_length + 1]; where some source attends within documents, int64
        [count, sequence_length]."""
        drawn, numbers = self._drawn(first, count)
        tokens = np.empty((count, self._length), np.uint32)
        masks = np.zeros((count, self._length), np.bool_) if self._masked else None
        segmented = any(end is not None for end in self._boundaries)
        segments = np.zeros((count, self._length - 1), np.int64) if segmented else None
        for index, (source, samples) in enumerate(zip(self._sources, self._samples, strict=True)):
            at = np.flatnonzero(drawn == index)
            if not len(at):
                continue
            tokens[at], own = samples.chosen(numbers[at])
            if masks is not None:
                masks[at, source.loss_start :] = True
                if own is not None:
                    masks[at] = own
            end = self._boundaries[index]
            if segments is not None and end is not None:
                from ncamix.collation import segments_of

                segments[at] = segments_of(tokens[at, :-1].astype(np.int64), end)
        return tokens, masks, segments

    def _drawn(self, first: int, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(source index, sample number) at positions, int64 [count] each."""
        size = self._order.batch_size
        batches = range(first // size, (first + count - 1) // size + 1)
        both = [self._order.batch(batch) for batch in batches]
        skip = first - batches[0] * size
        drawn = np.concatenate([sources for sources, _ in both])
        numbers = np.concatenate([samples for _, samples in both])
        return drawn[skip : skip + count], numbers[skip : skip + count]
