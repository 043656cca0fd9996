"""What a plan leads to: epochs of finite sources, learning rates reached, bytes on disk.

    Plan -> facts for the reader, each computed in one place for tables, JSON, pictures and remarks

Positions are tokens consumed in the run; batches of a stage count from 1 where a reader sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ncamix.cache_limits import cache_limit
from ncamix.plan import Plan, PlannedStage
from ncamix.planned_source import PlannedSource
from ncamix.schedule import Curve

WEIGHT_BYTES = 4  # checkpoints hold fp32 weights, whatever the precision of training
COPIES = 3  # the weights and Adam's two moments; Muon has one of most


def drawn_samples(plan: Plan) -> dict[str, int]:
    """Samples that each source gives in the whole run, those dealt again included."""
    drawn = dict.fromkeys(plan.sources, 0)
    for stage in plan.stages:
        for name, count in stage.counts.items():
            drawn[plan.dataset_of(name, stage).dataset] += count
    return drawn


def loss_tokens(plan: Plan, stage: PlannedStage) -> dict[str, int]:
    """Tokens with a loss that each source gives in a stage; of masked sources, the most of them."""
    return {
        name: count * plan.dataset_of(name, stage).loss_tokens
        for name, count in stage.counts.items()
    }


def in_batches(curve: Curve, x: int) -> float:
    """A position or period of a stage's curve in batches."""
    return x / curve.unit


def even_batches(stage: PlannedStage, num_points: int) -> list[int]:
    """At most so many batches, evenly spaced over a stage, the first and the last included."""
    last = stage.num_batches - 1
    return sorted({i * last // max(1, num_points - 1) for i in range(num_points)})


def rate_batches(stage: PlannedStage, num_points: int) -> list[int]:
    """Batches that show a stage's learning rate: evenly spaced ones, and those at keyframes."""
    last, curve = stage.num_batches - 1, stage.rate.curve
    frames = {int(in_batches(curve, x)) + step for x in curve.positions for step in (-1, 0, 1)}
    shown = {t for t in frames if 0 <= t <= last}
    return sorted(shown.union(even_batches(stage, num_points)))


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


def epochs_of(plan: Plan, key: str) -> Epochs | None:
    """The epochs of a finite source; None for an endless one or one of unknown size."""
    source = plan.sources[key]
    size, used = source.expected_samples, source.epochs()
    if size is None or used is None:
        return None
    drawn = [
        s
        for s in plan.stages
        if s.counts.get(source.name) and plan.dataset_of(source.name, s).dataset == key
    ]
    batches = {s.name: size * s.num_batches / s.counts[source.name] for s in drawn}
    end = _first_end(drawn, source.name, size) if used >= 1 else None
    return Epochs(size, source.num_samples is not None, used, end, batches)


def _first_end(stages: list[PlannedStage], name: str, size: int) -> tuple[int, str, int] | None:
    """Where the stages that draw from a source have drawn `size` new samples of it."""
    for stage in stages:
        missing = size - stage.first_sample[name]
        if name not in stage.replayed and missing <= stage.counts[name]:
            column = stage.apportionment.counts[:, stage.sources.index(name)]
            batch = int(np.searchsorted(np.cumsum(column, dtype=np.int64), missing)) + 1
            tokens = batch * stage.batch_size * stage.sequence_length
            return stage.first_token + tokens, stage.name, batch
    return None


@dataclass(frozen=True)
class Disk:
    """Bytes that a plan's data and checkpoints take.

    compiled: of each source's dataset as `ncamix compile` writes it, before compression; None while
        a text's size is unknown.
    generated: of the shards that a run's folder holds at once of the stage that generates most,
        within the cache limit.
    checkpoint: of one. num_checkpoints: that a run's folder holds at once, at most.
    weights: of the files that all stages hand over, one each.
    """

    compiled: dict[str, int | None]
    generated: int
    checkpoint: int
    num_checkpoints: int
    weights: int


def disk(plan: Plan) -> Disk:
    """The disk forecast of a plan."""
    trainer = plan.trainer.trainer
    parameters = trainer.model.num_parameters(plan.vocabulary.rows)
    compiled = {
        name: _bytes(source, samples_to_compile(source)) or None
        for name, source in plan.sources.items()
    }
    in_place = [name for name, source in plan.sources.items() if source.spec.finite]
    generated = max(
        min(_generated(plan, stage), cache_limit(plan, stage, in_place)) for stage in plan.stages
    )
    # Each finished stage keeps its last; the newest is written before the oldest is deleted.
    kept = len(plan.stages) - 1 + trainer.checkpoint.keep + 1
    one = WEIGHT_BYTES * parameters
    copies = COPIES + (trainer.averaging is not None)
    return Disk(compiled, generated, copies * one, kept, one * len(plan.stages))


def samples_to_compile(source: PlannedSource) -> int:
    """Samples that compiling a source writes, whole shards of endless ones included."""
    if source.spec.finite:
        return source.expected_samples or 0
    return max(1, -(-source.samples_needed // source.samples_per_shard)) * source.samples_per_shard


def _generated(plan: Plan, stage: PlannedStage) -> int:
    """Bytes of the shards that a stage draws on, of all endless sources."""
    total = 0
    for name, count in stage.counts.items():
        source, first = plan.dataset_of(name, stage), stage.first_sample[name]
        low, high = (0, stage.replayed[name]) if name in stage.replayed else (first, first + count)
        per = source.samples_per_shard
        if not source.spec.finite:
            total += _bytes(source, (-(-high // per) - low // per) * per)
    return total


def _bytes(source: PlannedSource, num_samples: int) -> int:
    """Bytes of so many samples in uncompressed shards."""
    form, per = source.shard_format, source.samples_per_shard
    whole, rest = divmod(num_samples, per)
    return whole * form.num_bytes(per) + (form.num_bytes(rest) if rest else 0)
