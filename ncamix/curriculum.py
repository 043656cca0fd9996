"""Curricula: what is learned. The grammar of `curricula/*.yaml`, checked and kept exact.

A curriculum names sources and stages; it says nothing of models, devices or batch sizes (a stage
may override the batch size). Reading one imports neither torch nor numba.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    PlainValidator,
    Tag,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    field_validator,
)
from pydantic import model_validator as check

from ncamix.errors import Problem, UserError, nearest
from ncamix.keys import fingerprint
from ncamix.quantities import Positive, Quantity, Whole, quantity_of, refuse
from ncamix.reading import Document, not_yet, read_document
from ncamix.schedule import is_name
from ncamix.sources import (
    KINDS,
    LATER_KINDS,
    BlendSource,
    DyckSource,
    NcaSource,
    NoiseSource,
    SourceSpec,
    Spec,
    TextSource,
)
from ncamix.sources.base import plain
from ncamix.sources.blend import Cycle, MixtureSchedule
from ncamix.trainer import Optimizer
from ncamix.validation import examine, in_order, problems_of, validate

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


_Kinded = Annotated[dict[str, Any], BeforeValidator(_check_kind)]

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

    later: ClassVar[tuple[str, ...]] = ("extends",)

    ncamix: Whole
    name: str
    seed: Annotated[Seeds, PlainValidator(_seeds), WithJsonSchema({"type": "integer"})] = Seeds(
        0, 0, 0
    )
    tokenizer: Annotated[Tokenizer | None, PlainValidator(_tokenizer)] = None
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


@dataclass(frozen=True)
class LoadedCurriculum:
    """A curriculum and the document it was read from, for errors found later."""

    curriculum: Curriculum
    document: Document

    @property
    def folder(self) -> Path:
        """Where the curriculum's relative paths start."""
        return Path(self.document.file).resolve().parent


def load_curriculum(file: str | Path) -> LoadedCurriculum:
    """Read and check a curriculum. Raises UserError with every problem found."""
    document = read_document(file)
    curriculum, problems = examine(Curriculum, document)
    problems += _cross_check(curriculum or _readable_part(document), document)
    if curriculum is None or problems:
        raise UserError(in_order(problems))
    return LoadedCurriculum(curriculum, document)


def read_source(document: Document) -> SourceSpec:
    """Check a document that is one source alone. Raises UserError with every problem found."""
    try:
        written = TypeAdapter(_Kinded).validate_python(document.tree.plain())
    except ValidationError as error:
        raise UserError(problems_of(error, Curriculum, document)) from None
    return validate(KINDS[written["kind"]], document)


def _readable_part(document: Document) -> Curriculum:
    """What can be read of a faulty curriculum, so that its names are checked all the same.

    Faulty sources and stages are None in it.
    """
    written = document.tree.plain()

    def attempt(model: Any, value: Any, otherwise: Any = None) -> Any:
        try:
            return TypeAdapter(model).validate_python(value)
        except ValidationError:
            return otherwise

    sources, stages = written.get("sources"), written.get("stages")
    return Curriculum.model_construct(
        tokenizer=attempt(
            Curriculum.__annotations__["tokenizer"], written.get("tokenizer"), Tokenizer("bytes")
        ),
        sources={
            name: attempt(Source, source)
            for name, source in (sources if isinstance(sources, dict) else {}).items()
        },
        stages=tuple(
            attempt(Stage, stage) for stage in (stages if isinstance(stages, list) else [])
        ),
        evaluate=attempt(Evaluate, written.get("evaluate", {}), Evaluate()),
    )


def _cross_check(c: Curriculum, document: Document) -> list[Problem]:
    """What no key can know by itself: names that refer to others."""
    problems: list[Problem] = []
    stages = [(i, stage) for i, stage in enumerate(c.stages) if stage is not None]

    def bad(path: tuple[str | int, ...], what: str, remedy: str = "") -> None:
        problems.append(document.problem(path, what, remedy))

    def check_names(path: tuple[str | int, ...], frames: Any) -> None:
        for i, frame in enumerate(frames):
            for name in frame.value:
                if name not in c.sources:
                    where = _mixture_path(document, path, i, name)
                    bad(where, f"unknown source '{name}'", nearest(name, c.sources, "sources"))

    for name, source in c.sources.items():
        if not is_name(name):
            bad(("sources", name), f"'{name}' cannot name a source", "use letters, digits, _, -")
        if isinstance(source, BlendSource):
            check_names(("sources", name, "mixture"), source.mixture)
    if not problems:
        for name in c.sources:
            if _in_cycle(name, c):
                bad(("sources", name), f"the blend '{name}' contains itself", "break the circle")
    texts = [name for name, source in c.sources.items() if isinstance(source, TextSource)]
    if texts and c.tokenizer is None:
        bad(
            ("tokenizer",),
            f"the text source '{texts[0]}' needs a tokenizer",
            f"add `tokenizer: {{bpe: 4096, train_on: [{texts[0]}]}}` or `tokenizer: bytes`",
        )
    for i, name in enumerate(c.tokenizer.train_on if c.tokenizer else ()):
        faulty = name in c.sources and c.sources[name] is None  # it may well be text
        if name not in texts and not faulty:
            bad(
                ("tokenizer", "train_on", i),
                f"'{name}' is not a text source",
                nearest(name, texts, "text sources"),
            )
    seen: set[str] = set()
    for i, stage in stages:
        if stage.name in seen:
            bad(("stages", i, "name"), f"two stages are named '{stage.name}'", "rename one")
        seen.add(stage.name)
        check_names(("stages", i, "mixture"), stage.mixture)
    resting = [i for i, stage in stages if stage.duration is None]
    for i in resting[1:]:
        bad(("stages", i, "duration"), "two stages say `rest`", "give one a duration")
    for i, name in enumerate(c.evaluate.sources):
        evaluated = c.sources.get(name)
        where = ("evaluate", "sources", i)
        if name not in c.sources:
            bad(where, f"unknown source '{name}'", nearest(name, c.sources, "sources"))
        elif name in c.evaluate.sources[:i]:
            bad(where, f"'{name}' stands twice", "keep one of them")
        elif isinstance(evaluated, BlendSource):
            bad(where, f"'{name}' is a blend", "evaluate the sources it mixes")
        elif isinstance(evaluated, TextSource) and evaluated.holdout is None:
            bad(
                where,
                f"the text source '{name}' holds nothing out for evaluation",
                "add `holdout: {share: 0.02, by: document}` to it",
            )
    return problems


def _mixture_path(
    document: Document, path: tuple[str | int, ...], index: int, name: str
) -> tuple[str | int, ...]:
    """The path of a source's weight in a mixture, whichever form the mixture was written in."""
    written = document.find(path)[0].value
    if isinstance(written, list):
        return (*path, index, "mix", name)
    keys = list(written)
    return (*path, name) if is_name(keys[0]) else (*path, keys[index], name)


def _in_cycle(name: str, c: Curriculum) -> bool:
    seen: set[str] = set()
    queue = [name]
    while queue:
        source = c.sources[queue.pop()]
        if not isinstance(source, BlendSource):
            continue
        for frame in source.mixture:
            for inner in frame.value:
                if inner == name:
                    return True
                if inner not in seen:
                    seen.add(inner)
                    queue.append(inner)
    return False
