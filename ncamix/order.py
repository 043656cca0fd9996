"""One order: which sample stands at which position, as a pure function.

    position -> (batch, place in the batch) -> (source, sample counter) -> sample of the source

Counters of endless sources are the sample numbers themselves. A finite source is shuffled by a
keyed permutation per epoch, so no sample comes twice before all have come once. Inside a batch the
sources are dealt out evenly, so that every rank's share holds its part of each. Nothing here
knows of ranks, workers or restarts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from ncamix.keys import derive_key

_STRIDE = 64  # cumulative counts are kept every so many batches
_ROUNDS = 6


@dataclass(frozen=True)
class SourceOrder:
    """How one source's counters become its sample numbers.

    first: counter at the stage's start. size: samples an epoch of a finite source has, 0 if
    endless. key: of the permutations.
    """

    first: int
    size: int = 0
    key: int = 0

    def samples(self, counters: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sample numbers, int64 [n], for counters, int64 [n], of any epochs."""
        if not self.size:
            return counters
        epochs, index = np.divmod(counters, self.size)
        out = np.empty_like(counters)
        for epoch in np.unique(epochs):
            mask = epochs == epoch
            out[mask] = permute(index[mask], self.size, _epoch_key(self.key, int(epoch)))
        return out


@lru_cache(maxsize=1024)
def _epoch_key(key: int, epoch: int) -> int:
    return derive_key("epoch", key, epoch)


def permute(index: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """A keyed permutation of 0 .. size - 1, evaluated at `index`, int64 [n].

    A Feistel network over the next even number of bits; values that fall outside walk on until they
    fall inside (Black and Rogaway 2002).
    """
    half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    keys = [np.uint64(derive_key("round", key, r)) for r in range(_ROUNDS)]
    value = index.astype(np.uint64)
    pending = np.arange(len(value))
    while len(pending):
        x = value[pending]
        left, right = x >> shift, x & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        value[pending] = (left << shift) | right
        pending = pending[value[pending] >= size]
    return value.astype(np.int64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class StageOrder:
    """The order of one stage.

    counts: int32 [num_batches, num_sources]; sources: one SourceOrder each, in the same order.
    """

    counts: NDArray[np.int32]
    sources: tuple[SourceOrder, ...]

    @property
    def num_batches(self) -> int:
        return len(self.counts)

    @cached_property
    def batch_size(self) -> int:
        return int(self.counts[0].sum())

    @cached_property
    def _cumulative(self) -> NDArray[np.int64]:
        whole = self.counts[: len(self.counts) // _STRIDE * _STRIDE]
        blocks = whole.reshape(-1, _STRIDE, whole.shape[1]).sum(axis=1, dtype=np.int64)
        return np.concatenate([np.zeros((1, blocks.shape[1]), np.int64), blocks.cumsum(axis=0)])

    def before(self, batch: int) -> NDArray[np.int64]:
        """Samples of each source, int64 [num_sources], in all batches before `batch`."""
        block = batch // _STRIDE
        rest = self.counts[block * _STRIDE : batch].sum(axis=0, dtype=np.int64)
        return np.asarray(self._cumulative[block] + rest, np.int64)

    def batch(self, batch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(source index, sample number) at each place of a batch, int64 [batch_size] each."""
        counts, before = self.counts[batch], self.before(batch)
        source = np.repeat(np.arange(len(counts)), counts)
        sample = np.concatenate(
            [
                order.samples(np.arange(order.first + b, order.first + b + n, dtype=np.int64))
                for order, b, n in zip(self.sources, before.tolist(), counts.tolist(), strict=True)
            ]
        )
        place = interleave(self.batch_size)
        return source[place], sample[place]

    def at(self, position: int) -> tuple[int, int]:
        """(source index, sample number) at a position of the stage."""
        batch, place = divmod(position, self.batch_size)
        source, sample = self.batch(batch)
        return int(source[place]), int(sample[place])


@lru_cache(maxsize=64)
def interleave(total: int) -> NDArray[np.int64]:
    """Places of a source-by-source list of `total`, int64 [total], dealt out like cards.

    Digits of the place, over the prime factors of `total`, are reversed. A half, a quarter, an
    eighth (while they divide `total`) then takes every second, fourth, eighth of the list, so it
    holds its part of each source to within one.
    """
    factors, rest, factor = [], total, 2
    while rest > 1:
        while rest % factor == 0:
            factors.append(factor)
            rest //= factor
        factor += 1
    places = np.arange(total, dtype=np.int64).reshape(factors[::-1]).T.ravel()
    places.setflags(write=False)
    return places
