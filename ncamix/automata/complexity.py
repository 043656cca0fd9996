"""Complexity of rules: measures of their frames, bands of scores, and how random rules spread.

    frames [N, 10, cells] -> amounts [N]: compressed bytes, or cells that change
    amount / whole = score, in a Band or not
    random rules -> Spread: amounts -> rules -> share of a band, score of a quantile

Scores are ratios of whole numbers, so a band is decided in whole numbers. The spread of common
settings is shipped as data (bands.json) and answers without compiled code.
"""

from __future__ import annotations

import functools
import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ncamix.automata.rule import Automaton

MEASURES = ("gzip", "zstd", "change_rate")
SCORED_FRAMES = 10
COUNTED_BYTES = 16_380  # above, sizes of gzip are the machine's zlib's
SPREAD_RULES = 4000  # random rules that a spread is measured on
ROUND_RULES = 500  # scored between two words on the progress
ZSTD_LEVEL = 3
TABLE = Path(__file__).with_name("bands.json")
UNLIMITED = 1 << 62
# Names of a spread in JSON, by measure: what a score is a share of, and what is counted.
NAMES = {
    "gzip": ("serialized_bytes", "compressed_byte_counts"),
    "zstd": ("serialized_bytes", "compressed_byte_counts"),
    "change_rate": ("compared_cells", "changed_cell_counts"),
}


