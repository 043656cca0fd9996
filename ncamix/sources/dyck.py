"""Source kind `dyck`: brackets of k kinds that match, nested or shuffled.

    nested   k-Dyck: the bracket opened last is the one that closes         ( [ ] )
    shuffle  k-shuffle-Dyck: each kind matches by itself                    ( [ ) ]

Ids 0 .. k - 1 open a bracket of that kind, ids k .. 2k - 1 close one. The depth, the number of open
brackets of all kinds, walks at random: from 0, `low` brackets open in a row; at `high`, one closes;
otherwise one opens with probability `p_open`. Every kind is as likely to open. In a shuffle, every
kind that is open is as likely to close, however many of it are. A sample starts at depth 0 and is
cut at its end, where brackets may stand open.

The defaults are the baselines of the paper, whose released code draws the same walk but for two
slips: a shuffle never draws its last kind, and a nested sequence that never came back to depth 0
ends on a closing bracket.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PlainValidator, WithJsonSchema

from ncamix.keys import derive_key, fingerprint
from ncamix.quantities import Exact, Positive, Within, refuse
from ncamix.sources.base import Generator, LeafSource, Meaning
from ncamix.threads import spread

PAPER_SYMBOLS = {"nested": 30, "shuffle": 64}
MAX_SYMBOLS, MAX_DEPTH = 1 << 19, 1 << 16


def _depth(written: Any) -> tuple[int, int]:
    """The depth [low, high]; a number is high."""
    ends = written if isinstance(written, list) else [1, written]
    if len(ends) != 2 or not all(
        isinstance(end, int) and not isinstance(end, bool) and 1 <= end <= MAX_DEPTH for end in ends
    ):
        raise refuse(
            f"a depth is its maximum or [low, high], 1 to {MAX_DEPTH:,}", "write 16 or [1, 16]"
        )
    low, high = ends
    if low > high:
        raise refuse(f"the depth [{low}, {high}] is reversed", "write the lower end first")
    return (low, high)


_END = {"type": "integer", "minimum": 1, "maximum": MAX_DEPTH}
Depth = Annotated[
    tuple[int, int],
    PlainValidator(_depth),
    WithJsonSchema(
        {"oneOf": [_END, {"type": "array", "minItems": 2, "maxItems": 2, "items": _END}]}
    ),
]


class DyckSource(LeafSource):
    """YAML keys of `kind: dyck`; the defaults are the paper's."""

    version: ClassVar[int] = 1

    kind: Literal["dyck"] = Field(description="Brackets of several kinds that match.")
    style: Literal["nested", "shuffle"] = Field(
        description="nested: the bracket opened last closes first; shuffle: kinds match alone."
    )
    symbols: (
        Annotated[
            Positive, Within(1, MAX_SYMBOLS, f"more than {MAX_SYMBOLS:,} symbols", "use fewer")
        ]
        | None
    ) = Field(None, description="Kinds of brackets; each is two ids. 30 nested, 64 shuffled.")
    depth: Depth = Field(
        (1, 16), description="Brackets that are open at once: the most, or [low, high]."
    )
    p_open: Annotated[
        Exact, Within(0, 1, "a probability lies between 0 and 1", "write 0.5", without=(0, 1))
    ] = Field(Fraction(1, 2), description="Probability that a bracket opens, where it may.")

    @property
    def num_symbols(self) -> int:
        """Kinds of brackets in force: as many as in the paper unless given."""
        return PAPER_SYMBOLS[self.style] if self.symbols is None else self.symbols

    def range_name(self) -> str:
        return f"dyck {self.num_symbols}"

    def num_ids(self) -> int:
        return 2 * self.num_symbols

    def own_meaning(self) -> Meaning:
        return {
            "kind": "dyck",
            "version": self.version,
            "style": self.style,
            "symbols": self.num_symbols,
            "depth": list(self.depth),
            "p_open": str(self.p_open),
        }

    def own_summary(self) -> str:
        low, high = self.depth
        return f"dyck, {self.style}, {self.num_symbols:,} symbols, depth {low}-{high}"


@dataclass(frozen=True)
class DyckGenerator(Generator):
    """Samples of a `dyck` source from its full meaning."""

    def drawn(self, first: int, count: int, num_threads: int | None) -> NDArray[np.uint32]:
        from ncamix.sources.kernels import nest_brackets, shuffle_brackets

        draw_brackets = nest_brackets if self.meaning["style"] == "nested" else shuffle_brackets
        key = np.uint64(derive_key("dyck", fingerprint(self.meaning)))
        symbols = np.uint64(self.meaning["symbols"])
        low, high = self.meaning["depth"]
        p_open = np.uint64(int(Fraction(self.meaning["p_open"]) * 2**64))  # rounded down
        samples = np.empty((count, self.meaning["sequence_length"] + 1), np.uint32)

        def draw(rows: slice) -> None:
            draw_brackets(key, first + rows.start, symbols, low, high, p_open, samples[rows])
            samples[rows] += np.uint32(self.meaning["first_id"])

        spread(draw, count, num_threads)
        return samples
