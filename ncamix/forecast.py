"""What a plan leads to: epochs of finite sources, learning rates reached, bytes on disk.

    Plan -> facts for the reader, each computed in one place for tables, JSON, pictures and remarks

Positions are tokens consumed in the run; batches of a stage count from 1 where a reader sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncamix.plan import Plan, PlannedSource, PlannedStage
from ncamix.shards import ShardFormat, width_of

WEIGHT_BYTES = 4  # checkpoints hold fp32 weights, whatever the precision of training
COPIES = 3  # the weights and Adam's two moments


def batch_counts(stage: PlannedStage) -> NDArray[Any]:
    """Samples of each source in each batch of a stage, int [num_batches, num_sources]."""
    return stage.apportionment.counts


def replayed(stage: PlannedStage) -> tuple[str, ...]:
    """Sources that deal again in a stage what earlier ones drew of them."""
    return tuple(getattr(stage, "replayed", ()))


def drawn_samples(plan: Plan) -> dict[str, int]:
    """Samples that each source gives in the whole run, those dealt again included."""
    return {name: sum(s.counts.get(name, 0) for s in plan.stages) for name in plan.sources}


def loss_tokens(plan: Plan, counts: dict[str, int]) -> int:
    """Unmasked targets among so many samples of each source."""
    return sum(n * plan.sources[name].loss_tokens for name, n in counts.items())


def rate_batches(stage: PlannedStage, num_points: int) -> list[int]:
    """Batches that show a stage's learning rate: evenly spaced ones, and those at keyframes."""
    last, curve = stage.num_batches - 1, stage.rate.curve
    even = {i * last // max(1, num_points - 1) for i in range(num_points)}
    frames = {x // (2 * curve.unit) + step for x in curve.positions for step in (-1, 0, 1)}
    return sorted(even | {t for t in frames if 0 <= t <= last})


def peak_rate(stage: PlannedStage) -> float:
    """The highest learning rate of a stage."""
    return max(stage.rate.at(t) for t in rate_batches(stage, 200))


@dataclass(frozen=True)
class Epochs:
    """How far a run goes through a finite source.

    num_samples: of one epoch, a guess unless `exact`. used: epochs in the run.
    first_end: (token of the run, stage, batch) after which every sample has come once, or None.
    batches: stage -> its batches that one epoch lasts, at the stage's mean share.
    """

    num_samples: int
    exact: bool
    used: float
    first_end: tuple[int, str, int] | None
    batches: dict[str, float]


def epochs_of(plan: Plan, source: PlannedSource) -> Epochs | None:
    """The epochs of a finite source; None for an endless one or one of unknown size."""
    size, used = source.num_samples or source.estimated_samples, source.epochs()
    if size is None or used is None:
        return None
    batches = {
        stage.name: size * stage.num_batches / stage.counts[source.name]
        for stage in plan.stages
        if stage.counts.get(source.name)
    }
    end = _first_end(plan, source.name, size) if used >= 1 else None
    return Epochs(size, source.num_samples is not None, used, end, batches)


def _first_end(plan: Plan, name: str, size: int) -> tuple[int, str, int] | None:
    """Where the run has drawn `size` new samples of a source."""
    for stage in plan.stages:
        if name not in stage.sources or name in replayed(stage):
            continue
        missing = size - stage.first_sample[name]
        if missing <= stage.counts[name]:
            column = batch_counts(stage)[:, stage.sources.index(name)]
            batch = int(np.searchsorted(np.cumsum(column, dtype=np.int64), missing)) + 1
            tokens = batch * stage.batch_size * stage.sequence_length
            return stage.first_token + tokens, stage.name, batch
    return None


@dataclass(frozen=True)
class Disk:
    """Bytes that a plan's data and checkpoints take.

    compiled: of each source's dataset as `ncamix compile` writes it, before compression; None while
        a text's size is unknown.
    generated: of the shards that a run's folder holds of the stage that generates most.
    checkpoint: of one. num_checkpoints: that a run's folder holds at once, at most.
    """

    compiled: dict[str, int | None]
    generated: int
    checkpoint: int
    num_checkpoints: int


def disk(plan: Plan) -> Disk:
    """The disk forecast of a plan."""
    trainer = plan.trainer.trainer
    parameters = trainer.model.num_parameters(plan.vocabulary.rows)
    compiled = {
        name: _bytes(source, compiled_samples(source)) or None
        for name, source in plan.sources.items()
    }
    generated = max(sum(_generated(plan, stage).values()) for stage in plan.stages)
    # Each finished stage keeps its last; the newest is written before the oldest is deleted.
    kept = len(plan.stages) - 1 + trainer.checkpoint.keep + 1
    return Disk(compiled, generated, COPIES * WEIGHT_BYTES * parameters, kept)


def compiled_samples(source: PlannedSource) -> int:
    """Samples that compiling a source writes, whole shards of endless ones included."""
    if source.spec.finite:
        return source.num_samples or source.estimated_samples or 0
    return max(1, -(-source.samples_needed // source.samples_per_shard)) * source.samples_per_shard


def _generated(plan: Plan, stage: PlannedStage) -> dict[str, int]:
    """Bytes of the shards that a stage draws on, by endless source."""
    sizes = {}
    for name, count in stage.counts.items():
        source, first = plan.sources[name], stage.first_sample[name]
        low, high = (0, first) if name in replayed(stage) else (first, first + count)
        per = source.samples_per_shard
        if not source.spec.finite:
            sizes[name] = _bytes(source, (-(-high // per) - low // per) * per)
    return sizes


def _bytes(source: PlannedSource, num_samples: int) -> int:
    """Bytes of so many samples in uncompressed shards."""
    form = ShardFormat(source.sequence_length + 1, width_of(source.first_id + source.num_ids))
    per = source.samples_per_shard
    whole, rest = divmod(num_samples, per)
    return whole * form.num_bytes(per) + (form.num_bytes(rest) if rest else 0)
