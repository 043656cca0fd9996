"""Optimizers: the grammar of `optimizer:`, in trainers and, for the parts replaced, in stages; and
that of `averaging:`, which makes one model of the weights that they pass through.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic import model_validator as check

from ncamix import forms
from ncamix.errors import nearest
from ncamix.quantities import (
    AboveZero,
    NotNegative,
    Quantity,
    Refusal,
    Refusals,
    quantity_of,
    refuse,
)
from ncamix.reading import unknown_key
from ncamix.schedule import Schedule, is_name, parse_number
from ncamix.sources.base import Spec
from ncamix.sources.blend import Cycle

DECAYS = ("cosine", "linear", "constant", "inverse_sqrt")
DEFAULTS: dict[str, Any] = {  # what keys mean that are not given
    "kind": "adamw",
    "betas": (Fraction(9, 10), Fraction(999, 1000)),
    "eps": Fraction(1, 10**8),
    "momentum": Fraction(95, 100),  # this and the next under muon alone
    "adam_ratio": Fraction(15, 1000),
    "weight_decay": Fraction(0),
}


@dataclass(frozen=True)
class LearningRate:
    """The short form of a learning-rate schedule.

    Rates have the unit '' (absolute) or 'x' (times the trainer's peak). Warm-up rises linearly from
    zero; decay falls from the peak to the floor at the stage's end. A stage that starts by
    continuing warms up from the rate at which the last one ended; without a peak, that is the peak.
    """

    start: Literal["continue"] | None = None
    peak: Quantity | None = Quantity(Fraction(1), "x")
    warmup: Quantity = Quantity(Fraction(0), "%")
    decay: str = "constant"
    floor: Quantity = Quantity(Fraction(0), "")


@dataclass(frozen=True)
class Scaled:
    """The trainer's own rate, warm-up, decay and all, with another peak."""

    peak: Quantity


def peaks(lr: LearningRate | Scaled | Schedule) -> list[Quantity]:
    """The rates that are written out, floors aside; none where the peak is the last stage's."""
    if isinstance(lr, LearningRate | Scaled):
        return [lr.peak] if lr.peak is not None else []
    return [frame.value for frame in lr]


def parse_learning_rate(written: Any) -> LearningRate | Scaled | Schedule:
    """Read `{start, peak, warmup, decay, floor}`, `{peak}` alone, keyframes, or a bare rate."""
    if not isinstance(written, dict) or not all(is_name(str(key)) for key in written):
        if isinstance(written, dict) and "start" in written:
            raise refuse(
                "`start` does not go together with keyframes",
                "write {start: continue, decay: cosine}, or a first keyframe",
                ("start",),
            )
        return parse_number(written)
    refused = Refusals()
    known = tuple(part.name for part in fields(LearningRate))
    for key in written:
        if key not in known:
            refused.add((key,), *unknown_key(key, known))
    read = {"start": _start, "peak": _rate, "warmup": _warmup, "decay": _decay, "floor": _rate}
    given = {
        key: refused.attempt((key,), read[key], value)
        for key, value in written.items()
        if key in read
    }
    decay = given.get("decay", "constant")
    if "floor" in given and decay in ("constant", "inverse_sqrt"):
        refused.add(
            ("floor",),
            f"a floor is where a decay ends, and {decay} does not end anywhere",
            "add decay: cosine or decay: linear, or remove the floor",
        )
    refused.stop()
    if set(given) == {"peak"}:
        return Scaled(given["peak"])
    if "start" in given:
        given.setdefault("peak", None)
    return LearningRate(**given)


def _start(written: Any) -> str:
    if written != "continue":
        raise refuse(
            "not a start", "write start: continue, or remove it: a warm-up rises from zero"
        )
    return "continue"


def _rate(written: Any) -> Quantity:
    rate = quantity_of(written, ("", "x"), "3e-4 or 0.2x")
    if rate.value < 0:
        raise refuse("a rate is negative", "write 0 or more")
    return rate


def _warmup(written: Any) -> Quantity:
    warmup = quantity_of(written, ("%", "tok", "ba"), "10%, 5Mtok or 100ba")
    if warmup.value < 0 or (warmup.unit == "%" and warmup.value > 100):
        raise refuse("a warm-up lies within its stage", "write 10%")
    return warmup


def _decay(written: Any) -> str:
    if written not in DECAYS:
        raise refuse(f"unknown decay '{written}'", nearest(str(written), DECAYS))
    return str(written)


_RATE = forms.quantity("", "x")
_SHORT_FORM = forms.mapping(
    {
        "start": forms.about(
            forms.choice("continue"), "Takes up the rate where the last stage left it."
        ),
        "peak": forms.about(_RATE, "The highest rate; 0.2x is 0.2 times the trainer's."),
        "warmup": forms.about(
            forms.quantity("%", "tok", "ba"), "How long the rate rises to its peak."
        ),
        "decay": forms.about(forms.choice(*DECAYS), "How the rate falls after the warm-up."),
        "floor": forms.about(_RATE, "The rate that a decay ends at."),
    }
)

Rate = Annotated[
    LearningRate | Scaled | Schedule,
    PlainValidator(parse_learning_rate),
    WithJsonSchema(forms.either(*forms.schedule(_RATE, "to")["oneOf"], _SHORT_FORM)),
]


def _betas(written: Any) -> tuple[Fraction, Fraction]:
    if not isinstance(written, list) or len(written) != 2:
        raise refuse("betas are two numbers", "write [0.9, 0.95]")
    if not all(isinstance(b, int | Decimal) and 0 <= b < 1 for b in written):
        raise refuse("betas lie between 0 and 1", "write [0.9, 0.95]")
    return (Fraction(written[0]), Fraction(written[1]))


_BETA: forms.Form = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}