@dataclass(frozen=True)
class Band:
    """The interval [low, high) of a measure's scores; an upper end of 1 has nothing above it.

    Ends are exact: a float counts as the decimal that it prints as.

    Raises:
        ValueError: an unknown measure, or not 0 <= low < high <= 1.
    """

    low: Fraction | float
    high: Fraction | float
    measure: str = "gzip"

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"measure must be one of {', '.join(MEASURES)}, not {self.measure!r}")
        for end in ("low", "high"):
            value = getattr(self, end)
            exact = Fraction(repr(float(value)) if isinstance(value, float) else value)
            object.__setattr__(self, end, exact)
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"a band needs 0 <= low < high <= 1, not {self}")

    def amounts(self, whole: int) -> tuple[int, int]:
        """The amounts [first, end) whose share of `whole` lies in the band."""
        end = -int(-self.high * whole // 1) if self.high < 1 else UNLIMITED
        return -int(-self.low * whole // 1), end

    def __str__(self) -> str:
        return f"{self.measure} {float(self.low):.2f}-{float(self.high):.2f}"


@dataclass(frozen=True)
class Spread:
    """How the scores of random rules spread: `counts` maps an amount to the rules that have it."""

    automaton: Automaton
    measure: str
    counts: Mapping[int, int]

    @property
    def num_rules(self) -> int:
        return sum(self.counts.values())

    @property
    def whole(self) -> int:
        """What an amount is a share of: bytes of the tokens, or cells compared."""
        return whole(self.automaton, self.measure)

    def share(self, band: Band) -> float:
        """Share of the rules whose score lies in a band of the same measure."""
        assert band.measure == self.measure
        first, end = band.amounts(self.whole)
        return sum(n for amount, n in self.counts.items() if first <= amount < end) / self.num_rules

    def shares(self, num_bands: int = 10) -> list[float]:
        """Shares of equal bands from 0 to 1."""
        ends = [Fraction(k, num_bands) for k in range(num_bands + 1)]
        return [
            self.share(Band(*ends_of, self.measure))
            for ends_of in zip(ends, ends[1:], strict=False)
        ]

    def quantile(self, q: Fraction) -> Fraction:
        """The least score that more than a share q of the rules do not exceed; 0 and 1 at the ends.

        It is the inverse of the distribution function. Rules of one score stay together, and bands
        between consecutive quantiles hold every rule once.
        """
        if q >= 1:
            return Fraction(1)
        below = 0
        for amount, n in sorted(self.counts.items()):
            below += n
            if below > q * self.num_rules:
                return Fraction(amount, self.whole) if q > 0 else Fraction(0)
        raise AssertionError("a share below one is exceeded at the last amount")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; the names of the two counts say what is counted."""
        whole_name, counts_name = NAMES[self.measure]
        return {
            "automaton": {**asdict(self.automaton), "grid": list(self.automaton.grid)},
            "measure": self.measure,
            "rules": self.num_rules,
            whole_name: self.whole,
            counts_name: {str(amount): n for amount, n in sorted(self.counts.items())},
        }


def spread_from_json(automaton: Automaton, entry: Mapping[str, Any]) -> Spread:
    """A spread from its JSON.

    Raises:
        LookupError, TypeError, ValueError: it is not one.
    """
    measure = entry["measure"]
    counts = {int(amount): int(n) for amount, n in entry[NAMES[measure][1]].items()}
    return Spread(automaton, measure, counts)


@functools.cache
def shipped_spread(automaton: Automaton, measure: str = "gzip") -> Spread | None:
    """The spread of common settings, from the table; None for others."""
    settings = {**asdict(automaton), "grid": list(automaton.grid)}
    for entry in _table():
        if entry["automaton"] == settings and entry["measure"] == measure:
            return spread_from_json(automaton, entry)
    return None


def whole(automaton: Automaton, measure: str) -> int:
    """What a score is a share of: bytes of ten frames' tokens as int32, or cells compared."""
    if measure == "change_rate":
        return (SCORED_FRAMES - 1) * automaton.grid[0] * automaton.grid[1]
    return 4 * SCORED_FRAMES * automaton.patches_per_frame


def scored_steps(automaton: Automaton) -> int:
    """Steps of a scored rollout: burn-in, and from the first to the last scored frame."""
    return automaton.burn_in + (SCORED_FRAMES - 1) * automaton.stride


def measure_frames(
    automaton: Automaton, measure: str, frames: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Amounts int64 [N] of frames [N, 10, cells].

    gzip, zstd: size of the patch tokens without delimiters, laid out as little-endian int32, after
    `gzip -9` (18 bytes of header and trailer counted, as in the paper) or zstd at level 3.
    change_rate: cells that differ from the frame before.
    """
    if measure == "change_rate":
        return np.count_nonzero(frames[:, 1:] != frames[:, :-1], axis=(1, 2)).astype(np.int64)
    from ncamix.automata.tokens import tokenize

    tokens = np.empty((len(frames), SCORED_FRAMES * automaton.patches_per_frame), np.uint32)
    tokenize(frames, automaton.grid[1], automaton.patch, automaton.alphabet, False, tokens)
    if measure == "zstd":
        import zstandard

        compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        return np.array([len(compressor.compress(row.astype("<u4").tobytes())) for row in tokens])
    return gzip_sizes(tokens)


def gzip_sizes(tokens: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Size of each row of tokens [N, T] as little-endian int32 after `gzip -9`: int64 [N] bytes."""
    from ncamix.automata import deflate

    if 4 * tokens.shape[1] > COUNTED_BYTES:  # 31: gzip's header and trailer
        packed = [zlib.compress(row.astype("<u4").tobytes(), 9, wbits=31) for row in tokens]
        return np.array([len(data) for data in packed], np.int64)
    sizes = np.empty(len(tokens), np.int64)
    deflate.gzip_sizes(tokens, sizes)
    return sizes


def measure_spread(
    automaton: Automaton,
    measure: str = "gzip",
    num_rules: int = SPREAD_RULES,
    seed: int = 0,
    num_threads: int | None = None,
    told: Callable[[float], None] = lambda share: None,
) -> Spread:
    """The spread of `num_rules` random rules; the same everywhere for the same seed.

    told: the share of the rules that is scored, from time to time.

    Raises:
        ValueError: no rules, or an unknown measure.
    """
    if num_rules < 1:
        raise ValueError(f"a spread needs at least one rule, not {num_rules}")
    counts: Counter[int] = Counter()
    for first in range(0, num_rules, ROUND_RULES):
        size = min(ROUND_RULES, num_rules - first)
        amounts = automaton.amounts(
            seed, size, measure=measure, first=first, num_threads=num_threads
        )
        counts.update(amounts.tolist())
        told((first + size) / num_rules)
    return Spread(automaton, measure, dict(counts))


@functools.cache
def _table() -> list[dict[str, Any]]:
    return list(json.loads(TABLE.read_text("utf-8")))
