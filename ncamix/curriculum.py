"""Curricula: what is learned. The grammar of `curricula/*.yaml`, checked and kept exact.

A curriculum names sources and stages; it says nothing of models, devices or batch sizes (a stage
may override the batch size). Reading one imports neither torch nor numba.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    PlainValidator,
    Tag,
    WithJsonSchema,
    field_validator,
)
from pydantic import model_validator as check

from ncamix.errors import nearest
from ncamix.keys import fingerprint
from ncamix.quantities import Positive, Quantity, Whole, quantity_of, refuse
from ncamix.reading import not_yet
from ncamix.schedule import is_name
from ncamix.sources import (
    KINDS,
    LATER_KINDS,
    BlendSource,
    DyckSource,
    NcaSource,
    NoiseSource,
    Spec,
    TextSource,
)
from ncamix.sources.base import plain
from ncamix.sources.blend import Cycle, MixtureSchedule
from ncamix.trainer import Optimizer

GROUPS = ("embedding", "head", "embeddings", "attention", "mlp", "norms", "final_norm")


@dataclass(frozen=True)
class Seeds:
    """Seeds by purpose: weights drawn, order of finite sources, rules of automata and noise."""

    init: int
    order: int
    rules: int


def _seeds(written: Any) -> Seeds:
    if isinstance(written, int) and not isinstance(written, bool) and written >= 0:
        return Seeds(written, written, written)
    if not isinstance(written, dict):
        raise refuse("not a seed", "write 17, or {init: 1, order: 2, rules: 3}")
    known = ("init", "order", "rules")
    for key in written:
        if key not in known:
            raise refuse(f"unknown seed '{key}'", nearest(str(key), known), (key,))
    for key in known:
        value = written.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise refuse(f"the seed '{key}' is not a whole number", "give all three", (key,))
    return Seeds(written["init"], written["order"], written["rules"])


@dataclass(frozen=True)
class Tokenizer:
    """How text becomes ids: 'bytes', 'bpe' (trained on sources) or 'pretrained'."""

    kind: Literal["bytes", "bpe", "pretrained"]
    size: int = 0  # bpe: ids, special ones included
    train_on: tuple[str, ...] = ()
    name: str = ""  # pretrained: a path or a hub id


def _tokenizer(written: Any) -> Tokenizer:
    if written == "bytes":
        return Tokenizer("bytes")
    way_out = "write bytes, {bpe: 4096, train_on: [code]} or {pretrained: gpt2}"
    if not isinstance(written, dict):
        raise refuse("not a tokenizer", way_out)
    if "pretrained" in written:
        if set(written) != {"pretrained"} or not isinstance(written["pretrained"], str):
            raise refuse("a pretrained tokenizer is a path or a hub id alone", way_out)
        return Tokenizer("pretrained", name=written["pretrained"])
    for key in written:
        if key not in ("bpe", "train_on"):
            raise refuse(f"unknown key '{key}'", nearest(str(key), ["bpe", "train_on"]), (key,))
    size, sources = written.get("bpe"), written.get("train_on")
    if isinstance(size, bool) or not isinstance(size, int) or not 257 <= size <= 1 << 20:
        raise refuse("the size of a BPE tokenizer is 257 to 1,048,576 ids", way_out, ("bpe",))
    if not isinstance(sources, list) or not sources or not all(isinstance(s, str) for s in sources):
        raise refuse("`train_on` lists the text sources it is trained on", way_out, ("train_on",))
    return Tokenizer("bpe", size, tuple(sources))


WrittenTokenizer = Annotated[Tokenizer | None, PlainValidator(_tokenizer)]


class Vocabulary(Spec):
    """How the ids of text and automata share the model's vocabulary."""

    layout: Literal["disjoint", "overlay"] = "disjoint"
    alphabets: Literal["separate", "shared"] = "separate"
    rows: Positive | None = None
    softmax: Literal["active", "all"] = "active"


def _initializer(written: Any) -> str | Fraction:
    """'model', 'torch', or the standard deviation of a normal."""
    if written in ("model", "torch"):
        return str(written)
    if isinstance(written, dict) and set(written) == {"normal"}:
        value = written["normal"]
        if isinstance(value, int | Decimal) and not isinstance(value, bool) and value > 0:
            return Fraction(value)
    raise refuse("not an initializer", "write model, torch or {normal: 0.02}")


class Enter(Spec):
    """What happens to the weights and the optimizer on entering a stage."""

    later: ClassVar[tuple[str, ...]] = ("keep_only", "freeze", "spare", "from")

    reinitialize: tuple[str, ...] = ()
    initializer: Annotated[str | Fraction, PlainValidator(_initializer)] = "model"
    optimizer_state: Literal["fresh", "keep"] = "fresh"

    @field_validator("reinitialize", mode="before")
    @classmethod
    def _groups(cls, written: Any) -> tuple[str, ...]:
        items = [written] if isinstance(written, str) else written
        if not isinstance(items, list):
            raise refuse("a list of groups is wanted here", "write [embeddings]")
        for i, group in enumerate(items):
            if isinstance(group, dict):
                raise refuse(*not_yet("layer ranges", "name whole groups"), (i,))
            if group not in GROUPS:
                raise refuse(f"unknown group '{group}'", nearest(str(group), GROUPS), (i,))
        return tuple(items)

    @check(mode="after")
    def _check(self) -> Enter:
        if self.optimizer_state == "keep":
            way_out = "write optimizer_state: fresh"
            raise refuse(*not_yet("keep", way_out), ("optimizer_state",))
        return self


