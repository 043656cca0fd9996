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
from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from ncamix.automata import MEASURES, VERSION, Automaton, Band
from ncamix.bands import measure_version, quantile_band
from ncamix.errors import nearest
from ncamix.keys import derive_key, fingerprint
from ncamix.quantities import Exact, Positive, Whole, Within, refuse, refuse_all
from ncamix.sources.base import Generator, LeafSource, Meaning

MAX_SYMBOLS = 1 << 22  # ids of an automaton
MAX_BURN_IN, MAX_STRIDE, MAX_BIAS = 2**20 - 1, 2**10 - 1, 10**6


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


_INTERVAL = {
    "type": "array",
    "minItems": 2,
    "maxItems": 2,
    "items": {"type": "number", "minimum": 0, "maximum": 1},
}
_SIDE = {"type": "integer", "minimum": 3, "maximum": 256}
BandOfScores = Annotated[
    Band | Quantiles,
    PlainValidator(_band),
    WithJsonSchema(
        {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "additionalProperties": False,
            "properties": dict.fromkeys((*MEASURES, "quantile"), _INTERVAL),
        }
    ),
]
Grid = Annotated[
    tuple[int, int],
    PlainValidator(_grid),
    WithJsonSchema(
        {"oneOf": [_SIDE, {"type": "array", "minItems": 2, "maxItems": 2, "items": _SIDE}]}
    ),
]
Rules = Annotated[
    int | None,
    PlainValidator(_rules),
    WithJsonSchema(
        {"oneOf": [{"const": "fresh"}, {"type": "integer", "minimum": 1, "maximum": 1 << 40}]}
    ),
]


class NcaSource(LeafSource):
    """YAML keys of `kind: nca`; the defaults are the paper's."""

    version: ClassVar[int] = VERSION

    kind: Literal["nca"] = Field(description="Rollouts of random neural cellular automata.")
    alphabet: Annotated[
        Positive, Within(2, 64, "an alphabet has 2 to 64 states", "write alphabet: 10")
    ] = Field(10, description="Number of cell states.")
    band: BandOfScores = Field(
        description="The rules that are used: a measure of complexity, and [low, high) of it."
    )
    grid: Grid = Field((12, 12), description="Cells: a side, or [height, width].")
    patch: Annotated[
        Positive, Within(1, 4, "a patch has 1 to 4 cells a side", "write patch: 2")
    ] = Field(2, description="Cells a side of the square patch that makes a token.")
    burn_in: Annotated[
        Whole, Within(0, MAX_BURN_IN, f"more than {MAX_BURN_IN:,} steps", "use fewer")
    ] = Field(10, description="Steps before the first frame.")
    stride: Annotated[
        Positive, Within(1, MAX_STRIDE, f"more than {MAX_STRIDE:,} steps", "use fewer")
    ] = Field(1, description="Steps from a frame to the next.")
    temperature: Annotated[
        Exact,
        Within(0, 1, "a temperature lies above 0, at 1 at most", "write 1e-4", without=(0,)),
    ] = Field(
        Fraction(1, 10_000), description="Of the draw of the next state: near 0 it is the argmax."
    )
    identity_bias: Annotated[
        Exact, Within(-MAX_BIAS, MAX_BIAS, f"not between -{MAX_BIAS:,} and {MAX_BIAS:,}", "write 0")
    ] = Field(Fraction(0), description="Added to the logit of the state that a cell is in.")
    rules: Rules = Field(
        None, description="fresh: a rule of its own for every sample; or a pool of so many."
    )
    loss_from_frame: Whole = Field(
        1, description="The first frame that is a target; those before it are seen only."
    )
    transform: Literal["shuffle_tokens", "shuffle_frames"] | None = Field(  # type: ignore[assignment]
        None,
        description="A control: the ids, or the whole frames, of every sample in random order.",
    )

    @model_validator(mode="after")
    def _check(self) -> NcaSource:
        problems: list[tuple[tuple[str | int, ...], str, str]] = []
        if any(side % self.patch for side in self.grid):
            what = f"{self.grid[0]} x {self.grid[1]} cells do not split into patches of "
            what += f"{self.patch} x {self.patch}"
            problems.append((("grid",), what, f"use multiples of {self.patch}"))
        symbols = self.alphabet ** (self.patch * self.patch) + 2
        if symbols > MAX_SYMBOLS:
            what = f"{self.alphabet} states in {self.patch}x{self.patch} patches make {symbols:,} "
            what += "symbols"
            remedy = f"use a smaller alphabet or patch (at most {MAX_SYMBOLS:,} symbols)"
            problems.append((("patch",), what, remedy))
        if problems:
            raise refuse_all(problems)
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

    def special_ids(self) -> dict[str, int]:
        return {
            "frame_start": self.automaton.frame_start,
            "frame_end": self.automaton.frame_end,
        }

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

    def own_meaning(self) -> Meaning:
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

    def own_summary(self) -> str:
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

    def frame_length(self) -> int:
        return self.automaton().tokens_per_frame

    def drawn(self, first: int, count: int, num_threads: int | None) -> NDArray[np.uint32]:
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
