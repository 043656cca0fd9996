"""Windows of a stream: drawn while it passes, scored by gzip, with intervals.

    stream of bytes or tokens -> windows, one behind the other -> some of them, at random
    -> size after gzip -9 / size before, each -> mean, and an interval of 95%

A window's place in the draw follows from a key and its number alone, so the draw does not depend on
how the stream was cut into pieces, and a stream of any length takes bounded memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ncamix.automata.complexity import gzip_sizes
from ncamix.threads import spread

FEWEST_OWNERS = 20  # documents from which they are what is drawn anew, instead of windows
RESAMPLES = 2000  # of a bootstrap
_ROUND = 100  # resamples made at once
_TOP = np.uint64(0xFFFFFFFFFFFFFFFF)


@dataclass(frozen=True)
class Estimate:
    """A value with its interval of 95%. unit: what was drawn anew for the interval; where there is
    too little for one it is empty, and the ends are not numbers."""

    value: float
    low: float = math.nan
    high: float = math.nan
    unit: str = ""


class WindowDraw:
    """Draws at most `most` of the windows of `size` items that a stream holds.

    Windows lie one behind the other from the stream's begin; what is left at its end, less than a
    window, is in none.
    """

    def __init__(self, size: int, most: int, key: int, dtype: type[np.generic]) -> None:
        self.size, self.most = size, most
        self.num_windows = 0  # that have passed
        self._key = np.uint64(key)
        self._bound = _TOP  # of the places of windows that may still be drawn
        self._carry = np.empty(0, dtype)
        self._carry_owner = 0
        self._windows = np.empty((0, size), dtype)
        self._numbers = np.empty(0, np.int64)
        self._owners = np.empty(0, np.int64)

    def add(self, items: NDArray[np.generic], owner: int) -> None:
        """Append the items of a document, whose number is `owner`."""
        first_owner = self._carry_owner if len(self._carry) else owner
        joined = np.concatenate([self._carry, items]) if len(self._carry) else items
        count = len(joined) // self.size
        self._carry = joined[count * self.size :].copy()
        self._carry_owner = owner if count else first_owner
        if not count:
            return
        numbers = np.arange(self.num_windows, self.num_windows + count)
        self.num_windows += count
        owners = np.full(count, owner)
        owners[0] = first_owner
        taken = np.flatnonzero(scattered(self._key, numbers) <= self._bound)
        if taken.size:
            windows = joined[: count * self.size].reshape(count, self.size)[taken]
            self._windows = np.concatenate([self._windows, windows])
            self._numbers = np.concatenate([self._numbers, numbers[taken]])
            self._owners = np.concatenate([self._owners, owners[taken]])
        if len(self._numbers) > 2 * self.most:
            self._thin()

    def drawn(self) -> tuple[NDArray[np.generic], NDArray[np.int64]]:
        """The windows drawn, [N, size], in the stream's order, and the documents that they begin
        in, int64 [N]."""
        self._thin()
        return self._windows, self._owners

    def _thin(self) -> None:
        """Keep the `most` windows that come first in the draw."""
        places = scattered(self._key, self._numbers)
        if len(places) <= self.most:
            return
        kept = np.sort(np.argpartition(places, self.most - 1)[: self.most])
        self._bound = places[kept].max()
        self._windows, self._numbers = self._windows[kept], self._numbers[kept]
        self._owners = self._owners[kept]


def scattered(key: np.uint64, numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A place among 2**64 for each number, as good as drawn at random: uint64 [N].

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014), a bijection for every key.
    """
    with np.errstate(over="ignore"):
        x = (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + key
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


def compressed_sizes(windows: NDArray[np.generic]) -> NDArray[np.int64]:
    """Size of each window after `gzip -9`, int64 [N] bytes, header and trailer (18) counted.

    windows: uint32 [N, T], laid out as little-endian int32, or uint8 [N, bytes], a multiple of 4.
    The count is the one that bands are made by, up to 16,380 bytes a window; above it is the
    machine's zlib's.
    """
    words: NDArray[np.uint32] = np.ascontiguousarray(windows).view("<u4").astype(np.uint32)
    sizes = np.empty(len(words), np.int64)

    def work(rows: slice) -> None:
        sizes[rows] = gzip_sizes(words[rows])

    spread(work, len(words))
    return sizes


def mean_of(values: NDArray[np.float64], owners: NDArray[np.int64], seed: int) -> Estimate:
    """The mean of values [N], one a window, with a bootstrap interval (2.5% to 97.5%).

    Documents are drawn anew with all of their windows, since windows of one document are alike:
    owners [N] says which those are. With fewer than 20 of them, windows are drawn anew.
    """
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean)
    names, index = np.unique(owners, return_inverse=True)
    unit = "documents"
    if len(names) < FEWEST_OWNERS:
        index, unit = np.arange(len(values)), "windows"
    sums, counts = np.bincount(index, values), np.bincount(index)
    rng = np.random.Generator(np.random.PCG64(seed))
    chances = np.full(len(sums), 1 / len(sums))
    means = []
    for _ in range(RESAMPLES // _ROUND):
        times = rng.multinomial(len(sums), chances, size=_ROUND)
        means.append((times @ sums) / (times @ counts))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return Estimate(mean, float(low), float(high), unit)
