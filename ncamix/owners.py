"""Owners: which of a stage's samples belong to which canonical node.

    counts of every batch -> shares of every owner in every batch -> counters of every owner
    (owner, counter)      -> sample number, in a shard of that owner

With C owners, shard i of an endless source belongs to owner i mod C, and owner c's part of a batch
is drawn from its own shards. A node that stands for some of the owners generates only theirs, and a
batch is the same however many nodes stand for the C owners. Every source gives floor(n / C) of its
n samples in a batch to each owner. The remainders of all sources, one list, are dealt to the owners
in turn, so all parts are of one size; turns alternate between halves of the owners, so that no node
takes all of a remainder. Where the dealing begins is chosen so that the squares of what owners are
ahead of their due sum to the least: a few samples each, however long the run. Counters are
positions in what one owner draws of one source over the whole run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ncamix.permutations import interleave
from ncamix.plan import Plan, PlannedStage
from ncamix.random import compiled

STRIDE = 256  # sums are kept every so many batches

Counts = NDArray[np.int16] | NDArray[np.int32]


@dataclass(frozen=True)
class OwnedShards:
    """The shards of an endless source that are split over owners.

    drawn: samples that each owner drew of the source before the stage, int64 [num_owners].
    """

    samples_per_shard: int
    drawn: NDArray[np.int64]

    def numbers(self, counters: NDArray[np.int64], owners: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sample numbers, int64 [n], of the owners' counters, int64 [n] both."""
        turn, row = np.divmod(counters, self.samples_per_shard)
        return (turn * len(self.drawn) + owners) * self.samples_per_shard + row

    def drawn_numbers(self, draws: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sample numbers, int64 [n], of draws before the stage, counted owner by owner."""
        ends = self.drawn.cumsum()
        owners = np.searchsorted(ends, draws, side="right")
        return self.numbers(draws - (ends - self.drawn)[owners], owners)

    @property
    def num_shards(self) -> int:
        """Shards from 0 on that hold all that was drawn; one at least."""
        last = (self.drawn - 1) // self.samples_per_shard * len(self.drawn)
        needed = np.where(self.drawn > 0, last + np.arange(len(self.drawn)) + 1, 1)
        return int(needed.max())


@dataclass(frozen=True)
class Shares:
    """What every owner gets of every source in the batches of one stage.

    counts: int16 or int32 [num_batches, num_sources]. shifts: int16 [num_batches], where the
    dealing of each batch's remainders begins. sums: int64 [num_sums, num_sources, num_owners],
    the owners' counters before every STRIDE-th batch.
    """

    counts: Counts
    shifts: NDArray[np.int16]
    sums: NDArray[np.int64]

    @property
    def num_owners(self) -> int:
        return int(self.sums.shape[2])

    def of(self, first: int, last: int) -> NDArray[np.int64]:
        """Samples of each source that each owner gets in batches first .. last - 1, int64
        [num_sources, num_owners]."""
        counts = self.counts[first:last].astype(np.int64)
        base, rest = np.divmod(counts, self.num_owners)
        turn = np.empty(self.num_owners, np.int64)  # when each owner's turn comes
        turn[interleave(self.num_owners)] = np.arange(self.num_owners)
        begin = rest.cumsum(axis=1) - rest + self.shifts[first:last, None]
        extra = (turn - begin[:, :, None]) % self.num_owners < rest[:, :, None]
        return np.asarray((base[:, :, None] + extra).sum(axis=0), np.int64)

    def before(self, batch: int) -> NDArray[np.int64]:
        """The owners' counters before a batch, int64 [num_sources, num_owners]."""
        known = batch // STRIDE
        return np.asarray(self.sums[known] + self.of(known * STRIDE, batch), np.int64)


def share_out(
    counts: Counts, drawn: NDArray[np.int64], owned: Sequence[bool] | None = None
) -> Shares:
    """Deal the samples of a stage to owners.

    counts: int16 or int32 [num_batches, num_sources]; with more than one owner, every batch must
    split over them. drawn: the owners' counters at the stage's start, int64
    [num_sources, num_owners]. owned: which sources' owners are to stay even (all by default).
    """
    num_batches, num_owners = len(counts), drawn.shape[1]
    shifts = np.zeros(num_batches, np.int16)
    sums = np.empty((num_batches // STRIDE + 1, *drawn.shape), np.int64)
    if num_owners == 1:
        whole = counts[: num_batches // STRIDE * STRIDE].reshape(-1, STRIDE, counts.shape[1])
        sums[0] = drawn
        sums[1:, :, 0] = drawn[:, 0] + whole.sum(axis=1, dtype=np.int64).cumsum(axis=0)
    else:
        assert not (counts.sum(axis=1) % num_owners).any(), "a batch does not split over the owners"
        even = np.ones(len(drawn), np.bool_) if owned is None else np.array(owned, np.bool_)
        _deal(counts, drawn.copy(), even, interleave(num_owners), STRIDE, shifts, sums)
    return Shares(counts, shifts, sums)


def stage_shares(plan: Plan, stage: PlannedStage) -> Shares:
    """The shares of one stage; the counters of endless sources run on from earlier stages."""
    if plan.trainer.trainer.canonical_nodes == 1:  # nothing is dealt, whatever came before
        return share_out(stage.apportionment.counts, np.zeros((len(stage.sources), 1), np.int64))
    return next(islice(_all_shares(plan), stage.index, None))[0]


def shards_needed(plan: Plan) -> dict[str, int]:
    """Shards of each endless dataset, from 0 on, that hold every sample of the run."""
    needed = {
        name: OwnedShards(s.samples_per_shard, np.array([s.samples_needed], np.int64)).num_shards
        for name, s in plan.sources.items()
        if not s.spec.finite
    }
    if plan.trainer.trainer.canonical_nodes > 1:
        for stage, (_, drawn) in zip(plan.stages, _all_shares(plan), strict=True):
            for name in stage.sources:
                source = plan.dataset_of(name, stage)
                if not source.spec.finite:
                    shards = OwnedShards(source.samples_per_shard, drawn[name]).num_shards
                    needed[source.dataset] = max(needed[source.dataset], shards)
    return needed


def _all_shares(plan: Plan) -> Iterator[tuple[Shares, dict[str, NDArray[np.int64]]]]:
    """The shares of every stage in turn, and the owners' counters of each source at its end."""
    nobody = np.zeros(plan.trainer.trainer.canonical_nodes, np.int64)
    drawn = {source.name: nobody for source in plan.sources.values()}
    for stage in plan.stages:
        owned = [
            not plan.dataset_of(name, stage).spec.finite and name not in stage.replayed
            for name in stage.sources
        ]
        start = np.stack([drawn[name] for name in stage.sources])
        shares = share_out(stage.apportionment.counts, start, owned)
        end = shares.before(stage.num_batches)
        drawn |= {n: end[s] for s, n in enumerate(stage.sources) if owned[s]}
        yield shares, drawn


@compiled
def _deal(
    counts: Counts,
    given: NDArray[np.int64],
    even: NDArray[np.bool_],
    owners: NDArray[np.int64],
    stride: int,
    shifts: NDArray[np.int16],
    sums: NDArray[np.int64],
) -> None:
    """Fill `shifts` and `sums`. given: counters, moved on; owners: in the order of their turns.

    ahead[s, j] is what the owner of turn j has of source s beyond its due, times the number of
    owners. One more sample adds to the sum of squares what `ahead` is, but for constants.
    """
    num_sources, num_owners = given.shape
    ahead = np.zeros((num_sources, num_owners), np.int64)
    for s in range(num_sources):
        if even[s]:
            for j in range(num_owners):
                ahead[s, j] = num_owners * given[s, owners[j]] - given[s].sum()
    cost = np.empty(num_owners, np.int64)
    for t in range(len(counts)):
        if t % stride == 0:
            sums[t // stride] = given
        cost[:] = 0
        begin = 0
        for s in range(num_sources):
            rest = np.int64(counts[t, s]) % num_owners
            if even[s] and rest:
                ahead[s] -= rest
                window = np.int64(0)
                for j in range(rest):
                    window += ahead[s, (begin + j) % num_owners]
                for shift in range(num_owners):
                    cost[shift] += window
                    gone = (begin + shift) % num_owners
                    window += ahead[s, (gone + rest) % num_owners] - ahead[s, gone]
            begin += rest
        best = 0
        for shift in range(1, num_owners):
            if cost[shift] < cost[best]:
                best = shift
        shifts[t] = best
        begin = best
        for s in range(num_sources):
            base, rest = divmod(np.int64(counts[t, s]), num_owners)
            for j in range(num_owners):
                given[s, j] += base
            for j in range(rest):
                turn = (begin + j) % num_owners
                given[s, owners[turn]] += 1
                if even[s]:
                    ahead[s, turn] += num_owners
            begin += rest
    if len(counts) % stride == 0:
        sums[len(counts) // stride] = given
