"""Permutations: keyed shuffles of any size, and lists dealt out evenly like cards.

    (index, size, key)   -> shuffled index, without a table
    (list length, hands) -> which places of the list each hand gets

Both are frozen: which sample stands where follows from them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ncamix.keys import derive_key
from ncamix.random import compiled

_ROUNDS = 6


def permute(index: NDArray[np.int64], size: int, key: int) -> NDArray[np.int64]:
    """A keyed permutation of 0 .. size - 1, evaluated at `index`, int64 [n].

    A Feistel network over the next even number of bits; values that fall outside walk on until they
    fall inside (Black and Rogaway 2002).
    """
    half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
    value = index.astype(np.uint64)
    _walk(value, np.uint64(size), np.uint64(half), _round_keys(key))
    return value.view(np.int64)


@lru_cache(maxsize=1024)
def _round_keys(key: int) -> NDArray[np.uint64]:
    return np.array([derive_key("round", key, r) for r in range(_ROUNDS)], np.uint64)


@compiled
def _walk(
    value: NDArray[np.uint64], size: np.uint64, half: np.uint64, keys: NDArray[np.uint64]
) -> None:
    """Permute each of `value` in place. The mixing is SplitMix64's (Steele, Lea and Flood 2014)."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    for i in range(len(value)):
        x = value[i]
        while True:
            left, right = x >> half, x & mask
            for key in keys:
                y = right ^ key
                y = (y ^ (y >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                y = (y ^ (y >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                left, right = right, left ^ ((y ^ (y >> np.uint64(31))) & mask)
            x = (left << half) | right
            if x < size:
                break
        value[i] = x


@lru_cache(maxsize=64)
def interleave(total: int) -> NDArray[np.int64]:
    """Places of a list of `total`, int64 [total], dealt out like cards.

    Digits of the place, over the prime factors of `total`, are reversed. A half, a quarter, an
    eighth (while they divide `total`) then takes every second, fourth, eighth of the list, so it
    holds its part of any stretch of the list to within one.
    """
    factors, rest, factor = [], total, 2
    while rest > 1:
        while rest % factor == 0:
            factors.append(factor)
            rest //= factor
        factor += 1
    places = np.arange(total, dtype=np.int64).reshape(factors[::-1]).T.ravel()
    places.setflags(write=False)
    return places


@lru_cache(maxsize=64)
def deal(total: int, hands: int) -> NDArray[np.int64]:
    """Places of a list of `total` that each of `hands` gets, int64 [hands, total // hands].

    Each takes every `hands`-th place, so any stretch of the list is shared to within one. No order
    of the whole list does that for halves and thirds at once; where `interleave` does it for
    `hands`, this is `interleave(total)`.
    """
    places = interleave(hands)[:, None] + hands * interleave(total // hands)
    places.setflags(write=False)
    return places
