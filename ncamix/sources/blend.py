"""Source kind `blend`: a named mixture of other sources that changes by itself.

A blend has no samples of its own: wherever a mixture names it, its own mixture is multiplied
through, evaluated on the blend's clock: the progress of the stage, of the run, or its own samples.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from ncamix import forms
from ncamix.quantities import Quantity, quantity_of, refuse, refuse_all
from ncamix.schedule import NAME, Schedule, parse_mixture
from ncamix.sources.base import SourceSpec

_WEIGHTS = forms.table(NAME, forms.quantity("", "%"))
MixtureSchedule = Annotated[
    Schedule, PlainValidator(parse_mixture), WithJsonSchema(forms.schedule(_WEIGHTS, "mix"))
]


def _cycle(written: Any) -> Quantity:
    period = quantity_of(written, ("%", "tok", "ba"), "1000ba, 5Mtok or 10%")
    if period.value <= 0:
        raise refuse("a cycle is longer than nothing", "write 1000ba, 5Mtok or 10%")
    return period


Cycle = Annotated[
    Quantity, PlainValidator(_cycle), WithJsonSchema(forms.quantity("%", "tok", "ba"))
]


class BlendSource(SourceSpec):
    """YAML keys of `kind: blend`."""

    kind: Literal["blend"] = Field(description="A mixture of other sources that has a name.")
    mixture: MixtureSchedule = Field(
        description="Weights of sources: constant, or keyframes on the blend's clock."
    )
    cycle: Cycle | None = Field(
        None, description="Period that the keyframes repeat with, in %, tok or ba."
    )
    clock: Literal["stage", "run", "self"] = Field(
        "stage",
        description="What positions are of: the stage, the run, or the blend's own samples.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.clock == "stage":
            return self
        positions = [("mixture", frame.at) for frame in self.mixture]
        positions += [("cycle", self.cycle)] if self.cycle else []
        found = dict.fromkeys(key for key, at in positions if at.unit == "ba")
        if found:  # stages may differ in their batches
            what = f"batches are counted in a stage, and this clock is `{self.clock}`"
            raise refuse_all([((key,), what, "write positions in % or tok") for key in found])
        return self

    def summary(self) -> str:
        names = dict.fromkeys(name for frame in self.mixture for name in frame.value)
        return "blend of " + ", ".join(names)
