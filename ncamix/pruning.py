"""Pruning: what of the cache could go, chosen by age, size or curriculum.

    entries of the cache -> those that nobody uses and that meet every condition -> removed

What a process reads or builds is never chosen. Removing loses no data, only the time that making it
took: the next run that needs an entry makes it again, byte for byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ncamix import cache
from ncamix.cache import Entry
from ncamix.errors import fail, nearest


@dataclass(frozen=True)
class Choice:
    """Which entries are chosen; every condition that is given must be met.

    older_than: seconds since the last use. keep: bytes that may stay in all; those used last stay.
    curriculum: whose name alone is among an entry's curricula.
    """

    older_than: float | None = None
    keep: int | None = None
    curriculum: str | None = None

    @property
    def is_given(self) -> bool:
        """Whether there is any condition."""
        return (self.older_than, self.keep, self.curriculum) != (None, None, None)


def choose(entries: Sequence[Entry], choice: Choice) -> list[Entry]:
    """The entries that may go, the one used longest ago first."""
    free = [entry for entry in entries if not entry.in_use]
    if choice.older_than is not None:
        free = [entry for entry in free if entry.age >= choice.older_than]
    if choice.curriculum is not None:
        free = [entry for entry in free if entry.curricula == (choice.curriculum,)]
    free.sort(key=lambda entry: (entry.last_use, entry.fingerprint))
    if choice.keep is None:
        return free
    left = sum(entry.num_bytes for entry in entries)
    chosen = []
    for entry in free:
        if left <= choice.keep:
            break
        chosen.append(entry)
        left -= entry.num_bytes
    return chosen


def why_spared(entries: Sequence[Entry], curriculum: str) -> str:
    """Why some of what a curriculum has used is not chosen by its name; empty if all of it is.

    Raises:
        UserError: no entry knows a curriculum of this name.
    """
    of_it = [entry for entry in entries if curriculum in entry.curricula]
    if not of_it:
        known = sorted({name for entry in entries for name in entry.curricula})
        what = f"no curriculum '{curriculum}' has used anything in the cache {cache.cache_root()}"
        raise fail(what, nearest(curriculum, known, "curricula in the cache"))
    busy = sum(entry.in_use for entry in of_it)
    shared = sum(not entry.in_use and len(entry.curricula) > 1 for entry in of_it)
    reasons = [f"{busy:,} in use"] * bool(busy) + [f"{shared:,} of others, too"] * bool(shared)
    return " and ".join(reasons)


def prune(entries: Sequence[Entry]) -> list[Entry]:
    """Remove entries; those that are gone. One that came into use meanwhile stays."""
    return [entry for entry in entries if cache.remove(entry.fingerprint)]
