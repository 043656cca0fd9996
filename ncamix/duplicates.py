"""Copies among documents: exact ones by digest, near ones by MinHash and bands.

    texts, in order -> XXH3 of 128 bits -> seen before? -> an exact copy
                    -> runs of SHINGLE words -> a MinHash of SLOTS slots, 8 bits kept of each
                    -> equal in one of BANDS bands with an earlier text? -> slots that agree counted
                    -> NEAR of them or more: a near copy

The first text in order stays, and those that went are never compared with. A slot of two texts
agrees with the probability of their Jaccard similarity, the share of runs that they have in common
(plus 1/256 of the rest, by chance), so NEAR slots estimate a similarity of 0.8, with a standard
error of 0.035. Of pairs whose slots agree so often, about 19 in 20 meet in a band; of those at 0.9,
all but one in ten thousand. Texts without a single word have exact copies only.

Memory: 24 to 48 bytes a text that stays, 72 for a moment while the table of digests grows. Near
copies take 256 to 384 bytes more, and up to 512 while their tables grow. The MinHash is that of the
library `rensa`, on all cores; nothing here depends on threads, processes, instruction set or
Python's hash seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

from ncamix.errors import fail
from ncamix.random import compiled
from ncamix.words import shingles

SHINGLE = 5  # words of a run
SLOTS = 128
BANDS = 16  # of 8 slots, which is 8 bytes, one word of a signature
NEAR = 103  # slots of two near copies that agree, at least: 0.8 of them
MOST_ALIKE = 16  # texts that a band remembers of those that are equal in it
SEED = 1
ALGORITHM = 2  # of rensa's MinHash: another one finds other copies
ABSENT = np.uint32(0xFFFFFFFF)


class Digests:
    """A set of 128-bit digests, in a table of open addressing: uint64 [a power of two, 2]."""

    def __init__(self) -> None:
        self.table = np.zeros((1 << 10, 2), np.uint64)
        self.num_held = 0

    def add(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Enter texts in order; which of them were there before: bool [N]."""
        digests = b"".join(xxhash.xxh3_128_digest(text.encode()) for text in texts)
        rows = np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)
        while 3 * (self.num_held + len(rows)) > 2 * len(self.table):
            old, self.table = self.table, np.zeros((2 * len(self.table), 2), np.uint64)
            enter_digests(self.table, old[old.any(axis=1)])
        known = enter_digests(self.table, rows)
        self.num_held += int(len(rows) - known.sum())
        return known


class Signatures:
    """The signatures of texts that stay, and for each band a table that finds equal ones.

    signatures: uint64 [texts, BANDS], a band each. slots: the number of a text or ABSENT, uint32
    [BANDS, a power of two].
    """

    def __init__(self) -> None:
        self.signatures = np.zeros((1 << 9, BANDS), np.uint64)
        self.slots = np.full((BANDS, 1 << 10), ABSENT)
        self.num_held = 0

    def add(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Enter texts in order, but those that are near copies; which ones are: bool [N]."""
        fresh = sign(texts)
        while self.num_held + len(fresh) > len(self.signatures):
            held, self.signatures = (
                self.signatures,
                np.zeros((2 * len(self.signatures), BANDS), "u8"),
            )
            self.signatures[: len(held)] = held
            self.slots = np.full((BANDS, 2 * len(self.signatures)), ABSENT)
            enter_bands(self.slots, self.signatures, self.num_held)
        near = np.zeros(len(texts), np.bool_)
        self.num_held = enter_signatures(self.slots, self.signatures, self.num_held, fresh, near)
        return near


def sign(texts: Sequence[str]) -> NDArray[np.uint64]:
    """Signatures of texts, uint64 [texts, BANDS]; zeros where a text has no word."""
    from rensa import RMinHash

    if RMinHash.ALGORITHM_VERSION != ALGORITHM:
        raise fail(
            f"this release of rensa has algorithm {RMinHash.ALGORITHM_VERSION} of its MinHash, and "
            f"near copies are found by algorithm {ALGORITHM}",
            "install the release that ncamix names",
        )
    runs, ends = shingles(texts, SHINGLE)
    signatures = np.zeros((len(texts), BANDS), np.uint64)
    worded = np.diff(ends) > 0
    if worded.any():
        bounds = np.append(0, ends[1:][worded]).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(runs, bounds, SLOTS, SEED)
        slots = np.array(matrix.to_rows(), np.uint32).astype(np.uint8)  # the low bits
        signatures[worded] = slots.view("<u8")
    return signatures


@compiled
def enter_digests(table: NDArray[np.uint64], rows: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Enter digests, uint64 [N, 2], into a table with empty places; which it held: bool [N].

    A digest of zeros, which an empty place is, would come back as one that it held.
    """
    last = np.uint64(len(table) - 1)
    known = np.zeros(len(rows), np.bool_)
    for i in range(len(rows)):
        high, low = rows[i]
        place = low & last
        while (table[place, 0] != high or table[place, 1] != low) and (
            table[place, 0] | table[place, 1]
        ):
            place = place + np.uint64(1) & last
        known[i] = table[place, 0] == high and table[place, 1] == low
        table[place, 0], table[place, 1] = high, low
    return known


@compiled
def place_of(band: np.uint64, last: np.uint64) -> np.uint64:
    """Where a band's search begins in a table whose last place is `last`."""
    band = (band ^ band >> np.uint64(33)) * np.uint64(0xFF51AFD7ED558CCD)
    return (band ^ band >> np.uint64(33)) & last


@compiled
def enter_bands(slots: NDArray[np.uint32], signatures: NDArray[np.uint64], num_held: int) -> None:
    """Enter the first `num_held` signatures into empty tables, band by band."""
    for text in range(num_held):
        enter(slots, signatures, text)


@compiled
def enter(slots: NDArray[np.uint32], signatures: NDArray[np.uint64], text: int) -> None:
    """Enter a signature where fewer than MOST_ALIKE are equal to it."""
    last = np.uint64(slots.shape[1] - 1)
    for b in range(BANDS):
        band = signatures[text, b]
        place, alike = place_of(band, last), 0
        while slots[b, place] != ABSENT and alike < MOST_ALIKE:
            alike += signatures[slots[b, place], b] == band
            place = place + np.uint64(1) & last
        if alike < MOST_ALIKE:
            slots[b, place] = text


@compiled
def enter_signatures(
    slots: NDArray[np.uint32],
    signatures: NDArray[np.uint64],
    num_held: int,
    fresh: NDArray[np.uint64],
    near: NDArray[np.bool_],
) -> int:
    """Enter the signatures of `fresh` that are near none entered, and mark the others in `near`.

    Signatures of zeros are passed over. Returns how many are held by then.
    """
    last = np.uint64(slots.shape[1] - 1)
    for i in range(len(fresh)):
        if not fresh[i].any():
            continue
        for b in range(BANDS):
            place = place_of(fresh[i, b], last)
            while slots[b, place] != ABSENT and not near[i]:
                text = slots[b, place]
                if signatures[text, b] == fresh[i, b]:
                    near[i] = agreeing(signatures[text], fresh[i]) >= NEAR
                place = place + np.uint64(1) & last
            if near[i]:
                break
        if not near[i]:
            signatures[num_held] = fresh[i]
            enter(slots, signatures, num_held)
            num_held += 1
    return num_held


@compiled
def agreeing(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> int:
    """Bytes that two signatures have in common."""
    count = 0
    for b in range(BANDS):
        difference = one[b] ^ other[b]
        for shift in range(0, 64, 8):
            count += (difference >> np.uint64(shift)) & np.uint64(0xFF) == 0
    return count
