"""Compiled loops of sources: key, sample numbers -> ids, or ids in another order; integers only.

Position j of sample i is made of the four random words at (key, stream i, row 0, column j), and of
what the sample holds before it. Samples first, first + 1, ... go to the rows of `out`, uint32
[N, length]; ids begin at 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ncamix.random import BITS32, below, compiled, philox

ROW = np.uint64(0)


@compiled
def draw_symbols(
    key: np.uint64,
    first: int,
    thresholds: NDArray[np.uint64],
    guide: NDArray[np.uint32],
    draw_bits: int,
    guide_bits: int,
    out: NDArray[np.uint32],
) -> None:
    """Independent symbols, by inversion.

    The symbol of a draw, `draw_bits` random bits, is the least whose threshold exceeds it.
    thresholds, uint64 [symbols], rise to 2**draw_bits. guide, uint32 [2**guide_bits], holds the
    symbol of the least draw that begins with given bits: the search goes upwards from there.
    """
    discarded, rest = np.uint64(64 - draw_bits), np.uint64(draw_bits - guide_bits)
    draws = np.empty(out.shape[1], np.uint64)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):  # a loop of its own, so that look-ups below overlap
            a, b, _, _ = philox(key, np.uint64(first + i), ROW, np.uint64(j))
            draws[j] = (a | b << BITS32) >> discarded
        for j in range(out.shape[1]):
            symbol = guide[draws[j] >> rest]
            symbol += np.uint32(thresholds[symbol] <= draws[j])  # one step without a branch
            while thresholds[symbol] <= draws[j]:
                symbol += np.uint32(1)
            out[i, j] = symbol


@compiled
def walk(
    key: np.uint64,
    stream: np.uint64,
    column: np.uint64,
    depth: int,
    climbing: bool,
    low: int,
    high: int,
    p_open: np.uint64,
) -> tuple[bool, bool, np.uint64]:
    """Whether a bracket opens at a depth, whether the walk climbs to `low`, and 64 random bits.

    From depth 0, `low` brackets open in a row; at depth `high`, one closes; otherwise one opens
    with probability p_open / 2**64.
    """
    a, b, c, d = philox(key, stream, ROW, column)
    climbing = depth == 0 or (climbing and depth < low)
    opens = climbing or (depth < high and (a | b << BITS32) < p_open)
    return opens, climbing, c | d << BITS32


@compiled
def nest_brackets(
    key: np.uint64,
    first: int,
    symbols: np.uint64,
    low: int,
    high: int,
    p_open: np.uint64,
    out: NDArray[np.uint32],
) -> None:
    """Nested brackets: symbol s opens as id s, and the last opened closes as id symbols + s.

    Depths go as `walk` says. Every symbol is as likely to open.
    """
    stack = np.empty(min(high, out.shape[1]), np.uint64)
    for i in range(out.shape[0]):
        depth, climbing = 0, False
        for j in range(out.shape[1]):
            opens, climbing, bits = walk(
                key, np.uint64(first + i), np.uint64(j), depth, climbing, low, high, p_open
            )
            if opens:
                stack[depth] = out[i, j] = below(bits, symbols)
                depth += 1
            else:
                depth -= 1
                out[i, j] = stack[depth] + symbols


@compiled
def shuffle_brackets(
    key: np.uint64,
    first: int,
    symbols: np.uint64,
    low: int,
    high: int,
    p_open: np.uint64,
    out: NDArray[np.uint32],
) -> None:
    """As `nest_brackets`, but every symbol that is open is as likely to close."""
    count = np.zeros(symbols, np.int64)  # of each symbol, open
    open_symbols = np.empty(min(high, out.shape[1]), np.uint64)  # each once
    num_open = 0
    for i in range(out.shape[0]):
        count[open_symbols[:num_open]] = 0
        depth, num_open, climbing = 0, 0, False
        for j in range(out.shape[1]):
            opens, climbing, bits = walk(
                key, np.uint64(first + i), np.uint64(j), depth, climbing, low, high, p_open
            )
            if opens:
                symbol = below(bits, symbols)
                if count[symbol] == 0:
                    open_symbols[num_open] = symbol
                    num_open += 1
                count[symbol] += 1
                depth += 1
                out[i, j] = symbol
            else:
                place = below(bits, np.uint64(num_open))
                symbol = open_symbols[place]
                count[symbol] -= 1
                if count[symbol] == 0:
                    num_open -= 1
                    open_symbols[place] = open_symbols[num_open]
                depth -= 1
                out[i, j] = symbol + symbols


@compiled
def shuffle_runs(key: np.uint64, first: int, size: int, samples: NDArray[np.uint32]) -> None:
    """Put the runs of `size` ids that make up each sample into a random order, in place.

    samples, uint32 [N, length]; less than a run at their ends stays (Fisher and Yates). The 64 bits
    that place run k are half of the words at (key, sample, row 0, column k // 2).
    """
    num_runs = samples.shape[1] // size
    draws = np.empty(num_runs + num_runs % 2, np.uint64)
    for i in range(samples.shape[0]):
        for pair in range(len(draws) // 2):  # a loop of its own, as above
            a, b, c, d = philox(key, np.uint64(first + i), ROW, np.uint64(pair))
            draws[2 * pair], draws[2 * pair + 1] = a | b << BITS32, c | d << BITS32
        for k in range(num_runs - 1, 0, -1):
            other = np.int64(below(draws[k], np.uint64(k + 1)))
            for j in range(size):
                here, there = k * size + j, other * size + j
                samples[i, here], samples[i, there] = samples[i, there], samples[i, here]
