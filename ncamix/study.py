"""Studies: what is compared. The grammar of study files.

A study names a base curriculum, a trainer and seeds. Its variants change the base by settings,
`path: value`; a grid runs every variant with every combination of further ones.
"""

from __future__ import annotations

from dataclasses import dataclass
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
    if not settings:
        refused.add((), "nothing is tuned", example)
    if written.get("on", "validation") != "validation":
        what = f"'{written['on']}' cannot be tuned on"
        refused.add(("on",), what, "write on: validation, which holds out what is compared")
    seeds = refused.attempt(("seeds",), _distinct, written.get("seeds"))
    refused.stop()
    return Tuning({path: tuple(values) for path, values in settings.items()}, seeds)


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

    primary: tuple[str, str] = Field(description="The two variants that the study is about.")
    metric: Annotated[
        Metric,
        PlainValidator(_metric),
        WithJsonSchema({"type": "string", "pattern": f"^({'|'.join(METRICS)})/.+$"}),
    ] = Field(description="A figure of an evaluated source: bits_per_byte/code, loss/simple.")
    smallest_effect: AboveZero = Field(
        description="The smallest difference of the metric that would matter, in its own unit."
    )

    @field_validator("primary", mode="before")
    @classmethod
    def _pair(cls, written: Any) -> Any:
        if not isinstance(written, list) or len(written) != 2 or written[0] == written[1]:
            raise refuse("two variants are compared", "write [up, even]")
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
    compare: Compare | None = Field(None, description="What the study decides.")

    @field_validator("name", mode="after")
    @classmethod
    def _name(cls, name: str) -> str:
        if not is_name(name):
            raise refuse(f"'{name}' cannot name a study", "use letters, digits, _ and -")
        return name
