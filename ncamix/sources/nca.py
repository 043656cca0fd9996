"""Source kind `nca`: rollouts of random neural cellular automata in a complexity band.

Each sample is one rollout of one rule, cut to length. The rule is the first candidate of its slot
whose complexity score lies in the band; candidates are keyed by the automaton and the seed alone,
so all bands of one automaton share them and their scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainValidator, WithJsonSchema, model_validator

from ncamix.automata import MEASURES, VERSION, Automaton, Band
from ncamix.bands import measure_version, quantile_band
from ncamix.errors import nearest
from ncamix.keys import derive_key, fingerprint
from ncamix.quantities import Exact, Positive, Whole, refuse
from ncamix.sources.base import Generator, Meaning, SourceSpec


@dataclass(frozen=True)
class Quantiles:
    """The band of gzip scores between two quantiles of an automaton's random rules: [low, high)."""

    low: Fraction
    high: Fraction

    def __str__(self) -> str:
        return f"quantile {float(self.low):.2f}-{float(self.high):.2f}"


def _band(written: Any) -> Band | Quantiles:
    example = "write {gzip: [0.30, 0.40]}"
    if not isinstance(written, dict) or len(written) != 1:
        raise refuse("a band is one measure and its interval", example)
    ((measure, interval),) = written.items()
    names = (*MEASURES, "quantile")
    if measure not in names:
        raise refuse(f"unknown measure '{measure}'", nearest(str(measure), names), (measure,))
    if not isinstance(interval, list) or len(interval) != 2:
        raise refuse("a band's interval is [low, high]", example, (measure,))
    if not all(isinstance(x, int | Decimal) and not isinstance(x, bool) for x in interval):
        raise refuse("a band's ends are numbers (ratios, not percentages)", example, (measure,))
    low, high = Fraction(interval[0]), Fraction(interval[1])
    if not 0 <= low <= 1 or not 0 <= high <= 1:
        raise refuse(
            f"the band [{float(low):g}, {float(high):g}) does not lie between 0 and 1",
            example,
            (measure,),
        )
    if low >= high:
        raise refuse(
            f"the band [{float(low):g}, {float(high):g}) is "
            + ("empty" if low == high else "reversed"),
            "write the lower end first, and a higher one behind it",
            (measure,),
        )
    return Quantiles(low, high) if measure == "quantile" else Band(low, high, measure)


def _grid(written: Any) -> tuple[int, int]:
    sides = [written, written] if isinstance(written, int) else written
    if (
        not isinstance(sides, list)
        or len(sides) != 2
        or not all(isinstance(s, int) and not isinstance(s, bool) and 3 <= s <= 256 for s in sides)
    ):
        raise refuse("a grid is a side or [height, width], 3 to 256 cells", "write 12 or [12, 16]")
    return (sides[0], sides[1])


def _rules(written: Any) -> int | None:
    if written == "fresh":
        return None
    if isinstance(written, int) and not isinstance(written, bool) and 1 <= written <= 1 << 40:
        return written
    raise refuse("not a pool of rules", "write fresh, or a whole number of rules, at most 2**40")


