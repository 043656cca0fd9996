"""Source kind `blend`: a named mixture of other sources that changes by itself.

A blend has no samples of its own: wherever a mixture names it, its own mixture is multiplied
through, evaluated on the blend's clock: the progress of the stage, of the run, or its own samples.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import PlainValidator, WithJsonSchema

from ncamix.quantities import Quantity, quantity_of, refuse
from ncamix.schedule import Schedule, parse_mixture
from ncamix.sources.base import SourceSpec

MixtureSchedule = Annotated[
    Schedule, PlainValidator(parse_mixture), WithJsonSchema({"type": ["object", "array"]})
]


def _cycle(written: Any) -> Quantity:
    period = quantity_of(written, ("%", "tok", "ba"), "1000ba, 5Mtok or 10%")
    if period.value <= 0:
        raise refuse("a cycle is longer than nothing", "write 1000ba, 5Mtok or 10%")
    return period


Cycle = Annotated[Quantity, PlainValidator(_cycle), WithJsonSchema({"type": "string"})]


class BlendSource(SourceSpec):
    """YAML keys of `kind: blend`."""

    kind: Literal["blend"]
    mixture: MixtureSchedule
    cycle: Cycle | None = None
    clock: Literal["stage", "run", "self"] = "stage"

    def summary(self) -> str:
        names = dict.fromkeys(name for frame in self.mixture for name in frame.value)
        return "blend of " + ", ".join(names)
