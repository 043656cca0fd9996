"""Source kind `noise`: independent symbols, uniform or Zipf distributed. A control: no structure.

Symbol k of `symbols` is drawn with probability proportional to 1 / (k + 1)**exponent (uniform:
exponent 0). Draws are counter-based: Philox keyed by the source, with the sample number as counter.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import isqrt
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from ncamix.keys import derive_key, fingerprint
from ncamix.quantities import Exact, Positive, refuse
from ncamix.sources.base import Generator, Meaning, SourceSpec


class NoiseSource(SourceSpec):
    """YAML keys of `kind: noise`. `exponent` is a multiple of 1/2, for zipf."""

    version: ClassVar[int] = 1

    kind: Literal["noise"]
    distribution: Literal["uniform", "zipf"] = "uniform"
    exponent: Exact | None = None
    symbols: Positive = 4096

    @model_validator(mode="after")
    def _check(self) -> NoiseSource:
        if self.exponent is not None and self.distribution == "uniform":
            raise refuse("uniform noise has no exponent", "write distribution: zipf")
        if self.exponent is not None and (2 * self.exponent).denominator != 1:
            raise refuse("not a multiple of 0.5", "write 0.5, 1, 1.5 ...", ("exponent",))
        if self.exponent is not None and not 0 <= self.exponent <= 4:
            raise refuse("outside 0 to 4", "write 0.5, 1, 1.5 ...", ("exponent",))
        if self.symbols > 1 << 20:
            raise refuse("more than 1,048,576 symbols", "use fewer", ("symbols",))
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

    def meaning(self) -> Meaning:
        return {
            "kind": "noise",
            "version": self.version,
            "symbols": self.symbols,
            "exponent": str(self.power()),
        }

    def summary(self) -> str:
        shape = "uniform" if not self.power() else f"zipf {float(self.power()):g}"
        return f"noise, {shape}, {self.symbols:,} symbols"


@lru_cache(maxsize=8)  # a million symbols take seconds, and every shard asks
def thresholds(symbols: int, exponent: str) -> NDArray[np.uint64]:
    """Cumulative probabilities as 62-bit integers, uint64 [symbols]; exact integer maths."""
    twice = int(2 * Fraction(exponent))
    unit = 1 << 96
    weights = [unit * unit // isqrt((k + 1) ** twice * unit * unit) for k in range(symbols)]
    total, running, bounds = sum(weights), 0, []
    for weight in weights:
        running += weight
        bounds.append((running << 62) // total)
    return np.array(bounds, np.uint64)


@dataclass(frozen=True)
class NoiseGenerator(Generator):
    """Samples of a `noise` source from its full meaning."""

    def samples(self, first: int, count: int, num_threads: int | None = None) -> NDArray[np.uint32]:
        bounds = thresholds(self.meaning["symbols"], self.meaning["exponent"])
        length = self.meaning["sequence_length"] + 1
        key = derive_key("noise", fingerprint(self.meaning))
        out = np.empty((count, length), np.uint32)
        for row in range(count):  # each sample owns 2**64 counter steps of its keyed stream
            bits = np.random.Philox(key=key, counter=[0, first + row, 0, 0])
            draws = bits.random_raw(length) >> np.uint64(2)
            out[row] = np.searchsorted(bounds, draws, side="right")
        return out + np.uint32(self.meaning["first_id"])
