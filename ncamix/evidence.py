"""Evidence: what must be seen in evaluations for a stage to end before its duration is over.

    until: {loss/simple: {below: 2.0}, loss/code: {plateau: 0.01, over: 1Mtok}}

All conditions must hold at one evaluation. Losses are in nats, shares plain decimals. The decision
is a pure function of recorded numbers, which are the same on every rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema

from ncamix import forms
from ncamix.errors import nearest
from ncamix.quantities import (
    Quantity,
    Refusals,
    above_zero,
    exact,
    format_fraction,
    quantity_of,
    refuse,
)
from ncamix.reading import unknown_key
from ncamix.schedule import NAME

METRICS = ("loss", "perplexity", "bits_per_byte")
_WAY_OUT = "write {below: 2.0} or {plateau: 0.01, over: 1Mtok}"


@dataclass(frozen=True)
class Condition:
    """What a metric of an evaluated source must come to: `below` a value, or a plateau.

    A plateau is reached when the best value of the last `over` tokens is not lower than the best
    before them by at least the share `plateau`.
    """

    metric: str
    source: str
    below: Fraction | None = None
    plateau: Fraction | None = None
    over: Quantity | None = None

    @property
    def key(self) -> str:
        """As it is written: `loss/simple`."""
        return f"{self.metric}/{self.source}"

    def __str__(self) -> str:
        if self.below is not None:
            return f"{self.key} below {format_fraction(self.below)}"
        assert self.plateau is not None
        return f"{self.key} down by less than {format_fraction(self.plateau)} over {self.over}"


@dataclass(frozen=True)
class Until:
    """The conditions that end a stage together."""

    conditions: tuple[Condition, ...]

    def __str__(self) -> str:
        return " and ".join(map(str, self.conditions))


@dataclass(frozen=True)
class Observation:
    """One evaluation: tokens that the run had consumed, and values by metric: `loss/simple`."""

    tokens: int
    values: Mapping[str, float]


def has_ended(until: Until, seen: Sequence[Observation]) -> bool:
    """Whether every condition holds at the last observation; `seen` is in ascending tokens."""
    return bool(seen) and all(_holds(condition, seen) for condition in until.conditions)


def _holds(condition: Condition, seen: Sequence[Observation]) -> bool:
    now = seen[-1]
    if condition.below is not None:
        return now.values[condition.key] < condition.below
    assert condition.plateau is not None and condition.over is not None
    since = now.tokens - condition.over.value
    before = [o.values[condition.key] for o in seen if o.tokens <= since]
    recent = [o.values[condition.key] for o in seen if o.tokens > since]
    # Where nothing is so long ago, nothing can be said yet.
    return bool(before) and min(recent) > min(before) * float(1 - condition.plateau)


def _until(written: Any) -> Until:
    if not isinstance(written, dict) or not written:
        raise refuse("conditions are a mapping of metrics", "write {loss/simple: {below: 2.0}}")
    refused = Refusals()
    conditions = [refused.attempt((key,), _condition, key, item) for key, item in written.items()]
    refused.stop()
    return Until(tuple(conditions))


def _condition(key: str, written: Any) -> Condition:
    metric, _, source = key.partition("/")
    if not source:
        what = f"'{key}' is not a metric of an evaluated source"
        raise refuse(what, "write {loss/simple: {below: 2.0}}; metrics: " + ", ".join(METRICS))
    if metric not in METRICS:
        raise refuse(f"unknown metric '{metric}'", nearest(metric, METRICS, "metrics"))
    if not isinstance(written, dict):
        raise refuse("not a condition", _WAY_OUT)
    refused, known = Refusals(), ("below", "plateau", "over")
    for name in written:
        if name not in known:
            refused.add((name,), *unknown_key(name, known))
    if ("below" in written) == ("plateau" in written):
        refused.add((), "a condition is one of below and plateau", _WAY_OUT)
    elif ("plateau" in written) != ("over" in written):
        refused.add((), "a plateau has a length, and nothing else has", _WAY_OUT)
    given = {
        name: refused.attempt((name,), read, written[name])
        for name, read in (("below", above_zero), ("plateau", _plateau), ("over", _over))
        if name in written
    }
    refused.stop()
    return Condition(metric, source, **given)


def _plateau(written: Any) -> Fraction:
    value = exact(written)
    if not 0 <= value < 1:
        raise refuse("a share lies between 0 and 1", "write 0.01")
    return value


def _over(written: Any) -> Quantity:
    over = quantity_of(written, ("tok",), "1Mtok")
    if over.value <= 0:
        raise refuse("a plateau is longer than nothing", "write 1Mtok")
    return over


_FORM = forms.table(
    f"^({'|'.join(METRICS)})/{NAME.removeprefix('^')}",
    forms.either(
        forms.mapping(
            {"below": forms.about({"type": "number", "exclusiveMinimum": 0}, "Ends below this.")},
            required=("below",),
        ),
        forms.mapping(
            {
                "plateau": forms.about(
                    {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
                    "Ends when the best value falls by less than this share.",
                ),
                "over": forms.about(forms.quantity("tok"), "Tokens over which it must fall."),
            },
            required=("plateau", "over"),
        ),
    ),
)

WrittenUntil = Annotated[Until, PlainValidator(_until), WithJsonSchema(_FORM)]
