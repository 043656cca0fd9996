"""Trainers: with what it is learned. The grammar of `trainers/*.yaml`, and of `optimizer:`.

A trainer holds the model, the hardware's needs and the token budget; any curriculum runs under any
trainer. Stages override parts of its optimizer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import PlainValidator, WithJsonSchema, field_validator
from pydantic import model_validator as check

from ncamix.errors import nearest
from ncamix.quantities import (
    AboveZero,
    NotNegative,
    Positive,
    Quantity,
    Whole,
    quantity_of,
    refuse,
)
from ncamix.reading import Document, read_document, unknown_key
from ncamix.schedule import Schedule, is_name, parse_number
from ncamix.sources.base import Spec
from ncamix.sources.blend import Cycle
from ncamix.validation import validate

DECAYS = ("cosine", "linear", "constant", "inverse_sqrt")


@dataclass(frozen=True)
class LearningRate:
    """The short form of a learning-rate schedule.

    Rates have the unit '' (absolute) or 'x' (times the trainer's peak). Warm-up rises linearly from
    zero; decay falls from the peak to the floor at the stage's end. A stage that starts by
    continuing warms up from the rate at which the last one ended; without a peak, that is the peak.
    """

    start: Literal["continue"] | None = None
    peak: Quantity = Quantity(Fraction(1), "x")
    warmup: Quantity = Quantity(Fraction(0), "%")
    decay: str = "constant"
    floor: Quantity = Quantity(Fraction(0), "")


def parse_learning_rate(written: Any) -> LearningRate | Schedule:
    """Read `{peak, warmup, decay, floor}`, keyframes, or a bare rate."""
    if isinstance(written, dict) and (not written or all(is_name(str(key)) for key in written)):
        known = ("peak", "warmup", "decay", "floor")
        for key in written:
            if key not in known:
                raise refuse(*unknown_key(str(key), known, ("start",)), (key,))
        default = LearningRate()
        decay = written.get("decay", default.decay)
        if decay not in DECAYS:
            raise refuse(f"unknown decay '{decay}'", nearest(str(decay), DECAYS), ("decay",))
        warmup = default.warmup
        if "warmup" in written:
            units = ("%", "tok", "ba")
            warmup = quantity_of(written["warmup"], units, "10%, 5Mtok or 100ba", ("warmup",))
            if warmup.value < 0 or (warmup.unit == "%" and warmup.value > 100):
                raise refuse("a warm-up lies within its stage", "write 10%", ("warmup",))
        rates = {}
        for key in ("peak", "floor"):
            rates[key] = getattr(default, key)
            if key in written:
                rates[key] = quantity_of(written[key], ("", "x"), "3e-4 or 0.2x", (key,))
                if rates[key].value < 0:
                    raise refuse("a rate is negative", "write 0 or more", (key,))
        if "floor" in written and decay not in ("cosine", "linear"):
            raise refuse(
                f"a floor is where a decay ends, and {decay} does not end anywhere",
                "add decay: cosine or decay: linear, or remove the floor",
                ("floor",),
            )
        return LearningRate(None, rates["peak"], warmup, decay, rates["floor"])
    return parse_number(written)


Rate = Annotated[
    LearningRate | Schedule,
    PlainValidator(parse_learning_rate),
    WithJsonSchema({"type": ["number", "string", "object", "array"]}),
]


def _betas(written: Any) -> tuple[Fraction, Fraction]:
    if not isinstance(written, list) or len(written) != 2:
        raise refuse("betas are two numbers", "write [0.9, 0.95]")
    if not all(isinstance(b, int | Decimal) and 0 <= b < 1 for b in written):
        raise refuse("betas lie between 0 and 1", "write [0.9, 0.95]")
    return (Fraction(written[0]), Fraction(written[1]))


class Optimizer(Spec):
    """Optimizer keys; in a stage, those given replace the trainer's."""

    kind: Literal["adamw", "adam"] | None = None
    lr: Rate | None = None
    cycle: Cycle | None = None
    betas: Annotated[tuple[Fraction, Fraction] | None, PlainValidator(_betas)] = None
    eps: AboveZero | None = None
    weight_decay: NotNegative | None = None
    clip: AboveZero | None = None

    @check(mode="after")
    def _check(self) -> Optimizer:
        if self.cycle is not None and not isinstance(self.lr, tuple):
            raise refuse(
                "a cycle repeats the keyframes of the `lr` beside it, and there are none",
                "write lr: {0%: 1x, 100%: 0.1x}, or remove the cycle",
                ("cycle",),
            )
        return self

    def under(self, stage: Optimizer) -> Optimizer:
        """These values with a stage's own laid over them."""
        merged = {
            name: getattr(self, name) if getattr(stage, name) is None else getattr(stage, name)
            for name in Optimizer.model_fields
        }
        if stage.lr is not None:
            merged["cycle"] = stage.cycle  # a cycle belongs to the schedule beside it
        return Optimizer.model_construct(**merged)


class Model(Spec):
    """A Llama-style decoder. Widths in units, `mlp_width` is of the gated MLP."""

    later: ClassVar[tuple[str, ...]] = ("path", "config")

    kind: Literal["llama"] = "llama"
    layers: Positive
    heads: Positive
    kv_heads: Positive | None = None
    width: Positive
    mlp_width: Positive | None = None
    rope_theta: AboveZero = Fraction(10_000)
    tie_embeddings: bool = False

    @check(mode="after")
    def _check(self) -> Model:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise refuse(
                f"the width {self.width} does not split into {self.heads} heads of even size",
                "choose a width that is a multiple of 2 x heads",
            )
        if self.kv_heads and self.heads % self.kv_heads:
            raise refuse(
                "heads is not a multiple of kv_heads",
                "choose kv_heads that divides it",
                ("kv_heads",),
            )
        return self

    @property
    def attention(self) -> str:
        return "sdpa"

    @property
    def dropout(self) -> float:
        return 0.0

    def num_parameters(self, rows: int) -> int:
        """Trained numbers of the model with `rows` vocabulary rows."""
        mlp = self.mlp_width or 4 * self.width
        kv = self.width * (self.kv_heads or self.heads) // self.heads
        layer = 2 * self.width**2 + 2 * self.width * kv + 3 * self.width * mlp + 2 * self.width
        return self.layers * layer + self.width + rows * self.width * (2 - self.tie_embeddings)


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

    every: Annotated[Quantity, PlainValidator(_interval)] = Quantity(Fraction(10), "%")
    keep: Positive = 2


def _microbatch(written: Any) -> int | None:
    if written == "auto":
        return None
    if isinstance(written, int) and not isinstance(written, bool) and written >= 1:
        return written
    raise refuse("not a microbatch", "write auto, or samples a device takes at once")


class Trainer(Spec):
    """A checked trainer. `batch_size` is the global one, whatever the devices.

    canonical_nodes: owners that the samples of endless sources are split over; a run on any divisor
    of so many nodes generates each sample on one of them, and trains on the same batches.
    """

    later: ClassVar[tuple[str, ...]] = ("compile", "activation_checkpointing", "averaging")

    ncamix: Whole
    name: str
    model: Model
    sequence_length: Positive
    batch_size: Positive
    budget: Annotated[Quantity, PlainValidator(_budget)]
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    microbatch: Annotated[int | None, PlainValidator(_microbatch)] = None
    parallelism: Literal["ddp", "fsdp"] = "ddp"
    workers: Whole = 0
    canonical_nodes: Positive = 1
    optimizer: Optimizer
    checkpoint: Checkpoint = Checkpoint()

    @field_validator("name", mode="after")
    @classmethod
    def _name(cls, name: str) -> str:
        if not is_name(name):
            raise refuse(f"'{name}' cannot name a trainer", "use letters, digits, _ and -")
        return name

    @check(mode="after")
    def _check(self) -> Trainer:
        if self.optimizer.lr is None:
            raise refuse(
                "the trainer's optimizer has no learning rate", "add `lr: 3e-4`", ("optimizer",)
            )
        if self.batch_size % self.canonical_nodes:
            raise refuse(
                f"a batch of {self.batch_size} samples does not split over "
                f"{self.canonical_nodes} canonical nodes",
                "choose a divisor of the batch size",
                ("canonical_nodes",),
            )
        if self.sequence_length < 2:
            raise refuse("a sequence holds at least 2 tokens", "write 256", ("sequence_length",))
        rates = (
            [self.optimizer.lr.peak]
            if isinstance(self.optimizer.lr, LearningRate)
            else [frame.value for frame in self.optimizer.lr]
        )
        if any(rate.unit == "x" for rate in rates):
            raise refuse(
                "a trainer's rate cannot be relative to itself",
                "write it as 3e-4",
                ("optimizer", "lr"),
            )
        if not any(rate.value for rate in rates):
            raise refuse("the learning rate is zero", "write it as 3e-4", ("optimizer", "lr"))
        return self

    def base_rate(self) -> Fraction:
        """The rate that `1x` means: the trainer's peak."""
        rate = self.optimizer.lr
        assert rate is not None
        if isinstance(rate, LearningRate):
            return rate.peak.value
        return max(Fraction(frame.value.value) for frame in rate)


@dataclass(frozen=True)
class LoadedTrainer:
    """A trainer and the document it was read from."""

    trainer: Trainer
    document: Document


def load_trainer(file: str | Path) -> LoadedTrainer:
    """Read and check a trainer. Raises UserError with every problem found."""
    document = read_document(file)
    return LoadedTrainer(validate(Trainer, document), document)


def has_gpu() -> bool:
    """Whether this machine shows a CUDA device, found out without importing torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1", "NoDevFiles"):
        return False
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
