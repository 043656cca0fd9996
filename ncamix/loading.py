"""Loading: a curriculum's file becomes a checked curriculum, or every mistake in it.

What no key can know by itself is found here: names that refer to others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ncamix.curriculum import (
    Curriculum,
    Evaluate,
    Kinded,
    Source,
    Stage,
    Tokenizer,
    WrittenTokenizer,
)
from ncamix.errors import Problem, UserError, nearest
from ncamix.reading import Document, read_document
from ncamix.schedule import is_name
from ncamix.sources import KINDS, BlendSource, SourceSpec, TextSource
from ncamix.validation import examine, in_order, problems_of, validate


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
    return check_curriculum(read_document(file))


def check_curriculum(document: Document) -> LoadedCurriculum:
    """Check a curriculum that was read. Raises UserError with every problem found."""
    curriculum, problems = examine(Curriculum, document)
    problems += _cross_check(curriculum or _readable_part(document), document)
    if curriculum is None or problems:
        raise UserError(in_order(problems))
    return LoadedCurriculum(curriculum, document)


def read_source(document: Document) -> SourceSpec:
    """Check a document that is one source alone. Raises UserError with every problem found."""
    try:
        written = TypeAdapter(Kinded).validate_python(document.tree.plain())
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
        tokenizer=attempt(WrittenTokenizer, written.get("tokenizer"), Tokenizer("bytes")),
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