def _duration(written: Any) -> Quantity | None:
    """A share of the budget, tokens or batches; None is `rest`."""
    if written == "rest":
        return None
    duration = quantity_of(written, ("%", "tok", "ba", "ep"), "15%, 164Mtok, 500ba or rest")
    if duration.unit == "ep":
        raise refuse(*not_yet("ep", "write a share, tokens or batches"))
    if duration.value <= 0:
        raise refuse("a duration is longer than nothing", "write 15%, 164Mtok, 500ba or rest")
    if duration.unit == "%" and duration.value > 100:
        raise refuse("more than the whole budget", "write at most 100%")
    return duration


class Stage(Spec):
    """A duration, a mixture, an optimizer, and what happens on entering."""

    later: ClassVar[tuple[str, ...]] = (
        "until",
        "transform",
        "draw",
        "sequence_length",
        "precision",
    )

    name: str
    duration: Annotated[Quantity | None, PlainValidator(_duration)]
    mixture: MixtureSchedule
    cycle: Cycle | None = None
    optimizer: Optimizer = Optimizer()
    batch_size: Positive | None = None
    enter: Enter | None = None

    @field_validator("name", mode="after")
    @classmethod
    def _name(cls, name: str) -> str:
        if not is_name(name):
            raise refuse(f"'{name}' cannot name a stage", "use letters, digits, _ and -")
        return name


def _every(written: Any) -> Quantity:
    every = quantity_of(written, ("%", "tok", "ba"), "10%, 1Mtok or 50ba")
    if every.value <= 0:
        raise refuse("an interval is longer than nothing", "write 10%, 1Mtok or 50ba")
    return every


class Evaluate(Spec):
    """When and on what the model is evaluated, beside the start and end of every stage.

    every: an interval; `%` is of the whole run.
    samples: held-out samples of each source, at most (text has as many as its holdout).
    """

    every: Annotated[Quantity, PlainValidator(_every)] = Quantity(Fraction(10), "%")
    sources: tuple[str, ...] = ()
    samples: Positive = 64

    @field_validator("sources", mode="before")
    @classmethod
    def _list(cls, written: Any) -> Any:
        return tuple(written) if isinstance(written, list) else written


def _check_kind(written: Any) -> Any:
    if not isinstance(written, dict):
        raise refuse("a source is a mapping with a `kind`", "write {kind: nca, ...}")
    if "kind" not in written:
        raise refuse("the source has no `kind`", nearest("", KINDS, "kinds"))
    kind = written["kind"]
    if kind in LATER_KINDS:
        raise refuse(*not_yet(str(kind), nearest("", KINDS, "kinds")), ("kind",))
    if not isinstance(kind, str) or kind not in KINDS:
        raise refuse(f"unknown kind '{kind}'", nearest(str(kind), KINDS, "kinds"), ("kind",))
    return written


Kinded = Annotated[dict[str, Any], BeforeValidator(_check_kind)]

Source = Annotated[
    Annotated[NcaSource, Tag("nca")]
    | Annotated[TextSource, Tag("text")]
    | Annotated[NoiseSource, Tag("noise")]
    | Annotated[DyckSource, Tag("dyck")]
    | Annotated[BlendSource, Tag("blend")],
    Discriminator(lambda written: written["kind"]),
    BeforeValidator(_check_kind),
]


class Curriculum(Spec):
    """A checked curriculum. `load_curriculum` reads one from a file."""

    ncamix: Whole
    name: str
    seed: Annotated[Seeds, PlainValidator(_seeds), WithJsonSchema({"type": "integer"})] = Seeds(
        0, 0, 0
    )
    tokenizer: WrittenTokenizer = None
    vocabulary: Vocabulary = Vocabulary()
    sources: dict[str, Source]
    stages: tuple[Stage, ...]
    evaluate: Evaluate = Evaluate()

    @field_validator("name", mode="after")
    @classmethod
    def _name(cls, name: str) -> str:
        if not is_name(name):
            raise refuse(f"'{name}' cannot name a curriculum", "use letters, digits, _ and -")
        return name

    @field_validator("stages", mode="before")
    @classmethod
    def _stages(cls, written: Any) -> Any:
        if not isinstance(written, list) or not written:
            raise refuse("a curriculum has at least one stage", "write `stages: [{name: ...}]`")
        return tuple(written)

    def fingerprint(self) -> str:
        """Hash of the curriculum's meaning; spelling, comments and key order do not count."""
        return fingerprint(plain(self))
