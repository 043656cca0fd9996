"""The search for rules: the first candidate of each slot whose score lies in a band.

    slots -> candidates (slot, attempt) -> amounts -> attempts, the first inside the band

Amounts are remembered, so a candidate is scored once and serves every band: bands of one automaton
and seed look through the same candidates, and several cost about as much as the rarest. Memory is
bounded; what is forgotten is scored again, to the same amount.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ncamix.errors import Problem, UserError

MAX_ATTEMPTS = 100_000
AHEAD = 8  # candidates that are scored at once, at least: a call of compiled code costs too
MEMORY_BYTES = 256 << 20
ENTRY_BYTES = 200  # of an entry beside its amounts, about

Slots: TypeAlias = NDArray[np.int64]
Score: TypeAlias = Callable[[Slots, Slots], NDArray[np.int64]]


class UnreachableBand(UserError):
    """No rule scored inside the band within the allowed number of attempts."""

    def __init__(self, what: str) -> None:
        way_out = "choose another band or alphabet: `ncamix bands` shows what can be reached"
        crossed = what.startswith("Caught ")  # processes: its text then, with the way out
        super().__init__(what if crossed else Problem(what, way_out))


class Memory:
    """Amounts of the first attempts of slots, for each family of candidates.

    A family is what decides its candidates' amounts: automaton, seed and measure. The oldest
    entries are forgotten beyond `limit` bytes. Safe among threads.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.forget()

    def forget(self) -> None:
        """Empty the memory; a forked child begins so, for a thread may have held the lock."""
        self._lock = threading.Lock()
        self._entries: dict[tuple[Hashable, int], bytes] = {}
        self._size = 0

    def recall(self, family: Hashable, slot: int) -> bytes:
        """Amounts of attempts 0, 1, ... of a slot, as far as they are known: bytes of int32."""
        return self._entries.get((family, slot), b"")

    def remember(self, family: Hashable, slot: int, amounts: bytes) -> None:
        """Keep the amounts of attempts 0, 1, ... of a slot: bytes of int32."""
        with self._lock:
            known = self._entries.pop((family, slot), None)
            if known is not None:
                self._size -= len(known) + ENTRY_BYTES
                amounts = max(known, amounts, key=len)
            self._entries[family, slot] = amounts
            self._size += len(amounts) + ENTRY_BYTES
            while self._size > self._limit:
                oldest = next(iter(self._entries))
                self._size -= len(self._entries.pop(oldest)) + ENTRY_BYTES


MEMORY = Memory(MEMORY_BYTES)
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=MEMORY.forget)


def search(
    score: Score, family: Hashable, interval: tuple[int, int], slots: Slots, of: str = ""
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First attempt of each slot [N] whose amount lies in [first, end), and that amount: int64 [N].

    score: the amounts of candidates (slots [M], attempts [M]), in this thread. of: what is searched
    for, in words for an error.

    Raises:
        UnreachableBand: a slot failed MAX_ATTEMPTS times.
    """
    first, end = interval
    attempts, amounts = np.full(len(slots), -1, np.int64), np.zeros(len(slots), np.int64)
    known = [MEMORY.recall(family, slot) for slot in slots.tolist()]
    tried = np.array([len(data) // 4 for data in known], np.int64)
    for i in np.flatnonzero(tried):
        row = np.frombuffer(known[i], np.int32)
        inside = (first <= row) & (row < end)
        if inside.any():
            attempts[i] = inside.argmax()
            amounts[i] = row[attempts[i]]
    pending = missing = np.flatnonzero(attempts < 0)
    while pending.size:
        # While nothing at all was found, settle whether one slot can be filled, then the rest.
        if pending.size == len(slots) and tried.sum() >= MAX_ATTEMPTS:
            pending = pending[:1]
        if tried[pending].max() >= MAX_ATTEMPTS:
            raise UnreachableBand(f"no rule in {tried.max():,} attempts at one slot{of}")
        # Few slots left: try several attempts of each at once, as many as failed so far.
        ahead = int(max(1, min(AHEAD // pending.size, tried[pending].min())))
        candidates = tried[pending, None] + np.arange(ahead)
        scored = score(slots[pending].repeat(ahead), candidates.ravel()).reshape(-1, ahead)
        inside = (first <= scored) & (scored < end)
        hit, column = inside.any(axis=1), inside.argmax(axis=1)
        attempts[pending[hit]] = candidates[hit, column[hit]]
        amounts[pending[hit]] = scored[hit, column[hit]]
        for i, row in zip(pending.tolist(), scored.astype(np.int32), strict=True):
            known[i] += row.tobytes()
        tried[pending] += ahead
        pending = np.flatnonzero(attempts < 0)
    for i in missing.tolist():
        MEMORY.remember(family, int(slots[i]), known[i])
    return attempts, amounts
