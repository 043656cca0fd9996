"""The bands and alphabets of automata whose rules score as a corpus's windows do.

    sizes of windows of 360 tokens      \\
                                         > earth mover's distance -> nearest band of each alphabet
    sizes of random rules in every band /

Both are sizes of 1,440 bytes, 360 little-endian int32, after the same gzip -9: one scale. The
distance is between the two distributions of scores: how far a window's score lies from that of the
rule paired with it, on average, under the best pairing; in units of the score. Bands begin and end
at multiples of 0.05.

What the scale does not see is why a score is high. Ids below 256 fill one byte of four and ids
below 65,536 two, so that a larger vocabulary or alphabet scores higher whatever its structure: the
*ceiling* is what independent, equally likely ids score.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ncamix.automata import Automaton, Band, Spread, shipped_spread
from ncamix.inventory import RARE
from ncamix.measure.windows import compressed_sizes

ALPHABETS = (2, 3, 4, 6, 8, 10, 15)  # of 12 x 12 cells in 2 x 2 patches, whose spreads are shipped
STEPS = 20  # bands of 0.05
WINDOW_TOKENS = 360  # of ten frames without delimiters
WINDOW_BYTES = 4 * WINDOW_TOKENS
CEILING_WINDOWS = 200


@dataclass(frozen=True)
class Nearest:
    """A band of an alphabet: how far its rules' scores lie from a corpus's (in units of the score),
    the share of random rules that it holds, and the alphabet's ceiling."""

    alphabet: int
    band: Band
    distance: float
    share: float
    ceiling: float

    @property
    def source(self) -> str:
        """The band as a source, to be pasted into a curriculum."""
        return nca_source(self.alphabet, self.band)


def nca_source(alphabet: int, band: Band) -> str:
    """A source of automata in YAML."""
    ends = f"{float(band.low):g}, {float(band.high):g}"
    return f"{{kind: nca, alphabet: {alphabet}, band: {{gzip: [{ends}]}}}}"


def spread_of_alphabet(alphabet: int) -> Spread:
    """How the scores of an alphabet's random rules spread, from the shipped table."""
    spread = shipped_spread(Automaton(alphabet))
    assert spread is not None and spread.whole == WINDOW_BYTES
    return spread


def nearest_bands(sizes: NDArray[np.int64]) -> list[Nearest]:
    """The nearest band of each alphabet to windows of so many bytes [N], the nearest first.

    Bands that fewer than 1% of random rules reach are passed over: they are slow to generate.
    """
    found = [_nearest(sizes, alphabet) for alphabet in ALPHABETS]
    return sorted(found, key=lambda near: near.distance)


def _nearest(sizes: NDArray[np.int64], alphabet: int) -> Nearest:
    spread = spread_of_alphabet(alphabet)
    length = max(WINDOW_BYTES, int(sizes.max()), *spread.counts) + 1
    windows = np.cumsum(np.bincount(sizes, minlength=length)) / len(sizes)
    rules = np.zeros(length, np.int64)
    rules[list(spread.counts)] = list(spread.counts.values())
    below = np.concatenate([[0], np.cumsum(rules)])  # rules of fewer bytes
    best: tuple[float, float, Band] | None = None
    for i in range(STEPS):
        for j in range(i + 1, STEPS + 1):
            band = Band(Fraction(i, STEPS), Fraction(j, STEPS))
            first, end = (min(amount, length) for amount in band.amounts(WINDOW_BYTES))
            inside = below[end] - below[first]
            if inside < RARE * spread.num_rules:
                continue
            shares = (np.clip(below[1:], below[first], below[end]) - below[first]) / inside
            distance = float(np.abs(shares - windows).sum()) / WINDOW_BYTES
            # Of bands that hold the same rules, the narrowest.
            if best is None or (distance, j - i) < best[:2]:
                best = (distance, j - i, band)
    assert best is not None, "the widest band holds every rule"
    distance, _, band = best
    symbols = Automaton(alphabet).frame_start
    return Nearest(alphabet, band, distance, spread.share(band), ceiling(symbols))


def ceiling(num_ids: int) -> float:
    """Mean score of windows of independent ids, each of `num_ids` as likely; seeded."""
    rng = np.random.Generator(np.random.PCG64(0))
    ids = rng.integers(0, num_ids, (CEILING_WINDOWS, WINDOW_TOKENS), dtype=np.uint32)
    return float(compressed_sizes(ids).mean()) / WINDOW_BYTES


def authors_band(ratio: float) -> Band:
    """The band that the paper's authors would take for a text of this gzip ratio: the tenth that
    holds the ratio (code, about 0.32: 0.3 to 0.4), and all from 0.5 on (web and mathematics, 0.6 to
    0.7: 0.5 and above)."""
    tenth = int(10 * ratio)
    if tenth >= 5:
        return Band(Fraction(1, 2), Fraction(1))
    return Band(Fraction(tenth, 10), Fraction(tenth + 1, 10))
