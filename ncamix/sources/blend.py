"""Source kind `blend`: a named mixture of other sources that changes by itself.

A blend has no samples of its own: wherever a mixture names it, its own mixture is multiplied
through, evaluated on the blend's clock: the progress of the stage, of the run, or its own samples.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from ncamix.quantities import Quantity, quantity_of, quantity_pattern, refuse, refuse_all
from ncamix.schedule import EASES, NAME, Schedule, parse_mixture
from ncamix.sources.base import SourceSpec

_AT = {"type": "string", "pattern": quantity_pattern("%", "tok", "ba", negative=True)}
_WEIGHTS = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"pattern": NAME},
    "additionalProperties": {
        "anyOf": [
            {"type": "number", "minimum": 0},
            {"type": "string", "pattern": quantity_pattern("%")},
        ]
    },
}
_KEYFRAME = {
    "type": "object",
    "additionalProperties": False,
    "required": ["at", "mix"],
    "properties": {"at": _AT, "mix": _WEIGHTS, "ease": {"enum": list(EASES)}},
}
_BY_POSITION = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"pattern": _AT["pattern"]},
    "additionalProperties": _WEIGHTS,
}
MixtureSchedule = Annotated[
    Schedule,
    PlainValidator(parse_mixture),
    WithJsonSchema(
        {"oneOf": [_WEIGHTS, _BY_POSITION, {"type": "array", "minItems": 1, "items": _KEYFRAME}]}
    ),
]


def _cycle(written: Any) -> Quantity:
    period = quantity_of(written, ("%", "tok", "ba"), "1000ba, 5Mtok or 10%")
    if period.value <= 0:
        raise refuse("a cycle is longer than nothing", "write 1000ba, 5Mtok or 10%")
    return period


Cycle = Annotated[
    Quantity,
    PlainValidator(_cycle),
    WithJsonSchema({"type": "string", "pattern": quantity_pattern("%", "tok", "ba")}),
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
