"""Curricula: what is learned. The grammar of `curricula/*.yaml`, checked and kept exact.

A curriculum names sources and stages; it says nothing of models or devices (a stage may override
the trainer's batch size, sequence length, precision and optimizer). Reading one imports neither
torch nor numba.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    WithJsonSchema,
    field_validator,
)

from ncamix import forms
from ncamix.entry import Enter
from ncamix.errors import nearest
from ncamix.evidence import WrittenUntil
from ncamix.keys import fingerprint
from ncamix.quantities import Positive, Quantity, Whole, quantity_of, refuse
from ncamix.schedule import is_name
from ncamix.sources import KINDS, BlendSource, SourceSpec, Spec
from ncamix.sources.base import plain
from ncamix.sources.blend import Cycle, MixtureSchedule
from ncamix.sources.corpus import Files
from ncamix.tokenization import END_OF_TEXT, NUM_BYTE_IDS
from ncamix.trainer import Optimizer, Precision, SequenceLength


@dataclass(frozen=True)
class Seeds:
    """Seeds by purpose: weights drawn, order of finite sources, rules of automata and noise."""

    init: int
    order: int
    rules: int


_PURPOSES = tuple(part.name for part in fields(Seeds))
_SEED: forms.Form = {"type": "integer", "minimum": 0}


def _seeds(written: Any) -> Seeds:
    if isinstance(written, int) and not isinstance(written, bool) and written >= 0:
        return Seeds(written, written, written)
    if not isinstance(written, dict):
        raise refuse("not a seed", "write 17, or {init: 1, order: 2, rules: 3}")
    for key in written:
        if key not in _PURPOSES:
            raise refuse(f"unknown seed '{key}'", nearest(str(key), _PURPOSES), (key,))
    for key in _PURPOSES:
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
    special: tuple[str, ...] = ()  # bpe: further special tokens, which stand behind the end of text
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
        if key not in (known := ["bpe", "train_on", "special"]):
            raise refuse(f"unknown key '{key}'", nearest(str(key), known), (key,))
    size, sources = written.get("bpe"), written.get("train_on")
    if isinstance(size, bool) or not isinstance(size, int) or not 257 <= size <= 1 << 20:
        raise refuse("the size of a BPE tokenizer is 257 to 1,048,576 ids", way_out, ("bpe",))
    if not isinstance(sources, list) or not sources or not all(isinstance(s, str) for s in sources):
        raise refuse("`train_on` lists the text sources it is trained on", way_out, ("train_on",))
    return Tokenizer("bpe", size, tuple(sources), _special(written.get("special", []), size))


def _special(written: Any, size: int) -> tuple[str, ...]:
    way_out = 'write special: ["<|user|>", "<|assistant|>"]'
    if not isinstance(written, list) or not all(isinstance(t, str) and t.strip() for t in written):
        raise refuse("`special` lists tokens", way_out, ("special",))
    if len({*written, END_OF_TEXT}) <= len(written):
        what = f"a special token comes twice; {END_OF_TEXT} is there without being named"
        raise refuse(what, "write each once", ("special",))
    if size < NUM_BYTE_IDS + len(written):
        what = f"{size:,} ids hold no {NUM_BYTE_IDS} bytes and end of text and {len(written)} more"
        raise refuse(what, "raise the size", ("bpe",))
    return tuple(written)


WrittenTokenizer = Annotated[
    Tokenizer | None,
    PlainValidator(_tokenizer),
    WithJsonSchema(
        forms.either(
            forms.choice("bytes"),
            forms.mapping(
                {
                    "bpe": forms.about(
                        {"type": "integer", "minimum": 257, "maximum": 1 << 20},
                        "Ids of the vocabulary, special ones included.",
                    ),
                    "train_on": forms.about(
                        forms.array({"type": "string"}), "The text sources that it is trained on."
                    ),
                    "special": forms.about(
                        forms.array({"type": "string"}),
                        "Further special tokens, for templates of pairs.",
                    ),
                },
                required=("bpe", "train_on"),
            ),
            forms.mapping(
                {"pretrained": forms.about({"type": "string"}, "A path, or an id of the hub.")},
                required=("pretrained",),
            ),
        )
    ),
]


class Vocabulary(Spec):
    """How the ids of text and automata share the model's vocabulary."""

    layout: Annotated[
        Literal["disjoint", "overlay"],
        Field(description="Whether kinds of sources have ids of their own, or share them from 0."),
    ] = "disjoint"
    alphabets: Annotated[
        Literal["separate", "shared"],
        Field(description="Whether automata of other alphabets have ids of their own."),
    ] = "separate"
    rows: Annotated[
        Positive | None,
        Field(description="Rows of the embedding: as many as the sources need by default."),
    ] = None
    softmax: Annotated[
        Literal["active", "all"],
        Field(description="Whether losses normalise over the stage's ids alone, or over all rows."),
    ] = "active"


