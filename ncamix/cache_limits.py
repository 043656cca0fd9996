"""Cache limits: the shards that a stage needs at hand at once, in bytes, and what holds them.

    counts of the batches ahead -> samples of each source -> shards -> bytes -> a limit above them

Samples of endless sources come shard after shard, so few shards hold those of the batches ahead.
Samples that are dealt in random order (those of finite sources, and replayed ones) come from any
shard: under a cache that does not hold them all, shards would be made or fetched again and again.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ncamix.errors import UserError
from ncamix.plan import Plan, PlannedStage
from ncamix.quantities import format_bytes

USUAL_LIMIT = 8 * 10**9
_LARGEST = 4  # times the largest shard: what Streaming asks of a limit


def bytes_needed(plan: Plan, stage: PlannedStage, in_place: Collection[str] = ()) -> int:
    """Bytes of the shards that the batches ahead of training need on one node, at most.

    in_place: datasets that are read where they lie, and take nothing.
    """
    trainer, counts = plan.trainer.trainer, stage.apportionment.counts
    sums = np.concatenate([np.zeros((1, counts.shape[1]), np.int64), counts.cumsum(0, np.int64)])
    ahead = min(int(trainer.predownload.value) + 1, len(counts))
    windows = (sums[ahead:] - sums[:-ahead]).max(axis=0).tolist()
    owners, total, largest = trainer.canonical_nodes, 0, 0
    for name, window in zip(stage.sources, windows, strict=True):
        source = plan.dataset_of(name, stage)
        if source.dataset in in_place:
            continue
        per, size = (
            source.samples_per_shard,
            source.shard_format.num_bytes(source.samples_per_shard),
        )
        if source.spec.finite:
            num_shards = -(-(source.expected_samples or 0) // per)
        elif name in stage.replayed:
            num_shards = -(-stage.replayed[name] // per) + owners
        else:  # owners are ahead of each other by a few samples, and stand in two shards
            num_shards = owners * (-(-(window // owners + 2) // per) + 1)
        total, largest = total + num_shards * size, max(largest, size)
    return max(total, 2 * _LARGEST * largest)  # twice: a compressed form may lie beside each


def cache_limit(plan: Plan, stage: PlannedStage, in_place: Collection[str] = ()) -> int:
    """Bytes of shards that the stage's cache holds on a node.

    Raises:
        UserError: the trainer's limit does not hold what the stage needs at once.
    """
    needed, wanted = bytes_needed(plan, stage, in_place), plan.trainer.trainer.cache_limit
    if wanted is None:
        return max(USUAL_LIMIT, 2 * needed)
    if wanted.value < needed:
        raise UserError(
            plan.trainer.document.problem(
                ("cache_limit",),
                f"stage '{stage.name}' needs {format_bytes(needed)} of shards at hand, a cache of "
                f"{wanted} would make or fetch them again and again",
                f"write cache_limit: {-(-needed // 10**6)}MB or more, or auto; a smaller "
                "`predownload` needs less",
            )
        )
    return int(wanted.value)
