"""Entering a stage: what happens to the weights and to the optimizer between two stages."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic import model_validator as check

from ncamix import forms
from ncamix.groups import (
    FROZEN_FORM,
    GROUPS_FORM,
    FrozenGroup,
    Group,
    Part,
    all_parts,
    covers_all,
    parse_frozen,
    parse_groups,
    parts,
)
from ncamix.quantities import Refusal, refuse
from ncamix.schedule import NAME, is_name
from ncamix.sources.base import Spec


@dataclass(frozen=True)
class RunStage:
    """A stage of another run; `run` is its folder, relative to the file that names it."""

    run: str
    stage: str

    def __str__(self) -> str:
        return f"{self.run}/{self.stage}"


def _run_stage(written: Any) -> RunStage:
    run, _, stage = written.rpartition("/") if isinstance(written, str) else ("", "", "")
    if not run or not is_name(stage):
        raise refuse("not a stage of a run", "write RUN/STAGE, such as runs/first/automata")
    return RunStage(run, stage)


def _initializer(written: Any) -> str | Fraction:
    """'model', 'torch', or the standard deviation of a normal."""
    if written in ("model", "torch"):
        return str(written)
    if isinstance(written, dict) and set(written) == {"normal"}:
        value = written["normal"]
        if isinstance(value, int | Decimal) and not isinstance(value, bool) and value > 0:
            return Fraction(value)
    raise refuse("not an initializer", "write model, torch or {normal: 0.02}")


def _kept(written: Any) -> tuple[Group, ...]:
    kept = parse_groups(written)
    if not kept:
        raise refuse("nothing is kept", "name what is kept, such as [embeddings]")
    if covers_all(kept):
        raise refuse("everything is kept", "remove the key: weights are handed over as they are")
    return kept


def _spared(written: Any) -> tuple[str, ...]:
    names = [written] if isinstance(written, str) else written
    way_out = "write [nca], or the names of sources"
    if not isinstance(names, list):
        raise refuse("not a list of kinds or sources", way_out)
    for i, name in enumerate(names):
        if not isinstance(name, str):
            raise refuse("not a kind or a source", way_out, (i,))
        if name in names[:i]:
            raise refuse(f"'{name}' stands twice", "keep one of them", (i,))
    return tuple(names)


Groups = Annotated[tuple[Group, ...], PlainValidator(parse_groups), WithJsonSchema(GROUPS_FORM)]


class Enter(Spec):
    """What happens to the weights and the optimizer on entering a stage.

    initializer: 'model', 'torch', or the standard deviation of a normal distribution.
    """

    reinitialize: Annotated[
        Groups, Field(description="Groups of parameters that are drawn anew.")
    ] = ()
    keep_only: Annotated[
        tuple[Group, ...],
        PlainValidator(_kept),
        WithJsonSchema(GROUPS_FORM),
        Field(description="Groups of parameters that are kept; all others are drawn anew."),
    ] = ()
    permute: Annotated[
        Groups,
        Field(description="Groups of parameters whose values trade places within each tensor."),
    ] = ()
    freeze: Annotated[
        tuple[FrozenGroup, ...],
        PlainValidator(parse_frozen),
        WithJsonSchema(FROZEN_FORM),
        Field(description="Groups of parameters that are not trained, for this stage or a part."),
    ] = ()
    initializer: Annotated[
        str | Fraction,
        PlainValidator(_initializer),
        WithJsonSchema(
            forms.either(
                forms.choice("model", "torch"),
                forms.mapping(
                    {"normal": {"type": "number", "exclusiveMinimum": 0}}, required=("normal",)
                ),
            )
        ),
        Field(description="How parameters are drawn anew: the model's way, torch's, or a normal."),
    ] = "model"
    optimizer_state: Annotated[
        Literal["fresh", "keep"],
        Field(description="Whether the optimizer's moments are dropped or go on."),
    ] = "fresh"
    spare: Annotated[
        tuple[str, ...],
        PlainValidator(_spared),
        WithJsonSchema(
            forms.either({"type": "string"}, {"type": "array", "items": {"type": "string"}})
        ),
        Field(description="Kinds or sources whose vocabulary rows are neither drawn nor moved."),
    ] = ()
    from_run: Annotated[
        RunStage | None,
        PlainValidator(_run_stage),
        WithJsonSchema({"type": "string", "pattern": f"^.+/{NAME.removeprefix('^')}"}),
        Field(alias="from", description="RUN/STAGE: the weights come from there."),
    ] = None

    @check(mode="after")
    def _check(self) -> Enter:
        if self.reinitialize and self.keep_only:
            raise refuse(
                "reinitialize and keep_only both say what is drawn anew",
                "keep one of them",
                ("keep_only",),
            )
        return self

    def redrawn(self, num_layers: int) -> set[Part]:
        """The parts of a model of `num_layers` layers that are drawn anew."""
        if self.keep_only:
            return all_parts(num_layers) - parts(self.keep_only, num_layers)
        return parts(self.reinitialize, num_layers)

    def permuted(self, num_layers: int) -> set[Part]:
        """The parts of a model of `num_layers` layers whose values are permuted."""
        return parts(self.permute, num_layers)

    def drawn_and_permuted(self, num_layers: int) -> list[Refusal]:
        """What is permuted though it is drawn anew, with paths below `enter`; the model has every
        layer that is named."""
        drawn = self.redrawn(num_layers)
        other = "reinitialize" if self.reinitialize else "keep_only"
        return [
            (
                ("permute", group.name),
                f"'{group}' is permuted, and {other} has it drawn anew, or some of it",
                "permute what is not drawn anew, or draw it and do not permute it",
            )
            for group in self.permute
            if parts([group], num_layers) & drawn
        ]

    def layers_beyond(self, num_layers: int) -> list[Refusal]:
        """What names layers that a model of `num_layers` layers lacks, with paths below `enter`."""
        return [
            (
                (key, group.name),
                f"'{Group(group.name, group.layers)}' goes beyond the model, whose layers are "
                f"0..{num_layers - 1}",
                f"write {group.name}: all, or layers that the trainer's model has",
            )
            for key in ("reinitialize", "keep_only", "permute", "freeze")
            for group in getattr(self, key)
            if group.layers is not None and group.layers[1] >= num_layers
        ]