def _duration(written: Any) -> Quantity | None:
    """A share of the budget, tokens, batches or epochs; None is `rest`."""
    if written == "rest":
        return None
    example = "15%, 164Mtok, 500ba, 10ep or rest"
    duration = quantity_of(written, ("%", "tok", "ba", "ep"), example)
    if duration.value <= 0:
        raise refuse("a duration is longer than nothing", f"write {example}")
    if duration.unit == "%" and duration.value > 100:
        raise refuse("more than the whole budget", "write at most 100%")
    return duration


class Stage(Spec):
    """A duration, a mixture, an optimizer, and what happens on entering."""

    name: Annotated[str, WithJsonSchema(forms.WORD), Field(description="Letters, digits, _ and -.")]
    duration: Annotated[
        Quantity | None,
        PlainValidator(_duration),
        WithJsonSchema(forms.either(forms.choice("rest"), forms.quantity("%", "tok", "ba", "ep"))),
        Field(
            description="How long it is, or may be: 15% of the budget, 164Mtok, 500ba, "
            "10ep of its finite source, or rest."
        ),
    ]
    mixture: Annotated[
        MixtureSchedule,
        Field(description="Shares of sources: constant, by position, or a list of keyframes."),
    ]
    cycle: Annotated[
        Cycle | None, Field(description="Makes the keyframes of `mixture` repeat with this period.")
    ] = None
    transform: Annotated[
        Literal["reverse", "flatten"] | None,
        Field(description="Plays the mixture backwards, or spreads the same samples evenly."),
    ] = None
    draw: Annotated[
        dict[str, Literal["new", "replay"]],
        Field(description="Sources that deal samples of earlier stages again, in another order."),
    ] = {}
    until: Annotated[
        WrittenUntil | None,
        Field(description="What evaluations must show for the stage to end early."),
    ] = None
    optimizer: Annotated[
        Optimizer, Field(description="Parts of the trainer's optimizer that this stage replaces.")
    ] = Optimizer()
    batch_size: Annotated[
        Positive | None, Field(description="Samples in a global batch, instead of the trainer's.")
    ] = None
    sequence_length: Annotated[
        SequenceLength | None,
        Field(description="Tokens that a sample is trained on, instead of the trainer's."),
    ] = None
    precision: Annotated[
        Precision | None, Field(description="The number format, instead of the trainer's.")
    ] = None
    enter: Annotated[
        Enter | None,
        Field(description="What happens to weights and optimizer when the stage begins."),
    ] = None

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
    """When and on what the model is evaluated, beside the start and end of every stage."""

    every: Annotated[
        Quantity,
        PlainValidator(_every),
        WithJsonSchema(forms.quantity("%", "tok", "ba")),
        Field(description="The interval: 10% of the whole run, 1Mtok or 50ba."),
    ] = Quantity(Fraction(10), "%")
    sources: Annotated[
        tuple[str, ...], Field(description="The sources whose held-out samples are evaluated.")
    ] = ()
    samples: Annotated[
        Positive,
        Field(description="Held-out samples of each source, at most: text has what it holds out."),
    ] = 64
    test: Annotated[
        Positive | None,
        Field(
            description="Samples of each source's test split, at most, evaluated once as the run "
            "ends: as many as `samples` by default."
        ),
    ] = None
    benchmarks: Annotated[
        Files,
        Field(
            description="Files of evaluation sets beside the sources, text or JSON lines, that "
            "texts are compared with."
        ),
    ] = None

    @field_validator("sources", mode="before")
    @classmethod
    def _list(cls, written: Any) -> Any:
        return tuple(written) if isinstance(written, list) else written

    @property
    def test_samples(self) -> int:
        """Samples of each source's test split, at most."""
        return self.samples if self.test is None else self.test