class NcaSource(SourceSpec):
    """YAML keys of `kind: nca`; the defaults are the paper's."""

    version: ClassVar[int] = VERSION

    kind: Literal["nca"]
    alphabet: Positive = 10
    band: Annotated[Band | Quantiles, PlainValidator(_band), WithJsonSchema({"type": "object"})]
    grid: Annotated[tuple[int, int], PlainValidator(_grid)] = (12, 12)
    patch: Positive = 2
    burn_in: Whole = 10
    stride: Positive = 1
    temperature: Exact = Fraction(1, 10_000)
    identity_bias: Exact = Fraction(0)
    rules: Annotated[int | None, PlainValidator(_rules)] = None
    loss_from_frame: Whole = 1

    @model_validator(mode="after")
    def _check(self) -> NcaSource:
        try:
            symbols = self.automaton.num_symbols
        except ValueError as error:
            raise refuse(str(error), "change alphabet, grid, patch or temperature") from None
        if symbols > 1 << 22:
            raise refuse(
                f"{self.alphabet} states in {self.patch}x{self.patch} patches make {symbols:,} "
                "symbols",
                "use a smaller alphabet or patch (at most 4,194,304 symbols)",
            )
        return self

    @property
    def automaton(self) -> Automaton:
        return Automaton(
            alphabet=self.alphabet,
            grid=self.grid,
            patch=self.patch,
            temperature=float(self.temperature),
            identity_bias=float(self.identity_bias),
            burn_in=self.burn_in,
            stride=self.stride,
        )

    def range_name(self) -> str:
        return f"nca {self.alphabet} states {self.patch}x{self.patch}"

    def num_ids(self) -> int:
        return self.automaton.num_symbols

    def loss_start(self) -> int:
        return max(1, self.loss_from_frame * self.automaton.tokens_per_frame)

    @property
    def measure(self) -> str:
        """The measure that decides: quantiles are of gzip scores."""
        return self.band.measure if isinstance(self.band, Band) else "gzip"

    def scored_band(self) -> Band | None:
        """The band of scores, quantiles looked up; None if no score lies between them."""
        if isinstance(self.band, Band):
            return self.band
        return quantile_band(self.automaton, self.band.low, self.band.high)

    def meaning(self) -> Meaning:
        band = self.scored_band()
        assert band is not None, "a plan refuses quantiles without a score between them"
        measure = [band.measure, measure_version(self.automaton, band.measure)]
        return {
            "kind": "nca",
            "version": self.version,
            "alphabet": self.alphabet,
            "band": [*filter(None, measure), str(band.low), str(band.high)],
            "grid": list(self.grid),
            "patch": self.patch,
            "burn_in": self.burn_in,
            "stride": self.stride,
            "temperature": str(self.temperature),
            "identity_bias": str(self.identity_bias),
            "rules": self.rules,
        }

    def summary(self) -> str:
        pool = f", {self.rules:,} rules" if self.rules else ""
        return f"nca, {self.alphabet} states, {self.band}{pool}"


@dataclass(frozen=True)
class NcaGenerator(Generator):
    """Samples of an `nca` source from its full meaning."""

    def automaton(self) -> Automaton:
        m = self.meaning
        return Automaton(
            alphabet=m["alphabet"],
            grid=tuple(m["grid"]),
            patch=m["patch"],
            temperature=float(Fraction(m["temperature"])),
            identity_bias=float(Fraction(m["identity_bias"])),
            burn_in=m["burn_in"],
            stride=m["stride"],
        )

    def rules_key(self) -> int:
        """Key of the candidate rules: all bands of one automaton and seed share it."""
        m = self.meaning
        shared = {
            k: m[k]
            for k in (
                "version",
                "alphabet",
                "grid",
                "patch",
                "burn_in",
                "stride",
                "temperature",
                "identity_bias",
            )
        }
        return derive_key("rules", m["seed"], fingerprint(shared))

    def grid_key(self) -> int:
        """Key of the initial grids: the source's own."""
        return derive_key("grids", fingerprint(self.meaning))

    def band(self) -> Band:
        """The band that the rules' scores lie in."""
        measure, *_, low, high = self.meaning["band"]
        return Band(Fraction(low), Fraction(high), measure)

    def samples(self, first: int, count: int, num_threads: int | None = None) -> NDArray[np.uint32]:
        local = self.automaton().samples(
            self.rules_key(),
            self.band(),
            count,
            self.meaning["sequence_length"] + 1,
            first=first,
            grid_seed=self.grid_key(),
            pool=self.meaning["rules"],
            num_threads=num_threads,
        )
        return local + np.uint32(self.meaning["first_id"])

    def frames(self, num_rules: int, num_frames: int) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Rollouts of the first rules, uint8 [num_rules, num_frames, height, width], and scores of
        those rules, float64 [num_rules]."""
        automaton, slots = self.automaton(), np.arange(num_rules, dtype=np.int64)
        attempts, scores = automaton.find_rules(self.rules_key(), self.band(), slots)
        rules = automaton.rules(self.rules_key(), slots, attempts)
        return automaton.rollout(rules, num_frames, seed=self.grid_key()), scores