def _momentum(written: Any) -> Fraction:
    if isinstance(written, bool) or not isinstance(written, int | Decimal) or not 0 <= written < 1:
        raise refuse("a momentum lies between 0 and 1", "write 0.95")
    return Fraction(written)


MUON_KEYS = ("momentum", "adam_ratio")
"""Keys that only Muon has."""


class Optimizer(Spec):
    """Optimizer keys; in a stage, those given replace the trainer's."""

    kind: Annotated[
        Literal["adamw", "adam", "muon"] | None,
        Field(description="The optimizer: adamw unless given. muon is AdamW beside the layers."),
    ] = None
    lr: Annotated[
        Rate | None,
        Field(description="The learning rate: a number, 0.2x, keyframes, or {peak, warmup, ...}."),
    ] = None
    cycle: Annotated[
        Cycle | None, Field(description="Makes the keyframes of `lr` repeat with this period.")
    ] = None
    betas: Annotated[
        tuple[Fraction, Fraction] | None,
        PlainValidator(_betas),
        WithJsonSchema({"type": "array", "items": _BETA, "minItems": 2, "maxItems": 2}),
        Field(description="Adam's two decay rates: [0.9, 0.999] unless given."),
    ] = None
    eps: Annotated[AboveZero | None, Field(description="Adam's epsilon: 1e-8 unless given.")] = None
    momentum: Annotated[
        Fraction | None,
        PlainValidator(_momentum),
        WithJsonSchema(_BETA),
        Field(description="Muon's momentum: 0.95 unless given."),
    ] = None
    adam_ratio: Annotated[
        AboveZero | None,
        Field(
            description="Under muon, the rate of what AdamW trains, as a share of `lr`: 0.015 "
            "unless given."
        ),
    ] = None
    weight_decay: Annotated[
        NotNegative | None, Field(description="Weight decay of matrices: 0 unless given.")
    ] = None
    clip: Annotated[
        AboveZero | None,
        Field(description="The largest norm of the gradient; no limit by default."),
    ] = None

    @check(mode="after")
    def _check(self) -> Optimizer:
        if self.cycle is not None and not isinstance(self.lr, tuple):
            raise refuse(
                "a cycle repeats the keyframes of the `lr` beside it, and there are none",
                "write lr: {0%: 1x, 100%: 0.1x}, or remove the cycle",
                ("cycle",),
            )
        if self.kind is not None:
            refused = Refusals()
            for fault in self.misplaced(self.kind):
                refused.add(*fault)
            refused.stop()
        return self

    @property
    def algorithm(self) -> str:
        """The kind, where none was given: adamw."""
        return str(self.meant("kind"))

    def meant(self, key: str) -> Any:
        """The value of a key, or what it means where none was given."""
        given = getattr(self, key)
        return DEFAULTS.get(key) if given is None else given

    def misplaced(self, kind: str) -> list[Refusal]:
        """The keys written here that an optimizer of `kind` does not have."""
        if kind == "muon":
            return []
        return [
            ((key,), f"{kind} has no `{key}`", "remove it, or write kind: muon beside it")
            for key in MUON_KEYS
            if getattr(self, key) is not None
        ]

    def under(self, stage: Optimizer) -> Optimizer:
        """These values with a stage's own laid over them."""
        merged = {
            name: getattr(self, name) if getattr(stage, name) is None else getattr(stage, name)
            for name in Optimizer.model_fields
        }
        if isinstance(stage.lr, Scaled):
            merged["lr"] = self._scaled(stage.lr.peak)
        elif stage.lr is not None:
            merged["cycle"] = stage.cycle  # a cycle belongs to the schedule beside it
        if (merged["kind"] or "adamw") != "muon":  # a stage may leave a trainer's muon
            merged |= dict.fromkeys(MUON_KEYS)
        return Optimizer.model_construct(**merged)

    def base_rate(self) -> Fraction:
        """The rate that `1x` means in stages under this trainer's optimizer: its highest."""
        assert self.lr is not None
        return max(rate.value for rate in peaks(self.lr))

    def _scaled(self, peak: Quantity) -> LearningRate | Schedule:
        """This rate, all of it, with another peak."""
        base = self.base_rate()
        factor = peak.value if peak.unit == "x" else peak.value / base

        def scaled(rate: Quantity) -> Quantity:
            return Quantity(rate.value * factor, rate.unit)

        if isinstance(self.lr, LearningRate):
            assert self.lr.peak is not None
            return replace(self.lr, peak=scaled(self.lr.peak), floor=scaled(self.lr.floor))
        assert isinstance(self.lr, tuple)
        return tuple(replace(frame, value=scaled(frame.value)) for frame in self.lr)