def _check_kind(written: Any) -> Any:
    if not isinstance(written, dict):
        raise refuse("a source is a mapping with a `kind`", "write {kind: nca, ...}")
    if "kind" not in written:
        raise refuse("the source has no `kind`", nearest("", KINDS, "kinds"))
    kind = written["kind"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise refuse(f"unknown kind '{kind}'", nearest(str(kind), KINDS, "kinds"), ("kind",))
    return written


Kinded = Annotated[dict[str, Any], BeforeValidator(_check_kind)]

if TYPE_CHECKING:
    Source = SourceSpec
else:
    Source = Annotated[
        Union[tuple(Annotated[spec, Tag(kind)] for kind, spec in KINDS.items())],  # noqa: UP007
        Discriminator(lambda written: written["kind"]),
        BeforeValidator(_check_kind),
    ]


class Curriculum(Spec):
    """A checked curriculum. `load_curriculum` reads one from a file."""

    ncamix: Annotated[
        Whole, WithJsonSchema(forms.VERSION), Field(description="The version of the language.")
    ]
    name: Annotated[str, WithJsonSchema(forms.WORD), Field(description="Letters, digits, _ and -.")]
    seed: Annotated[
        Seeds,
        PlainValidator(_seeds),
        WithJsonSchema(
            forms.either(_SEED, forms.mapping(dict.fromkeys(_PURPOSES, _SEED), required=_PURPOSES))
        ),
        Field(description="One seed for all purposes, or {init: 1, order: 2, rules: 3}."),
    ] = Seeds(0, 0, 0)
    tokenizer: Annotated[
        WrittenTokenizer,
        Field(description="How text becomes ids: bytes, {bpe: N, train_on: [...]} or pretrained."),
    ] = None
    vocabulary: Annotated[
        Vocabulary, Field(description="How the ids of all sources share the vocabulary.")
    ] = Vocabulary()
    sources: Annotated[
        dict[str, Source],
        Field(
            description="What samples are drawn from, by name.",
            json_schema_extra={"propertyNames": forms.WORD},
        ),
    ]
    stages: Annotated[
        tuple[Stage, ...],
        Field(
            description="What is learned, one stage after another.",
            json_schema_extra={"minItems": 1},
        ),
    ]
    evaluate: Annotated[
        Evaluate, Field(description="When the model is evaluated, and on what.")
    ] = Evaluate()

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

    def ranges_of(self, name: str) -> set[str]:
        """The vocabulary ranges that `name` means: of all sources of a kind, or of one source."""
        sources = {n: s for n, s in self.sources.items() if s and not isinstance(s, BlendSource)}
        ranges = {source.range_name() for source in sources.values()}
        of_kind = {range_name for range_name in ranges if range_name.split()[0] == name}
        return of_kind or ({sources[name].range_name()} if name in sources else set())

    def fingerprint(self) -> str:
        """Hash of the curriculum's meaning; spelling, comments and key order do not count."""
        return fingerprint(plain(self))
