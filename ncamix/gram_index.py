"""An index of the word runs of documents: which of them come again elsewhere (compiled, numba).

    distinct hashes of runs, of up to 64 sets -> a table of open addressing: hash -> its number
    another text -> its runs looked up -> which sets it meets; what was met is marked

24 to 32 bytes a distinct run that is indexed, and nothing for the texts that are looked up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ncamix.random import compiled
from ncamix.words import hash_grams, scratch

MAX_SETS = 64  # a bit each


class GramIndex:
    """Distinct runs of `size` words, by number.

    keys: hashes, uint64 [N], each once. sets: a bit for each set that has the run, uint64 [N].
    slots: 0, or 1 + a number, uint32 [a power of two].
    """

    def __init__(self, size: int, keys: NDArray[np.uint64], sets: NDArray[np.uint64]) -> None:
        self.size, self.keys, self.sets = size, keys, sets
        self.slots = np.zeros(1 << max(4, (3 * len(keys)).bit_length()), np.uint32)
        fill(keys, self.slots)
        self._scratch = scratch(1 << 16)

    def meet(self, text: str, number: int, found: NDArray[np.int32]) -> tuple[int, int]:
        """Look a text up: the sets that it meets, a bit each, and how many runs it is the first to
        meet. One thread at a time.

        found: 0, or the number of the first text that met the run, int32 [N]; `number`, from 1, is
        entered for this text.
        """
        data = np.frombuffer(text.encode(), np.uint8)
        if len(self._scratch) < len(data) // 2 + 3:
            self._scratch = scratch(2 * len(data))
        num_words, _ = hash_grams(data, self.size, self._scratch)
        runs = self._scratch[: max(0, num_words - self.size + 1)]
        met, fresh = look_up(runs, self.keys, self.sets, self.slots, found, number)
        return int(met), int(fresh)


@compiled
def fill(keys: NDArray[np.uint64], slots: NDArray[np.uint32]) -> None:
    """Enter distinct keys into empty slots, more than there are keys."""
    last = np.uint64(len(slots) - 1)
    for i in range(len(keys)):
        place = keys[i] & last
        while slots[place]:
            place = place + np.uint64(1) & last
        slots[place] = i + 1


@compiled
def look_up(
    runs: NDArray[np.uint64],
    keys: NDArray[np.uint64],
    sets: NDArray[np.uint64],
    slots: NDArray[np.uint32],
    found: NDArray[np.int32],
    number: int,
) -> tuple[np.uint64, int]:
    """What `GramIndex.meet` returns, for the runs of a text."""
    last = np.uint64(len(slots) - 1)
    met, fresh = np.uint64(0), 0
    for i in range(len(runs)):
        run = runs[i]
        place = run & last
        while slots[place]:
            key = slots[place] - 1
            if keys[key] == run:
                met |= sets[key]
                if not found[key]:
                    found[key] = number
                    fresh += 1
                break
            place = place + np.uint64(1) & last
    return met, fresh
