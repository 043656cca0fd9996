"""How much of a corpus stands in it more than once: documents, lines and runs of words.

    documents, lines, 13-grams -> hashes, 64 bits -> of how many met, how many were met before

Of more hashes than memory is meant for, those below a bound are followed, and the bound is halved
whenever they grow too many. A hash that is followed is counted each time it comes, so the shares
stay unbiased, and they depend neither on order nor on how the hashes were dealt out.
"""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

GRAM_WORDS = 13  # words of a run, as overlap with evaluation sets is usually judged
LINE_CHARACTERS = 20  # of a line without the white space around it, at least: `else:` is no copy
CAPACITY = 1 << 20  # distinct hashes that are followed
_FACTOR = 0x9E3779B97F4A7C15
_PENDING = 1 << 19

Hashes = NDArray[np.uint64]


class Repeats:
    """Counts how many of the hashes that are added were added before."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.num_items = 0  # added
        self._capacity = capacity
        self._shift = 0  # hashes below 2**(64 - shift) are followed
        self._known = np.empty(0, np.uint64)
        self._times = np.empty(0, np.int64)
        self._pending: list[Hashes] = []
        self._num_pending = 0

    def add(self, hashes: Hashes) -> None:
        """Add hashes, uint64 [N], spread evenly over 64 bits."""
        self.num_items += len(hashes)
        if self._shift:
            hashes = hashes[hashes >> np.uint64(64 - self._shift) == 0]
        self._pending.append(hashes)
        self._num_pending += len(hashes)
        if self._num_pending > _PENDING:
            self._merge()

    @property
    def share(self) -> float:
        """Share of the items that were there before; 0 of none."""
        self._merge()
        met = int(self._times.sum())
        return (met - len(self._known)) / met if met else 0.0

    def _merge(self) -> None:
        found, times = np.unique(np.concatenate([self._known, *self._pending]), return_counts=True)
        # What was known stands once in `found`'s counts; its earlier times are added instead.
        places = np.searchsorted(found, self._known)
        times[places] += self._times - 1
        self._known, self._times = found, times
        self._pending, self._num_pending = [], 0
        while len(self._known) > self._capacity:
            self._shift += 1
            kept = self._known >> np.uint64(64 - self._shift) == 0
            self._known, self._times = self._known[kept], self._times[kept]


def document_hash(text: str) -> Hashes:
    """The hash of a whole text, uint64 [1]: equal for exact copies."""
    return np.array([xxhash.xxh3_64_intdigest(text)], np.uint64)


def line_hashes(text: str) -> Hashes:
    """Hashes of the lines that have 20 characters or more, white space around them left out."""
    lines = (line.strip() for line in text.splitlines())
    digests = [xxhash.xxh3_64_intdigest(line) for line in lines if len(line) >= LINE_CHARACTERS]
    return np.array(digests, np.uint64)


def gram_hashes(text: str) -> Hashes:
    """Hashes of every run of 13 words, uint64 [words - 12]; white space separates words."""
    words = np.array([xxhash.xxh3_64_intdigest(word) for word in text.split()], np.uint64)
    count = len(words) - GRAM_WORDS + 1
    if count < 1:
        return np.empty(0, np.uint64)
    runs = np.zeros(count, np.uint64)
    with np.errstate(over="ignore"):
        for k in range(GRAM_WORDS):
            runs = runs * np.uint64(_FACTOR) + words[k : k + count]
        runs ^= runs >> np.uint64(29)  # the high bits decide what is followed
        runs *= np.uint64(0xBF58476D1CE4E5B9)
        return np.asarray(runs ^ (runs >> np.uint64(32)))
