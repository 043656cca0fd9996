"""What a global batch holds: which samples, where they lie, and their ids.

    plan, stage, batch or token -> Batch: source, sample, shard, row and epoch at every place,
                                   in the order in which so many ranks share it
    samples -> ids, generated or read -> digest, as metrics.jsonl records it

Batches, places, samples, rows and epochs count from 0. Tokens are those that the run consumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncamix import cache
from ncamix.compilation.compiled import Data, check_data, holding, local_part
from ncamix.compilation.datasets import prepare
from ncamix.compilation.samples import Compiled, samples_of
from ncamix.errors import fail, nearest
from ncamix.mixture import weights_as_floats
from ncamix.order import stage_order
from ncamix.plan import Plan, PlannedStage
from ncamix.planned_source import PlannedSource
from ncamix.run_folder import read_rows
from ncamix.shards import sample_digest, shard_name
from ncamix.stored import stored_rows
from ncamix.text_compilation import prepare_text
from ncamix.waiting import Say, quiet


@dataclass(frozen=True)
class Placed:
    """A sample at its place in a batch. shard, row: where its dataset holds it.

    dataset: as plans name it, of the source in samples of the stage's length. epoch: which pass
    over a finite source it belongs to. round: which pass over what earlier stages drew, where the
    stage replays that. Neither, for a new sample of an endless source.
    """

    place: int
    source: str
    dataset: str
    sample: int
    shard: str
    row: int
    epoch: int | None
    round: int | None


@dataclass(frozen=True)
class Batch:
    """A global batch of a stage, `samples` in the order of their places.

    Each of the ranks that share it has a part of places of its own, one after the other.
    """

    stage: PlannedStage
    number: int
    samples: tuple[Placed, ...]

    @property
    def first_token(self) -> int:
        """Tokens that the run has consumed before this batch."""
        stage = self.stage
        return stage.first_token + self.number * stage.batch_size * stage.sequence_length

    @property
    def end_token(self) -> int:
        """Tokens that the run has consumed after it: what metrics.jsonl calls `tokens`."""
        return self.first_token + self.stage.batch_size * self.stage.sequence_length

    @property
    def rate(self) -> float:
        return self.stage.rate.at(self.number)

    @property
    def counts(self) -> dict[str, int]:
        """Samples of each source of the stage."""
        counts = self.stage.apportionment.counts[self.number].tolist()
        return dict(zip(self.stage.sources, counts, strict=True))

    @cached_property
    def mixture(self) -> dict[str, float]:
        """What the schedule asks for at this batch: source -> share of 1."""
        return weights_as_floats(self.stage.mixture, self.number)


def find_stage(plan: Plan, named: str | None) -> PlannedStage:
    """A stage by its name, or by its number from 1; the first one for None.

    Raises:
        UserError: there is no such stage.
    """
    names = [stage.name for stage in plan.stages]
    if named is None or named in names:
        return plan.stages[names.index(named) if named is not None else 0]
    if named.isascii() and named.isdigit() and 1 <= int(named) <= len(names):
        return plan.stages[int(named) - 1]
    raise fail(f"'{plan.name}' has no stage '{named}'", nearest(named, names, "stages, from 1 on"))


def check_batch(stage: PlannedStage, number: int) -> None:
    """Raises UserError if the stage has no batch of this number."""
    if not 0 <= number < stage.num_batches:
        raise fail(
            f"stage '{stage.name}' has no batch {number:,}",
            f"its batches are 0 to {stage.num_batches - 1:,}",
        )


def find_token(plan: Plan, token: int) -> tuple[PlannedStage, int]:
    """The stage and batch that the run's `token`-th token, from 1 on, was trained in.

    Where a loss curve over tokens shows a loss, its batch is found: it stands at the batch's end.

    Raises:
        UserError: the run has fewer tokens.
    """
    for stage in plan.stages:
        inside = token - 1 - stage.first_token
        if 0 <= inside < stage.num_tokens:
            return stage, inside // (stage.batch_size * stage.sequence_length)
    raise fail(
        f"the run of '{plan.name}' has no token {token:,}",
        f"its tokens are 1 to {plan.num_tokens:,}",
    )


def with_lengths(plan: Plan, data: Data | None, say: Say = quiet) -> Plan:
    """A plan whose stages have their exact lengths: durations in epochs wait for sizes of texts,
    which are compiled, or in `data`."""
    return prepare(plan, say, data) if plan.estimated else plan


def with_sizes(plan: Plan, stage: PlannedStage, data: Data | None, say: Say = quiet) -> Plan:
    """A plan in which the stage's finite sources have their exact size: compiled, or in `data`."""
    if data is not None:
        return check_data(plan, data)
    return prepare_text(plan, say, stage.sources)


