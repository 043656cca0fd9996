"""Studies: what is compared. The grammar of study files.

A study names a base curriculum, a trainer and seeds. Its variants change the base by settings,
`path: value`; a grid runs every variant with every combination of further ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, PlainValidator, WithJsonSchema, field_validator

from ncamix import forms
from ncamix.errors import nearest
from ncamix.evidence import METRICS
from ncamix.quantities import AboveZero, Refusals, Whole, refuse
from ncamix.schedule import is_name
from ncamix.sources.base import Spec

Match = Literal["natural", "total", "steps"]
_PATH = {"pattern": r"^[a-z_]+(\.[^.]+)*$"}  # of a setting, as `--set` takes it
CONTROLS = (
    "scratch_natural",
    "scratch_total",
    "scratch_steps",
    "text",
    "text_x10",
    "shuffled",
    "permuted",
    "dyck_nested",
    "dyck_shuffle",
    "noise_uniform",
    "noise_zipf",
)
_FACTOR = re.compile(r"([0-9]+(?:\.[0-9]+)?)x")
_NAMES_FORM = forms.either(
    {"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}
)
_SHARE_FORM: forms.Form = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
_VALUES: forms.Form = {"type": "array", "minItems": 1}
_SEEDS: forms.Form = {**forms.array({"type": "integer", "minimum": 0}), "uniqueItems": True}


@dataclass(frozen=True)
class Changes:
    """What a variant changes of the base: path -> value, and what it is matched by."""

    settings: dict[str, Any]
    match: Match | None = None


@dataclass(frozen=True)
class Tuning:
    """Settings that are tuned for every variant alike, and the seeds that they are tuned with."""

    settings: dict[str, tuple[Any, ...]]
    seeds: tuple[int, ...]
    on: Literal["validation"] = "validation"


@dataclass(frozen=True)
class Controls:
    """What ncamix adds to a study's variants: controls beside one of them.

    use: kinds of controls. beside: the variant; None is the first of the primary comparison, or the
    first there is. stages: those that are controlled for; none are all before natural text. both:
    each control with that variant's transition, and once more without it.
    """

    use: tuple[str, ...]
    beside: str | None = None
    stages: tuple[str, ...] = ()
    both: bool = True


@dataclass(frozen=True)
class Lengths:
    """Arms that are run at several lengths of their natural stages, to tell a speed-up to what `to`
    ends at."""

    to: str
    of: tuple[str, ...]
    lengths: tuple[Fraction, ...]


@dataclass(frozen=True)
class Metric:
    """A figure of an evaluated source: 'bits_per_byte', 'loss' or 'perplexity'."""

    name: str
    source: str

    def __str__(self) -> str:
        return f"{self.name}/{self.source}"


def _distinct(written: Any) -> tuple[int, ...]:
    way_out = "write whole numbers, each once: [1, 2, 3]"
    if not isinstance(written, list) or not written:
        raise refuse("not a list of seeds", way_out)
    refused = Refusals()
    for i, seed in enumerate(written):
        if not _is_seed(seed):
            refused.add((i,), f"'{seed}' is not a seed", way_out)
        elif seed in written[:i]:
            refused.add((i,), "this seed stands twice", way_out)
    refused.stop()
    return tuple(written)


def _is_seed(written: Any) -> bool:
    return isinstance(written, int) and not isinstance(written, bool) and written >= 0


def _changes(written: Any) -> Changes:
    if not isinstance(written, dict):
        raise refuse("a variant is a mapping of paths to values", "write {} for the base as it is")
    settings = {path: value for path, value in written.items() if path != "match"}
    match = written.get("match")
    if match is not None and match not in get_args(Match):
        raise refuse(
            f"unknown match '{match}'", nearest(str(match), get_args(Match), "choices"), ("match",)
        )
    return Changes(settings, match)


def _tuning(written: Any) -> Tuning:
    example = "write {stages.code.optimizer.lr.peak: [0.5x, 1x, 2x], seeds: [101]}"
    if not isinstance(written, dict):
        raise refuse("tuning is a mapping", example)
    settings = {path: value for path, value in written.items() if path not in ("seeds", "on")}
    refused = Refusals()
    for path, values in settings.items():
        if not isinstance(values, list) or len(values) < 2:
            refused.add((path,), "the values to try are a list of two or more", "write [0.5x, 1x]")
            continue
        for i, value in enumerate(values):
            if value in values[:i]:
                refused.add((path, i), f"{value} stands twice", "keep one of them")
    if not settings:
        refused.add((), "nothing is tuned", example)
    if written.get("on", "validation") != "validation":
        what = f"'{written['on']}' cannot be tuned on"
        refused.add(("on",), what, "write on: validation, which holds out what is compared")
    seeds = refused.attempt(("seeds",), _distinct, written.get("seeds"))
    refused.stop()
    return Tuning({path: tuple(values) for path, values in settings.items()}, seeds)


def _names(written: Any, what: str) -> tuple[str, ...]:
    """A name or a list of names, each once."""
    names = [written] if isinstance(written, str) else written
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise refuse(f"not {what}", "write names: [one, other]")
    for i, name in enumerate(names):
        if name in names[:i]:
            raise refuse(f"'{name}' stands twice", "keep one of them", (i,))
    return tuple(names)


def _controls(written: Any) -> Controls:
    if isinstance(written, list):
        written = {"use": written}
    if not isinstance(written, dict) or "use" not in written:
        raise refuse("controls are a list of kinds", "write [scratch_natural, shuffled], or []")
    refused = Refusals()
    for key in written:
        if key not in (known := ("use", "beside", "stage", "transition")):
            refused.add((key,), f"unknown key '{key}'", nearest(str(key), known))
    use = refused.attempt(("use",), _names, written["use"], "kinds of controls") or ()
    for i, kind in enumerate(use):
        if kind not in CONTROLS:
            remedy = nearest(kind, CONTROLS, "controls")
            refused.add(("use", i), f"unknown control '{kind}'", remedy)
    stages = refused.attempt(("stage",), _names, written.get("stage", []), "stages") or ()
    beside = written.get("beside")
    if beside is not None and not isinstance(beside, str):
        refused.add(("beside",), "not a variant", "write the name of one")
    transition = written.get("transition", "both")
    if transition not in ("both", "same"):
        remedy = "write both (with the variant's transition, and without any), or same"
        refused.add(("transition",), f"unknown transition '{transition}'", remedy)
    refused.stop()
    return Controls(use, beside, stages, transition == "both")


def _lengths(written: Any) -> Lengths:
    example = "write {to: scratch_natural, of: [up], lengths: [0.5x, 1x, 2x]}"
    if not isinstance(written, dict):
        raise refuse("a speed-up is a mapping", example)
    refused = Refusals()
    for key in written:
        if key not in (known := ("to", "of", "lengths")):
            refused.add((key,), f"unknown key '{key}'", nearest(str(key), known))
    to = written.get("to")
    if not isinstance(to, str):
        refused.add(("to",), "not an arm", example)
    of = refused.attempt(("of",), _names, written.get("of"), "a list of arms") or ()
    factors = written.get("lengths", ["0.5x", "1x", "2x"])
    found: list[Fraction] = []
    if not isinstance(factors, list):
        refused.add(("lengths",), "not a list of lengths", "write [0.5x, 1x, 2x]")
    for i, factor in enumerate(factors if isinstance(factors, list) else ()):
        match = _FACTOR.fullmatch(factor) if isinstance(factor, str) else None
        if match is None or not Fraction(match[1]):
            refused.add(("lengths", i), "not a length", "write 0.5x, 1x or 2x")
        elif Fraction(match[1]) in found:
            refused.add(("lengths", i), "this length stands twice", "keep one of them")
        else:
            found.append(Fraction(match[1]))
    if isinstance(factors, list) and len(found) == len(factors) and set(found) <= {Fraction(1)}:
        refused.add(("lengths",), "a speed-up takes another length", "write [0.5x, 1x, 2x]")
    if written.get("of") == []:
        refused.add(("of",), "no arm's speed-up is asked for", example)
    if to in of:
        refused.add(
            ("of", of.index(to)), f"'{to}' is what the others are held against", "name other arms"
        )
    refused.stop()
    return Lengths(str(to), of, tuple(sorted({*found, Fraction(1)})))


def _share(written: Any) -> float:
    if isinstance(written, Decimal) and 0 < written < 1:
        return float(written)
    raise refuse("not a share between 0 and 1", "write 0.95")


def _grid(written: Any) -> dict[str, tuple[Any, ...]]:
    if not isinstance(written, dict):
        raise refuse(
            "a grid is a mapping of paths to values", "write {sources.rich.alphabet: [2, 10]}"
        )
    refused = Refusals()
    for path, values in written.items():
        if not isinstance(values, list) or not values:
            refused.add((path,), "the values of a grid are a list", "write [2, 10]")
    refused.stop()
    return {path: tuple(values) for path, values in written.items()}


def _metric(written: Any) -> Metric:
    name, _, source = written.partition("/") if isinstance(written, str) else ("", "", "")
    if name not in METRICS or not source:
        raise refuse(
            "a metric is a figure and a source",
            f"write bits_per_byte/code; {nearest(name, METRICS, 'figures')}",
        )
    return Metric(name, source)


class Compare(Spec):
    """What is decided, fixed before anything runs: two variants, a metric, the smallest difference
    of it that would matter."""

    primary: tuple[str, str] = Field(description="The two arms that the study is about.")
    metric: Annotated[
        Metric,
        PlainValidator(_metric),
        WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(METRICS)})/.+$"}),
    ] = Field(description="A figure of an evaluated source: bits_per_byte/code, loss/simple.")
    smallest_effect: AboveZero = Field(
        description="The smallest difference of the metric that would matter, in its own unit."
    )
    against: str | None = Field(
        None,
        description="The arm that variants are compared with: by default the control "
        "scratch_natural, or a variant of natural text alone.",
    )
    confidence: Annotated[float, PlainValidator(_share), WithJsonSchema(_SHARE_FORM)] = Field(
        0.95, description="Of every interval."
    )
    power: Annotated[float, PlainValidator(_share), WithJsonSchema(_SHARE_FORM)] = Field(
        0.8, description="With which an effect that is said to be detectable would be found."
    )
    speedup: Annotated[
        Lengths | None,
        PlainValidator(_lengths),
        WithJsonSchema(
            {
                "type": "object",
                "properties": {
                    "to": {"type": "string"},
                    "of": _NAMES_FORM,
                    "lengths": {
                        "type": "array",
                        "items": {"type": "string", "pattern": r"^[0-9.]+x$"},
                        "minItems": 1,
                    },
                },
                "additionalProperties": False,
                "required": ["to", "of"],
            }
        ),
    ] = Field(None, description="Arms run at several lengths, to tell a speed-up to another's end.")

    @field_validator("primary", mode="before")
    @classmethod
    def _pair(cls, written: Any) -> Any:
        if not isinstance(written, list) or len(written) != 2 or written[0] == written[1]:
            raise refuse("two different arms are compared", "write [up, even]")
        return tuple(written)


class Study(Spec):
    """Many runs compared: variants of one curriculum, under one trainer, with several seeds."""

    nulls: ClassVar[bool] = True  # it deletes

    ncamix: Annotated[Whole, WithJsonSchema(forms.VERSION)] = Field(
        description="The version of the language."
    )
    name: Annotated[str, WithJsonSchema(forms.WORD)] = Field(
        description="Letters, digits, _ and -."
    )
    base: str = Field(
        description="The curriculum that variants change: a file, relative to this one, or the "
        "name of a shipped one."
    )
    trainer: str = Field(
        description="The trainer of every run: a file, relative to this one, or the name of a "
        "shipped one."
    )
    seeds: Annotated[tuple[int, ...], PlainValidator(_distinct), WithJsonSchema(_SEEDS)] = Field(
        description="The seeds that every variant is trained with."
    )
    tune: Annotated[
        Tuning | None,
        PlainValidator(_tuning),
        WithJsonSchema(
            {
                "type": "object",
                "properties": {"seeds": _SEEDS, "on": {"const": "validation"}},
                "propertyNames": _PATH,
                "additionalProperties": {**_VALUES, "minItems": 2},
                "required": ["seeds"],
                "minProperties": 2,
            }
        ),
    ] = Field(None, description="Settings tuned for every variant alike, with seeds of its own.")
    variants: dict[
        str,
        Annotated[
            Changes,
            PlainValidator(_changes),
            WithJsonSchema(
                {
                    "type": "object",
                    "properties": {"match": {"enum": list(get_args(Match))}},
                    "propertyNames": _PATH,
                }
            ),
        ],
    ] = Field(
        {},
        description="Name -> what it changes of the base: paths and values.",
        json_schema_extra={"propertyNames": forms.WORD},
    )
    grid: Annotated[
        dict[str, tuple[Any, ...]],
        PlainValidator(_grid),
        WithJsonSchema({"type": "object", "propertyNames": _PATH, "additionalProperties": _VALUES}),
    ] = Field({}, description="Path -> values: every variant is run with every combination.")
    controls: Annotated[
        Controls | None,
        PlainValidator(_controls),
        WithJsonSchema(
            forms.either(
                {"type": "array", "items": {"enum": list(CONTROLS)}},
                {
                    "type": "object",
                    "properties": {
                        "use": {"type": "array", "items": {"enum": list(CONTROLS)}},
                        "beside": {"type": "string"},
                        "stage": _NAMES_FORM,
                        "transition": {"enum": ["both", "same"]},
                    },
                    "additionalProperties": False,
                    "required": ["use"],
                },
            )
        ),
    ] = Field(
        None,
        description="Controls beside a variant, which ncamix makes: scratch_natural and others. "
        "Without the key, those from scratch are added where no variant is one; [] is none.",
    )
    compare: Compare | None = Field(None, description="What the study decides.")

    @field_validator("name", mode="after")
    @classmethod
    def _name(cls, name: str) -> str:
        if not is_name(name):
            raise refuse(f"'{name}' cannot name a study", "use letters, digits, _ and -")
        return name
