"""Exact apportionment: how many samples of each source stand in each global batch.

    mixture -> weights of a batch -> cumulative quotas -> counts

A mixture gives every batch fractional quotas; batches hold whole samples. This is the chairman
assignment problem (Tijdeman 1980) with sources that may weigh nothing for a while: after every
batch each cumulative count is the floor or the ceiling of the cumulative quota, every batch sums to
its size, and a weight of zero gets nothing, ever. Every batch serves what is due, then the largest
remainders; where that gets stuck, earlier batches are rerouted, so that the bound of one sample
always holds. Short stages are counted here, long ones by compiled code with the same results.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ncamix.mixture import LONG, Mixture
from ncamix.rerouting import ACTIVE, LOOSE, UP, reroute
from ncamix.schedule import BITS, SCALE

NEAR = SCALE >> 20  # quotas this near to a whole number are that number, but for rounding

Counts = NDArray[np.int16] | NDArray[np.int32]


@dataclass(frozen=True)
class Apportionment:
    """Counts of every batch of a stage.

    counts: int16 or int32 [num_batches, num_sources], samples of each source in each batch.
    largest_deviation: largest |cumulative count - cumulative quota| after any batch, in samples,
        of the stage as planned; below 1. Of a reversed stage, it is counted from the end.
    """

    counts: Counts
    largest_deviation: float

    @property
    def totals(self) -> list[int]:
        """Samples of each source in the stage."""
        return [int(n) for n in self.counts.sum(axis=0, dtype=np.int64)]


def apportion(
    mixture: Mixture, num_batches: int | None = None, transform: str | None = None
) -> tuple[Mixture, Apportionment]:
    """Apportion a stage.

    num_batches: how many of the mixture's batches are trained; all of them by default. The others
        are counted too and left out, so that ending early changes no batch before the end.
    transform: None, 'reverse' (the counts of the last batch first) or 'flatten' (the same totals,
        spread evenly over the stage).

    Returns the mixture as it is then, and its counts.
    """
    counts, deviation = _count(mixture)
    if transform == "reverse":
        mixture, counts = mixture.reversed(), counts[::-1].copy()
    elif transform == "flatten":
        mixture = mixture.flattened(counts.sum(axis=0, dtype=np.int64).tolist())
        counts, deviation = _count(mixture)
    if num_batches is not None and num_batches < len(counts):
        counts = counts[:num_batches].copy()
    return mixture, Apportionment(counts, deviation)


class Counter(Protocol):
    """Counts batch after batch.

    counts: [batches, sources]; flags as `reroute` reads them; given, int64 [sources]: cumulative
    counts; worst, int64 [1]: the largest deviation met, with 60 fractional bits.
    """

    counts: Counts
    flags: NDArray[np.uint8]
    given: NDArray[np.int64]
    worst: NDArray[np.int64]

    def advance(self, batch: int) -> int:
        """Count from `batch` on; returns the first batch whose sum is not its size, or the end."""

    def reroute(self, batch: int, change: int) -> int: ...

    def deviation(self) -> int:
        """The largest deviation of the finished counts, measured anew."""


def _count(mixture: Mixture) -> tuple[Counts, float]:
    """Counts of a mixture's batches, forwards, and the largest deviation."""
    size = mixture.batch_size
    shape = (mixture.num_batches, len(mixture.leaves))
    counts: Counts = np.zeros(shape, np.int16) if size < 1 << 15 else np.zeros(shape, np.int32)
    if mixture.is_constant and SCALE in (weights := mixture.at(0)):
        counts[:, weights.index(SCALE)] = size
        return counts, 0.0
    counter = _counter(mixture, counts)
    batch, rerouted = counter.advance(0), False
    while batch < len(counts):
        while wrong := size - int(counts[batch].sum(dtype=np.int64)):
            change = 1 if wrong > 0 else -1
            source = counter.reroute(batch, change)
            assert source >= 0, "no apportionment found"
            counter.given[source] += change
            rerouted = True
        batch = counter.advance(batch + 1)
    deviation = counter.deviation() if rerouted else int(counter.worst[0])
    assert deviation < SCALE
    return counts, deviation / SCALE


def _counter(mixture: Mixture, counts: Counts) -> Counter:
    if len(counts) >= LONG:
        from ncamix import counting  # numba

        program = counting.make_program(mixture)
        if program is not None:
            return counting.CompiledCounter(program, mixture.batch_size, NEAR, counts)
    return PlainCounter(mixture, counts)


class PlainCounter:
    """Counts in Python's own integers. Cumulative quotas have 60 fractional bits."""

    def __init__(self, mixture: Mixture, counts: Counts) -> None:
        self.mixture, self.counts = mixture, counts
        sources = counts.shape[1]
        self.flags = np.zeros((len(counts), sources + 1), np.uint8)
        self.given = np.zeros(sources, np.int64)
        self.worst = np.zeros(1, np.int64)
        self.quotas = [0] * sources
        self.constant = mixture.at(0) if mixture.is_constant else None

    def advance(self, batch: int) -> int:
        size, quotas = self.mixture.batch_size, self.quotas
        given, worst = self.given.tolist(), int(self.worst[0])
        sources = range(len(given))
        while batch < len(self.counts):
            weights = self.constant or self.mixture.at(batch)
            row, flags, loose = [0] * len(given), [0] * len(given), []
            for s in sources:
                weight = weights[s]
                quotas[s] += weight * size
                whole, rest = quotas[s] >> BITS, quotas[s] & (SCALE - 1)
                if rest > SCALE - NEAR:
                    whole += 1
                elif rest >= NEAR:
                    flags[s] = LOOSE
                if weight:
                    flags[s] |= ACTIVE
                    row[s] = max(0, whole - given[s])
                    if flags[s] & LOOSE and given[s] <= whole:
                        loose.append((-rest, s))
            left = size - sum(row)
            if left >= 0:
                for _, s in sorted(loose)[:left]:
                    row[s] += 1
            for s in sources:
                given[s] += row[s]
                owed = quotas[s] - (given[s] << BITS)
                if owed < 0 and flags[s] & LOOSE:
                    flags[s] |= UP
                worst = max(worst, abs(owed))
            self.counts[batch] = row
            self.flags[batch, :-1] = flags
            if not 0 <= left <= len(loose):
                break
            batch += 1
        self.given[:], self.worst[0] = given, worst
        return batch

    def reroute(self, batch: int, change: int) -> int:
        return reroute(self.counts, self.flags, batch, change)

    def deviation(self) -> int:
        quotas, worst = [0] * len(self.quotas), 0
        for batch, row in enumerate(self.counts.tolist()):
            weights = self.constant or self.mixture.at(batch)
            for s, weight in enumerate(weights):
                quotas[s] += weight * self.mixture.batch_size - (row[s] << BITS)
                worst = max(worst, abs(quotas[s]))
        return worst
