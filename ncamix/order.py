"""One order: which sample stands at which position, as a pure function.

    position -> (batch, place in the batch) -> (source, owner, counter) -> sample of the source

Counters of endless sources are the sample numbers themselves, or those of one owner's shards where
several nodes generate. A finite source is shuffled by a keyed permutation per epoch, so no sample
comes twice before all have come once; draws that a stage replays are shuffled likewise. A batch
holds the owners' parts one after the other. Inside a part the sources are dealt out evenly, so that
every rank's share holds its part of each. Which samples make up a batch depends on nothing else:
not on nodes, ranks, workers or restarts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

from ncamix.keys import derive_key
from ncamix.owners import Counts, OwnedShards, Shares, share_out, stage_shares
from ncamix.permutations import deal, permute
from ncamix.plan import Plan, PlannedStage


@dataclass(frozen=True)
class SourceOrder:
    """How one source's counters become its sample numbers.

    first: counter at the stage's start. size: samples an epoch of a finite source has, 0 if
    endless. key: of the permutations. replayed: 0, or that many draws of earlier stages are dealt
    again, shuffled per round with `replay_key`; counters then begin at 0 with the stage. shards: of
    an endless source that several owners generate; replays reach into those of all owners.
    """

    first: int
    size: int = 0
    key: int = 0
    replayed: int = 0
    replay_key: int = 0
    shards: OwnedShards | None = None

    @property
    def is_owned(self) -> bool:
        """Whether counters are those of one owner; else they are those of the whole source."""
        return self.shards is not None and not self.replayed

    def samples(
        self, counters: NDArray[np.int64], owners: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """Sample numbers, int64 [n], for counters, int64 [n], of any epochs.

        owners: int64 [n], whose counters they are; asked for where `is_owned`.
        """
        if self.replayed:
            counters = _shuffled(counters, self.replayed, self.replay_key)
            if self.shards is not None:
                return self.shards.drawn_numbers(counters)
        if self.size:
            return _shuffled(counters, self.size, self.key)
        if self.shards is not None:
            assert owners is not None
            return self.shards.numbers(counters, owners)
        return counters


def _shuffled(counters: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """Counters, int64 [n], to numbers below `size`: every epoch a permutation of its own."""
    epochs, index = np.divmod(counters, size)
    out = np.empty_like(counters)
    for epoch in np.unique(epochs):
        mask = epochs == epoch
        out[mask] = permute(index[mask], size, _epoch_key(key, int(epoch)))
    return out


@lru_cache(maxsize=1024)
def _epoch_key(key: int, epoch: int) -> int:
    return derive_key("epoch", key, epoch)


@dataclass(frozen=True)
class StageOrder:
    """The order of one stage.

    counts: int16 or int32 [num_batches, num_sources]; sources: one SourceOrder each, in the same
    order. split: the shares of the owners, if there are several.
    """

    counts: Counts
    sources: tuple[SourceOrder, ...]
    split: Shares | None = None

    @property
    def num_batches(self) -> int:
        return len(self.counts)

    @cached_property
    def batch_size(self) -> int:
        return int(self.counts[0].sum())

    @cached_property
    def shares(self) -> Shares:
        """What each owner gets; of all samples where there is but one."""
        none = np.zeros((len(self.sources), 1), np.int64)
        return self.split or share_out(self.counts, none)

    def draws(self, batch: int, ranks: int | None = None) -> tuple[NDArray[np.int64], ...]:
        """(source index, owner, counter) at each place of a batch, int64 [batch_size] each.

        ranks: as of `batch`. Ranks and owners fall into as many groups as both can be split into;
        each group's ranks share its owners' samples evenly.
        """
        got, before = self.shares.of(batch, batch + 1), self.shares.before(batch)
        first = np.array([order.first for order in self.sources], np.int64)
        since = (before - self.shares.sums[0]).sum(axis=1) + first
        whole = since[:, None] + got.cumsum(axis=1) - got
        owned = np.array([order.is_owned for order in self.sources])
        start = np.where(owned[:, None], before, whole)
        num_sources, num_owners = got.shape
        ranks = ranks or num_owners
        groups = gcd(ranks, num_owners)
        # Cells (group, source, owner in the group), one after the other.
        cell = np.arange(got.size).reshape(num_sources, groups, -1).swapaxes(0, 1).ravel()
        sizes = got.ravel()[cell]
        cells = np.repeat(cell, sizes)
        within = np.arange(self.batch_size) - np.repeat(sizes.cumsum() - sizes, sizes)
        part = self.batch_size // groups
        places = deal(part, ranks // groups).ravel() + part * np.arange(groups)[:, None]
        cells, within = cells[places.ravel()], within[places.ravel()]
        source, owner = np.divmod(cells, num_owners)
        return source, owner, start.ravel()[cells] + within

    def batch(
        self, batch: int, ranks: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(source index, sample number) at each place of a batch, int64 [batch_size] each.

        ranks: equal consecutive shares that are to be even in all sources; a divisor of the batch
        size. By default the owners' parts, as positions count them. The samples are the same ones.
        """
        source, owner, counter = self.draws(batch, ranks)
        sample = np.empty_like(counter)
        for index, order in enumerate(self.sources):
            mine = source == index
            sample[mine] = order.samples(counter[mine], owner[mine])
        return source, sample

    def at(self, position: int) -> tuple[int, int]:
        """(source index, sample number) at a position of the stage."""
        batch, place = divmod(position, self.batch_size)
        source, owner, counter = (part[place : place + 1] for part in self.draws(batch))
        return int(source[0]), int(self.sources[source[0]].samples(counter, owner)[0])


def stage_order(plan: Plan, stage: PlannedStage) -> StageOrder:
    """The order of a planned stage; finite sources must have their exact size."""
    shares = stage_shares(plan, stage)
    orders = []
    for drawn, name in zip(shares.sums[0], stage.sources, strict=True):
        source, key = plan.dataset_of(name, stage), plan.order_key(name)
        size, shards = 0, None
        if source.spec.finite:
            assert source.num_samples is not None, "text is compiled before it is ordered"
            size = source.num_samples
        elif shares.num_owners > 1:
            shards = OwnedShards(source.samples_per_shard, drawn)
        again = derive_key("replay", key, stage.index)
        seen = stage.replayed.get(name, 0)
        orders.append(SourceOrder(stage.first_sample[name], size, key, seen, again, shards))
    return StageOrder(stage.apportionment.counts, tuple(orders), shares)
