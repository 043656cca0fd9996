"""The samples of a planned source by number, with their loss masks: generated, or read.

    endless source   its generator
    text, pairs      the entry in the cache, a shard at a time
    mds              where it lies, a shard at a time

Shards are read where they lie and no entry is ever in memory as a whole. A shard of the cache is
checked against its hash when it is first looked at.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ncamix import cache
from ncamix.errors import fail
from ncamix.planned_source import PlannedSource
from ncamix.shards import MASK, is_sound, places_in, read_index, read_shard
from ncamix.sources import open_generator
from ncamix.stored_samples import StoredSamples, stored_samples

Tokens = NDArray[np.uint32]
Mask = NDArray[np.bool_] | None
Segments = NDArray[np.int64] | None


class Generated:
    """Samples of an endless source."""

    def __init__(self, meaning: dict[str, object]) -> None:
        self._generator = open_generator(meaning)

    def range(self, first: int, count: int, num_threads: int | None = 1) -> tuple[Tokens, Mask]:
        """Samples first .. first + count - 1: uint32 [count, sequence_length + 1], no mask."""
        return self._generator.samples(first, count, num_threads), None

    def chosen(self, numbers: NDArray[np.int64]) -> tuple[Tokens, Mask]:
        """Samples of any numbers, int64 [n]: uint32 [n, sequence_length + 1], no mask."""
        unique, inverse = np.unique(numbers, return_inverse=True)
        runs = np.split(unique, np.flatnonzero(np.diff(unique) != 1) + 1)
        made = [self.range(int(run[0]), len(run))[0] for run in runs]
        return np.concatenate(made)[inverse], None


class Compiled:
    """Samples of a dataset that was compiled: an entry of the cache, a split of it, or `--data`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries = read_index(folder)
        self._ends = np.cumsum([0, *(entry["samples"] for entry in self._entries)])[1:]
        self._checked: set[int] = set()

    @property
    def num_samples(self) -> int:
        return int(self._ends[-1]) if self._entries else 0

    @property
    def is_masked(self) -> bool:
        """Whether a loss mask stands beside the ids."""
        return any(MASK in entry["column_names"] for entry in self._entries)

    def range(self, first: int, count: int) -> tuple[Tokens, Mask]:
        """Samples first .. first + count - 1: uint32 and, if masked, bool [count, length]."""
        return self.chosen(np.arange(first, first + count))

    def chosen(self, numbers: NDArray[np.int64]) -> tuple[Tokens, Mask]:
        """Samples of any numbers, int64 [n]: uint32 and, if masked, bool [n, length].

        Raises:
            UserError: a shard is not what was written.
        """
        shards = np.searchsorted(self._ends, numbers, side="right")
        tokens, masks = np.empty((0, 0), np.uint32), None
        for shard in np.unique(shards).tolist():
            rows, at = self._shard(shard), np.flatnonzero(shards == shard)
            own = numbers[at] - (int(self._ends[shard]) - len(rows))
            if not tokens.size:
                shape = len(numbers), rows["tokens"].shape[1]
                tokens = np.empty(shape, np.uint32)
                masks = np.empty(shape, np.bool_) if self.is_masked else None
            tokens[at] = rows["tokens"][own]
            if masks is not None:
                masks[at] = rows[MASK][own]
        return tokens, masks

    def places(self, numbers: NDArray[np.int64]) -> list[tuple[str, int]]:
        """Where samples of any numbers, int64 [n], lie: the name of an uncompressed shard, and the
        row in it, from 0."""
        shards = [(str(e["raw_data"]["basename"]), int(e["samples"])) for e in self._entries]
        return places_in(shards, numbers)

    def _shard(self, number: int) -> NDArray[np.void]:
        entry = self._entries[number]
        if number not in self._checked:
            if not is_sound(self.folder, entry):
                raise fail(
                    f"{self.folder} is damaged: a shard is not what was written there",
                    "run or compile its curriculum again: what is damaged is made again",
                )
            self._checked.add(number)
        return read_shard(self.folder, entry)


Samples = Generated | Compiled | StoredSamples


def samples_of(source: PlannedSource) -> Samples:
    """The samples of a source, in its own order; texts must be compiled in the cache, and the
    indexes of stored sources be known."""
    if source.stored is not None:
        return stored_samples(source)
    if source.spec.finite:
        return Compiled(cache.entry(source.fingerprint))
    return Generated(source.meaning)
