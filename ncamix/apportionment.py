"""Exact apportionment: how many samples of each source stand in each global batch.

A mixture gives every batch fractional quotas; batches hold whole samples. This is the chairman
assignment problem (Tijdeman 1980): the k-th sample of a source is released once the source's
cumulative quota exceeds k - 1 and is due when it reaches k. Every batch first serves what is due,
then what is released, earliest deadline first, among the sources that the batch's mixture names.
Where zero stretches leave that stuck, the largest remainder decides; `largest_deviation` says what
came of it. A weight of zero gets nothing, ever; every batch sums to its size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ncamix.schedule import SCALE


@dataclass(frozen=True)
class Apportionment:
    """Counts of every batch of a stage.

    counts: int32 [num_batches, num_sources], samples of each source in each batch.
    largest_deviation: largest |cumulative count - cumulative quota| after any batch, in samples;
        below 1 unless zero stretches of the schedule made that impossible for the method.
    """

    counts: NDArray[np.int32]
    largest_deviation: float

    @property
    def totals(self) -> list[int]:
        """Samples of each source in the stage."""
        return [int(n) for n in self.counts.sum(axis=0, dtype=np.int64)]


def apportion(
    weights_at: Callable[[int], tuple[int, ...]],
    num_batches: int,
    batch_size: int,
    constant: bool = False,
) -> Apportionment:
    """Apportion a stage.

    weights_at: batch -> fixed-point weights (96 fractional bits) that sum to 1.
    constant: the weights are the same in every batch (spares evaluating them).
    """
    first = weights_at(0)
    num_sources = len(first)
    counts = np.zeros((num_batches, num_sources), np.int32)
    if constant and max(first) == SCALE:
        counts[:, first.index(SCALE)] = batch_size
        return Apportionment(counts, 0.0)
    quotas = [
        [w * batch_size for w in (first if constant else weights_at(t))] for t in range(num_batches)
    ]
    horizon = _Deadlines(quotas)
    cumulative = [0] * num_sources  # quota so far, fixed point
    given = [0] * num_sources
    worst = 0
    for t, quota in enumerate(quotas):
        cumulative = [c + q for c, q in zip(cumulative, quota, strict=True)]
        row = _one_batch(t, quota, cumulative, given, batch_size, horizon)
        counts[t] = row
        for s in range(num_sources):
            given[s] += row[s]
            worst = max(worst, abs(given[s] * SCALE - cumulative[s]))
    return Apportionment(counts, worst / SCALE)


def _one_batch(
    t: int,
    quota: list[int],
    cumulative: list[int],
    given: list[int],
    batch_size: int,
    horizon: _Deadlines,
) -> list[int]:
    """Samples of each source in batch t."""
    active = [s for s, q in enumerate(quota) if q > 0]
    row = [0] * len(quota)
    for s in active:
        row[s] = max(0, cumulative[s] // SCALE - given[s])
    left = batch_size - sum(row)
    released = [s for s in active if -(-cumulative[s] // SCALE) > given[s] + row[s]]
    if 0 <= left <= len(released):
        released.sort(
            key=lambda s: (
                horizon.of(s, given[s] + row[s] + 1),
                (given[s] + row[s]) * SCALE - cumulative[s],
                s,
            )
        )
        for s in released[:left]:
            row[s] += 1
        return row
    # Stuck: a source fell to zero while a fraction was owed, and others must take or give way.
    row = [0] * len(quota)
    for _ in range(batch_size):
        s = max(active, key=lambda s: (cumulative[s] - (given[s] + row[s]) * SCALE, -s))
        row[s] += 1
    return row


class _Deadlines:
    """When each sample of each source is due; asked in ascending order of samples."""

    def __init__(self, quotas: list[list[int]]) -> None:
        self.quotas = quotas
        self.batch = [0] * len(quotas[0])  # batches already summed, by source
        self.sum = [0] * len(quotas[0])

    def of(self, source: int, sample: int) -> int:
        """The batch at whose end the cumulative quota reaches `sample`; past the end if never."""
        due = sample * SCALE
        while self.sum[source] < due and self.batch[source] < len(self.quotas):
            self.sum[source] += self.quotas[self.batch[source]][source]
            self.batch[source] += 1
        return self.batch[source] if self.sum[source] >= due else len(self.quotas) + 1