def _ema(written: Any) -> Fraction:
    if isinstance(written, bool) or not isinstance(written, int | Decimal) or not 0 < written < 1:
        raise refuse("the decay of an average lies between 0 and 1", "write {ema: 0.999}")
    return Fraction(written)


def _last(written: Any) -> Quantity:
    last = quantity_of(written, ("%", "ba"), "{last: 10%} or {last: 500ba}")
    if last.value <= 0 or (last.unit == "%" and last.value > 100):
        raise refuse("an average is over a part of its stage", "write {last: 10%}")
    return last


class Averaging(Spec):
    """The average of a stage's weights that it hands over in place of its last ones."""

    ema: Annotated[
        Fraction | None,
        PlainValidator(_ema),
        WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
        Field(description="An exponential average: what a batch leaves of it, such as 0.999."),
    ] = None
    last: Annotated[
        Quantity | None,
        PlainValidator(_last),
        WithJsonSchema(forms.quantity("%", "ba")),
        Field(description="A plain average over the end of a stage, such as 10% or 500ba."),
    ] = None

    @check(mode="after")
    def _check(self) -> Averaging:
        if (self.ema is None) == (self.last is None):
            what = "an average is over all of a stage, or over its end"
            raise refuse(what, "write {ema: 0.999} or {last: 10%}, one of them")
        return self

    def first_batch(self, num_batches: int) -> int:
        """The batch, from 0, of a stage of `num_batches` whose weights are the first to count."""
        if self.last is None:
            return 0
        share = self.last.value / 100 * num_batches if self.last.unit == "%" else self.last.value
        return max(0, num_batches - max(1, round(share)))
