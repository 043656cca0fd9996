"""Source kind `noise`: independent symbols, uniform or Zipf distributed. A control: no structure.

Symbol k of `symbols` is drawn with probability proportional to 1 / (k + 1)**exponent (uniform:
exponent 0), for any decimal exponent:

    exponent -> weights, 40 digits -> cumulative, whole numbers of 2**-62 -> symbols by inversion

Every step is exact or correctly rounded, so the same on every platform.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from math import isqrt
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ncamix.keys import derive_key, fingerprint
from ncamix.quantities import Exact, Positive, Within, refuse
from ncamix.sources.base import Generator, LeafSource, Meaning
from ncamix.threads import spread

MAX_SYMBOLS = 1 << 20
DRAW_BITS = 62  # of a random draw: thresholds fit 64-bit integers, signed ones too
DIGITS = 40  # of weights: a threshold is the true one unless that is within 1e-14 of a whole number


class NoiseSource(LeafSource):
    """YAML keys of `kind: noise`. `exponent` is for zipf."""

    version: ClassVar[int] = 2

    kind: Literal["noise"] = Field(description="Independent symbols: a control without structure.")
    distribution: Literal["uniform", "zipf"] = Field(
        "uniform", description="How likely symbols are: all alike, or by rank."
    )
    exponent: (
        Annotated[Exact, Within(0, 4, "outside 0 to 4", "write a number such as 1 or 1.07")] | None
    ) = Field(None, description="zipf: symbol k has a weight of 1 / k**exponent; 1 if not given.")
    symbols: Annotated[
        Positive, Within(1, MAX_SYMBOLS, f"more than {MAX_SYMBOLS:,} symbols", "use fewer")
    ] = Field(4096, description="Number of symbols, which are ids.")

    @model_validator(mode="after")
    def _check(self) -> NoiseSource:
        if self.exponent is not None and self.distribution == "uniform":
            what = "uniform noise has no exponent"
            raise refuse(what, "write distribution: zipf", ("exponent",))
        return self

    def power(self) -> Fraction:
        """The exponent in force: 0 for uniform noise, 1 for zipf unless given."""
        if self.distribution == "uniform":
            return Fraction(0)
        return Fraction(1) if self.exponent is None else self.exponent

    def range_name(self) -> str:
        return f"noise {self.symbols}"

    def num_ids(self) -> int:
        return self.symbols

    def own_meaning(self) -> Meaning:
        return {
            "kind": "noise",
            "version": self.version,
            "symbols": self.symbols,
            "exponent": str(self.power()),
        }

    def own_summary(self) -> str:
        shape = "uniform" if not self.power() else f"zipf {float(self.power()):g}"
        return f"noise, {shape}, {self.symbols:,} symbols"


@lru_cache(maxsize=8)  # a million symbols take seconds, and every shard asks
def inversion(symbols: int, exponent: str) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Tables that turn draws of DRAW_BITS random bits into symbols, by inversion.

    Thresholds, uint64 [symbols], are cumulative probabilities in units of 2**-DRAW_BITS, rounded
    down; the symbol of a draw is the least whose threshold exceeds it. The guide, uint32 [2**g]
    with 2**g > symbols, holds the symbol of the least draw that begins with given g bits: looking
    from there upwards takes under one step on average, whatever the distribution (Chen and Asau
    1974).
    """
    with localcontext(Context(prec=DIGITS, rounding=ROUND_HALF_EVEN)):
        running = list(accumulate(_weights(symbols, Fraction(exponent))))
        total, unit = running[-1], 1 << DRAW_BITS
        thresholds = np.array([int(weight / total * unit) for weight in running], np.uint64)
    guide_bits = symbols.bit_length()
    least_draws = np.arange(1 << guide_bits, dtype=np.uint64) << np.uint64(DRAW_BITS - guide_bits)
    guide = np.searchsorted(thresholds, least_draws, side="right")
    return thresholds, guide.astype(np.uint32)


def _weights(symbols: int, exponent: Fraction) -> list[Decimal]:
    """1 / k**exponent for k = 1 .. symbols, in the decimal context in force."""
    if exponent.denominator == 1:
        return [1 / Decimal(k**exponent.numerator) for k in range(1, symbols + 1)]
    power = Decimal(exponent.numerator) / exponent.denominator
    least_factor = np.arange(symbols + 1)
    for p in range(isqrt(symbols), 1, -1):
        least_factor[p * p :: p] = p
    weights = [Decimal(1)]  # a composite's is the product of its factors'
    for k, p in enumerate(least_factor[2:].tolist(), start=2):
        if p == k:
            weights.append((-power * Decimal(k).ln()).exp())
        else:
            weights.append(weights[p - 1] * weights[k // p - 1])
    return weights


@dataclass(frozen=True)
class NoiseGenerator(Generator):
    """Samples of a `noise` source from its full meaning."""

    def drawn(self, first: int, count: int, num_threads: int | None) -> NDArray[np.uint32]:
        from ncamix.sources.kernels import draw_symbols

        symbols = self.meaning["symbols"]
        thresholds, guide = inversion(symbols, self.meaning["exponent"])
        guide_bits = symbols.bit_length()
        key = np.uint64(derive_key("noise", fingerprint(self.meaning)))
        samples = np.empty((count, self.meaning["sequence_length"] + 1), np.uint32)

        def draw(rows: slice) -> None:
            block = samples[rows]
            draw_symbols(key, first + rows.start, thresholds, guide, DRAW_BITS, guide_bits, block)
            block += np.uint32(self.meaning["first_id"])

        spread(draw, count, num_threads)
        return samples