def batch_of(
    plan: Plan,
    stage: PlannedStage,
    number: int,
    ranks: int | None = None,
    data: Data | None = None,
) -> Batch:
    """What stands in a batch; finite sources must have their exact size. See `with_sizes`.

    ranks: that share it; which samples make it up does not depend on them. data: compiled datasets
    that they lie in.
    """
    order = stage_order(plan, stage)
    drawn_of, _, counters = order.draws(number, ranks)
    _, numbers = order.batch(number, ranks)
    columns = (drawn_of.tolist(), counters.tolist(), numbers.tolist())
    shards = [
        _shard_rows(
            plan.dataset_of(name, stage), sorted(set(numbers[drawn_of == i].tolist())), data
        )
        for i, name in enumerate(stage.sources)
    ]
    samples = []
    for place, (index, counter, sample) in enumerate(zip(*columns, strict=True)):
        own, source = order.sources[index], plan.dataset_of(stage.sources[index], stage)
        shard, row = shards[index][sample]
        again = counter // own.replayed if own.replayed else None
        epoch = counter // own.size if own.size and again is None else None
        at = (source.name, source.dataset, sample, shard, row)
        samples.append(Placed(place, *at, epoch, again))
    return Batch(stage, number, tuple(samples))


def _shard_rows(
    source: PlannedSource, numbers: list[int], data: Data | None
) -> dict[int, tuple[str, int]]:
    """Where a dataset holds samples: number -> shard's file, row in it."""
    if not numbers:
        return {}
    wanted = np.array(numbers, np.int64)
    if data is not None:
        places = Compiled(local_part(data) / source.dataset).places(wanted)
    elif source.stored is not None:
        places = stored_rows(source, wanted)
    elif source.text is not None:
        places = Compiled(cache.entry(source.fingerprint)).places(wanted)
    else:
        per = source.samples_per_shard
        places = [(shard_name(n // per), n % per) for n in numbers]
    return dict(zip(numbers, places, strict=True))


def ids_of(
    plan: Plan, samples: Sequence[Placed], data: Data | None = None, say: Say = quiet
) -> list[NDArray[np.uint32]]:
    """The ids of samples, uint32 [sequence_length + 1] each: generated, or read if finite."""
    ids: list[NDArray[np.uint32]] = [np.empty(0, np.uint32)] * len(samples)
    done = 0
    for name in dict.fromkeys(s.dataset for s in samples):
        say(f"samples of {name}", done / len(samples))
        at = [i for i, s in enumerate(samples) if s.dataset == name]
        numbers = np.array([samples[i].sample for i in at], np.int64)
        for i, row in zip(at, _read(plan.sources[name], numbers, data), strict=True):
            ids[i] = row
        done += len(at)
    return ids


def _read(
    source: PlannedSource, numbers: NDArray[np.int64], data: Data | None
) -> NDArray[np.uint32]:
    """Samples of one dataset, uint32 [len(numbers), sequence_length + 1]."""
    if data is not None and source.spec.finite:
        return Compiled(holding(data, source.dataset, numbers)).chosen(numbers)[0]
    return samples_of(source).chosen(numbers)[0]


def digest_of(ids: Sequence[NDArray[np.uint32]]) -> int:
    """The digest of a batch with these samples, in any order."""
    return sum(map(sample_digest, ids)) % (1 << 64)


@dataclass(frozen=True)
class Recorded:
    """What a run's metrics.jsonl says of a batch. Losses are nats per token.

    row: its line, None if there is none. before: the line before it in the stage, if any.
    last_losses: of each source, the loss of the last batch before this one that held it.
    reached: the stage and the batch of the last line, None if there is none.
    """

    row: dict[str, Any] | None
    before: dict[str, Any] | None
    last_losses: dict[str, float]
    reached: tuple[str, int] | None

    @property
    def digest(self) -> int | None:
        digest = (self.row or {}).get("digest")
        return int(digest) if digest is not None else None


def recorded(run: Path, stage: str, number: int) -> Recorded:
    """What the run in a folder recorded of a batch."""
    rows = [
        row
        for row in read_rows(run / "metrics.jsonl")
        if isinstance(row, dict) and {"stage", "batch", "loss"} <= row.keys()
    ]
    last = (rows[-1]["stage"], int(rows[-1]["batch"])) if rows else None
    by_batch = {row["batch"]: row for row in rows if row["stage"] == stage}
    losses: dict[str, float] = {}
    for batch, row in by_batch.items():
        if batch < number:
            losses |= {k[5:]: v for k, v in row.items() if k.startswith("loss/")}
    return Recorded(by_batch.get(number), by_batch.get(number - 1), losses, last)
