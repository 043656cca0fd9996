"""Words of a text as numbers: every run of so many words becomes one 64-bit hash (compiled, numba).

    text -> UTF-8 -> words: longest runs of ASCII letters, ASCII digits and bytes >= 0x80,
    letters in lower case -> FNV-1a of each word -> a rolling polynomial over `size` words, mixed

What stands between words does not count, so layout and punctuation change nothing. Bytes of other
scripts are all word characters: what is written without spaces is one word up to the next ASCII
sign. The same text gives the same hashes on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ncamix.random import compiled
from ncamix.threads import spread

OFFSET, PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)  # of FNV-1a
BASE = np.uint64(0x9E3779B97F4A7C15)  # of the polynomial, odd
MIX_1, MIX_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)  # of MurmurHash3
_33 = np.uint64(33)


def _lowered() -> NDArray[np.uint8]:
    """Each byte in lower case, and 0 for those that are no part of a word."""
    table = np.zeros(256, np.uint8)
    for byte in range(256):
        if byte >= 0x80 or chr(byte).isalnum():
            table[byte] = ord(chr(byte).lower()) if byte < 0x80 else byte
    return table


LOWERED = _lowered()


def grams(text: str, size: int) -> NDArray[np.uint64]:
    """Hashes of all runs of `size` words of a text in order, repeated ones too: uint64 [N].

    N is the number of words less size - 1, or 0.
    """
    data = np.frombuffer(text.encode(), np.uint8)
    out = scratch(len(data))
    num_words, _ = hash_grams(data, size, out)
    return out[: max(0, num_words - size + 1)]


def shingles(texts: Sequence[str], size: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The runs of each text as `grams`, one behind the other: uint64 [N], and their ends: int64
    [texts + 1], from 0. A text of 1 to `size` - 1 words has one run, of all of them.
    """
    encoded = [text.encode() for text in texts]
    sizes = np.array([0, *map(len, encoded)])
    data, bounds = np.frombuffer(b"".join(encoded), np.uint8), sizes.cumsum()
    found: dict[int, NDArray[np.uint64]] = {}
    counts = np.zeros(len(texts) + 1, np.int64)

    def work(block: slice) -> None:
        starts = bounds[block.start : block.stop + 1]
        out = np.empty((starts[-1] - starts[0]) // 2 + 3 * (len(starts) + 1), np.uint64)
        counted = counts[block.start + 1 : block.stop + 1]
        found[block.start] = out[: hash_shingles(data, starts, size, out, counted)]

    spread(work, len(texts), largest_block=1 << 10)
    runs = [found[start] for start in sorted(found)]
    return np.concatenate([np.empty(0, np.uint64), *runs]), counts.cumsum()


def scratch(num_bytes: int) -> NDArray[np.uint64]:
    """Room for the hashes of a text of so many bytes."""
    return np.empty(num_bytes // 2 + 3, np.uint64)


@compiled
def mixed(value: np.uint64) -> np.uint64:
    """A bijection of 64-bit numbers after which every bit depends on all (MurmurHash3)."""
    value = (value ^ value >> _33) * MIX_1
    value = (value ^ value >> _33) * MIX_2
    return value ^ value >> _33


@compiled
def hash_grams(
    data: NDArray[np.uint8], size: int, out: NDArray[np.uint64]
) -> tuple[int, np.uint64]:
    """Number of words in uint8 [bytes], and the hash of the last `size` of them (of all, if fewer).

    The hashes of all runs of `size` words go to the begin of `out`, which is `scratch`.
    """
    word, inside, num_words = OFFSET, np.uint8(0), 0
    for i in range(len(data)):  # without a branch: where words end, no processor can foresee
        byte = LOWERED[data[i]]
        out[num_words + 1] = word
        num_words += (byte == 0) & (inside != 0)
        word = (word ^ np.uint64(byte)) * PRIME if byte else OFFSET
        inside = byte
    if inside:
        num_words += 1
        out[num_words] = word
    gram, power = np.uint64(0), np.uint64(1)
    for i in range(num_words):
        out[i + 1] = mixed(out[i + 1])
    for i in range(min(size, num_words)):
        gram = gram * BASE + out[i + 1]
        power *= BASE
    if num_words >= size:
        out[0] = mixed(gram)
    for i in range(size, num_words):  # word i - size leaves its place to the run that follows it
        gram = gram * BASE + out[i + 1] - out[i - size + 1] * power
        out[i - size + 1] = mixed(gram)
    return num_words, mixed(gram)


@compiled
def hash_shingles(
    data: NDArray[np.uint8],
    bounds: NDArray[np.int64],
    size: int,
    out: NDArray[np.uint64],
    counts: NDArray[np.int64],
) -> int:
    """Write the runs of texts, which lie between `bounds` in `data`, into `out`, one text behind
    the other; the runs of each: `counts`, int64 [texts]; of all of them: what is returned."""
    end = 0
    for i in range(len(counts)):
        num_words, whole = hash_grams(data[bounds[i] : bounds[i + 1]], size, out[end:])
        counts[i] = max(0, num_words - size + 1)
        if 0 < num_words < size:
            out[end], counts[i] = whole, 1
        end += counts[i]
    return end
