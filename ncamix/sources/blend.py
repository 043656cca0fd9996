"""Source kind `blend`: a named mixture of other sources that changes by itself.

A blend has no samples of its own: wherever a mixture names it, its own mixture is multiplied
through, evaluated on the blend's clock: the progress of the stage, of the run, or its own samples.
Or it mixes texts by their sizes, which a plan knows; then its weights stay the same.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from ncamix import forms
from ncamix.quantities import Exact, Quantity, Within, quantity_of, refuse, refuse_all
from ncamix.schedule import NAME, Schedule, is_name, parse_mixture
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


def _names(written: Any) -> tuple[str, ...]:
    way_out = "write [code, docs]"
    if not isinstance(written, list) or not written:
        raise refuse("not a list of sources", way_out)
    problems: list[tuple[tuple[str | int, ...], str, str]] = []
    for i, name in enumerate(written):
        if not isinstance(name, str) or not is_name(name):
            problems.append(((i,), "not the name of a source", way_out))
        elif name in written[:i]:
            problems.append(((i,), f"'{name}' stands twice", "keep one of them"))
    if problems:
        raise refuse_all(problems)
    return tuple(written)


Names = Annotated[
    tuple[str, ...],
    PlainValidator(_names),
    WithJsonSchema(
        {
            "type": "array",
            "minItems": 1,
            "uniqueItems": True,
            "items": {"type": "string", "pattern": NAME},
        }
    ),
]


class BlendSource(SourceSpec):
    """YAML keys of `kind: blend`: `mixture`, or `proportional` with its `temperature`."""

    kind: Literal["blend"] = Field(description="A mixture of other sources that has a name.")
    mixture: MixtureSchedule | None = Field(
        None, description="Weights of sources: constant, or keyframes on the blend's clock."
    )
    proportional: Names | None = Field(
        None,
        description="Texts and pairs in files, weighed by the size of those, instead of `mixture`.",
    )
    temperature: Annotated[
        Exact,
        Within(
            1,
            10**6,
            "a temperature lies between 1 and 1,000,000",
            "write 1 for weights in proportion to sizes, more for weights that differ less",
        ),
    ] = Field(
        Fraction(1), description="Of `proportional`: a weight is the size to the power of 1 / this."
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
        if (self.mixture is None) == (self.proportional is None):
            raise refuse(
                "a blend needs either `mixture` or `proportional`",
                "write `mixture: {code: 3, docs: 1}` or `proportional: [code, docs]`",
            )
        key = "mixture" if self.mixture is None else "proportional"
        strangers = ("cycle", "clock") if self.mixture is None else ("temperature",)
        found = [name for name in strangers if name in self.model_fields_set]
        if found:
            what = f"this belongs to `{key}`, which the blend does not have"
            raise refuse_all([((name,), what, "remove it") for name in found])
        if self.clock == "stage":
            return self
        positions = [("mixture", frame.at) for frame in self.schedule]
        positions += [("cycle", self.cycle)] if self.cycle else []
        counted = dict.fromkeys(key for key, at in positions if at.unit == "ba")
        if counted:  # stages may differ in their batches
            what = f"batches are counted in a stage, and this clock is `{self.clock}`"
            raise refuse_all([((key,), what, "write positions in % or tok") for key in counted])
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The sources that it mixes, whatever their weights, in the order written."""
        if self.proportional is not None:
            return self.proportional
        return tuple(dict.fromkeys(n for frame in self.mixture or () for n in frame.value))

    @property
    def schedule(self) -> Schedule:
        """Its mixture; a blend by size has one once it is weighed."""
        assert self.mixture is not None
        return self.mixture

    def summary(self) -> str:
        how = "" if self.proportional is None else " by size"
        return f"blend of {', '.join(self.names)}{how}"
