"""Trainers: with what it is learned. The grammar of `trainers/*.yaml`.

A trainer holds the model, the hardware's needs and the token budget; any curriculum runs under any
trainer. Stages override parts of its optimizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema, field_validator
from pydantic import model_validator as check

from ncamix import forms
from ncamix.composition import Setting, compose
from ncamix.errors import UserError
from ncamix.loggers import Loggers
from ncamix.models import AnyModel
from ncamix.optimizer import Averaging, LearningRate, Optimizer, Scaled, peaks
from ncamix.quantities import NotNegative, Positive, Quantity, Whole, positive, quantity_of, refuse
from ncamix.reading import Document
from ncamix.schedule import is_name
from ncamix.sources.base import Spec
from ncamix.validation import validate

Precision = Literal["fp32", "bf16", "fp16"]


def _budget(written: Any) -> Quantity:
    budget = quantity_of(written, ("tok",), "1Mtok or 10Gtok")
    if budget.value <= 0:
        raise refuse("a budget is more than nothing", "write 1Mtok or 10Gtok")
    return budget


def _interval(written: Any) -> Quantity:
    every = quantity_of(written, ("%", "ba"), "10% or 500ba")
    if every.value <= 0:
        raise refuse("an interval is longer than nothing", "write 10% or 500ba")
    return every


class Checkpoint(Spec):
    """How often a checkpoint is written (`%` is of the stage) and how many are kept.

    The last checkpoint of each stage always stays.
    """

    every: Annotated[
        Quantity,
        PlainValidator(_interval),
        WithJsonSchema(forms.quantity("%", "ba")),
        Field(description="How often a checkpoint is written, such as 10% of the stage or 500ba."),
    ] = Quantity(Fraction(10), "%")
    keep: Annotated[Positive, Field(description="How many checkpoints of a stage are kept.")] = 2


def _count_or_auto(what: str, remedy: str) -> PlainValidator:
    """Reads a whole number, or `auto` as None; otherwise it is `what`."""

    def read(written: Any) -> int | None:
        if written == "auto":
            return None
        if isinstance(written, int) and not isinstance(written, bool) and written >= 1:
            return written
        raise refuse(what, remedy)

    return PlainValidator(read)


def _cache_limit(written: Any) -> Quantity | None:
    if written == "auto":
        return None
    limit = quantity_of(written, ("B",), "8GB, or auto")
    if limit.value < 1:
        raise refuse("a cache holds more than nothing", "write 8GB, or auto")
    return limit


def _predownload(written: Any) -> Quantity:
    ahead = quantity_of(written, ("ba",), "64ba")
    if ahead.value.denominator != 1 or ahead.value < 1:
        raise refuse("not a whole number of batches, 1 or more", "write 64ba")
    return ahead


def _sequence_length(written: Any) -> int:
    length = positive(written)
    if length < 2:
        raise refuse("a sequence holds at least 2 tokens", "write 256")
    return length


SequenceLength = Annotated[
    int,
    PlainValidator(_sequence_length),
    WithJsonSchema({"type": "integer", "minimum": 2}),
]


class Trainer(Spec):
    """A checked trainer. `batch_size` is the global one, whatever the devices.

    canonical_nodes: owners that the samples of endless sources are split over; a run on any divisor
    of so many nodes generates each sample on one of them, and trains on the same batches.
    cache_limit, predownload, generator_threads: where shards lie, when and on how many cores they
    are made; no batch depends on them. None is auto.
    """

    ncamix: Annotated[
        Whole, WithJsonSchema(forms.VERSION), Field(description="The version of the language.")
    ]
    name: Annotated[str, WithJsonSchema(forms.WORD), Field(description="Letters, digits, _ and -.")]
    model: Annotated[AnyModel, Field(description="The model that is trained.")]
    sequence_length: Annotated[
        SequenceLength, Field(description="Tokens that a sample is trained on.")
    ]
    batch_size: Annotated[
        Positive, Field(description="Samples in a global batch, whatever the devices.")
    ]
    budget: Annotated[
        Quantity,
        PlainValidator(_budget),
        WithJsonSchema(forms.quantity("tok")),
        Field(description="Tokens of a whole run, such as 1Mtok."),
    ]
    precision: Annotated[
        Precision, Field(description="The number format of training; fp16 needs GPUs.")
    ] = "fp32"
    microbatch: Annotated[
        int | None,
        _count_or_auto("not a microbatch", "write auto, or samples a device takes at once"),
        WithJsonSchema(forms.either(forms.choice("auto"), forms.COUNT)),
        Field(description="Samples that a device takes at once, or auto."),
    ] = None
    parallelism: Annotated[
        Literal["ddp", "fsdp"],
        Field(description="Whether devices hold the whole model or share it."),
    ] = "ddp"
    activation_checkpointing: Annotated[
        bool,
        Field(
            description="Whether layers compute their activations again instead of keeping them."
        ),
    ] = False
    compile: Annotated[bool, Field(description="Whether layers are compiled by torch.compile.")] = (
        False
    )
    workers: Annotated[Whole, Field(description="Processes that load data, of each rank.")] = 0
    cache_limit: Annotated[
        Quantity | None,
        PlainValidator(_cache_limit),
        WithJsonSchema(forms.either(forms.choice("auto"), forms.quantity("B"))),
        Field(description="Bytes of shards that a run keeps on each node, such as 8GB, or auto."),
    ] = None
    predownload: Annotated[
        Quantity,
        PlainValidator(_predownload),
        WithJsonSchema(forms.quantity("ba")),
        Field(description="Global batches ahead of training whose shards are made ready."),
    ] = Quantity(Fraction(64), "ba")
    generator_threads: Annotated[
        int | None,
        _count_or_auto(
            "not a number of threads", "write auto, or the threads of a node, 1 or more"
        ),
        WithJsonSchema(forms.either(forms.choice("auto"), forms.COUNT)),
        Field(description="Threads that generate on each node, at most, or auto."),
    ] = None
    canonical_nodes: Annotated[
        Positive, Field(description="Owners that the samples of endless sources are split over.")
    ] = 1
    optimizer: Annotated[Optimizer, Field(description="The optimizer; stages override its parts.")]
    z_loss: Annotated[
        NotNegative,
        Field(description="Factor of the squared log of the softmax's denominator in the loss."),
    ] = Fraction(0)
    averaging: Annotated[
        Averaging | None,
        Field(description="Averages the weights of each stage: {ema: 0.999} or {last: 10%}."),
    ] = None
    checkpoint: Annotated[
        Checkpoint, Field(description="How often state is saved, and how much is kept.")
    ] = Checkpoint()
    loggers: Annotated[Loggers, Field(description="Who else is told of a run while it trains.")] = (
        Loggers()
    )

    @field_validator("name", mode="after")
    @classmethod
    def _name(cls, name: str) -> str:
        if not is_name(name):
            raise refuse(f"'{name}' cannot name a trainer", "use letters, digits, _ and -")
        return name

    @field_validator("optimizer", mode="after")
    @classmethod
    def _optimizer(cls, optimizer: Optimizer) -> Optimizer:
        if not isinstance(optimizer.lr, Scaled):
            return optimizer
        return optimizer.model_copy(update={"lr": LearningRate(peak=optimizer.lr.peak)})

    @check(mode="after")
    def _check(self) -> Trainer:
        if self.optimizer.lr is None:
            raise refuse(
                "the trainer's optimizer has no learning rate", "add `lr: 3e-4`", ("optimizer",)
            )
        for (key,), what, remedy in self.optimizer.misplaced(self.optimizer.algorithm):
            raise refuse(what, remedy, ("optimizer", key))
        if self.batch_size % self.canonical_nodes:
            raise refuse(
                f"a batch of {self.batch_size} samples does not split over "
                f"{self.canonical_nodes} canonical nodes",
                "choose a divisor of the batch size",
                ("canonical_nodes",),
            )
        lr = self.optimizer.lr
        if isinstance(lr, LearningRate) and lr.start:
            raise refuse(
                "a trainer's rate has no stage before it to continue",
                "remove it; a stage may say `start: continue`",
                ("optimizer", "lr", "start"),
            )
        if any(rate.unit == "x" for rate in peaks(lr)):
            raise refuse(
                "a trainer's rate cannot be relative to itself",
                "write it as 3e-4",
                ("optimizer", "lr"),
            )
        if not any(rate.value for rate in peaks(lr)):
            raise refuse("the learning rate is zero", "write it as 3e-4", ("optimizer", "lr"))
        return self


@dataclass(frozen=True)
class LoadedTrainer:
    """A trainer and the document it was read from."""

    trainer: Trainer
    document: Document


def load_trainer(file: str | Path, settings: Sequence[str | Setting] = ()) -> LoadedTrainer:
    """Read and check a trainer, with `--set trainer...` applied. Raises UserError with everything
    that is wrong."""
    return check_trainer(compose(file, settings, "trainers"))


def check_trainer(document: Document) -> LoadedTrainer:
    """Check a trainer that was read, and find the files of its model. Raises UserError with
    everything that is wrong."""
    trainer = validate(Trainer, document)
    key = "path" if "path" in trainer.model.model_fields_set else "config"
    try:
        model = trainer.model.located(document.folder_of(("model", key)))
    except UserError as error:
        problem = error.problems[0]
        where = document.problem(("model", key), problem.what, problem.remedy)
        raise UserError(where) from None
    return LoadedTrainer(trainer.model_copy(update={"model": model}), document)
