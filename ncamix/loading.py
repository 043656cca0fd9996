"""Loading: a curriculum's file becomes a checked curriculum, or every mistake in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ncamix.composition import Setting, compose
from ncamix.curriculum import (
    Curriculum,
    Evaluate,
    Kinded,
    Source,
    Stage,
    Tokenizer,
    WrittenTokenizer,
)
from ncamix.errors import UserError
from ncamix.reading import Document
from ncamix.references import check_references
from ncamix.sources import KINDS, SourceSpec
from ncamix.validation import examine, in_order, problems_of, validate


@dataclass(frozen=True)
class LoadedCurriculum:
    """A curriculum and the document it was read from, for errors found later."""

    curriculum: Curriculum
    document: Document


def load_curriculum(file: str | Path, settings: Sequence[str | Setting] = ()) -> LoadedCurriculum:
    """Read and check a curriculum, with `--set ...` applied. Raises UserError with every problem
    found."""
    return check_curriculum(compose(file, settings))


def check_curriculum(document: Document) -> LoadedCurriculum:
    """Check a curriculum that was read. Raises UserError with every problem found."""
    curriculum, problems = examine(Curriculum, document)
    problems += check_references(curriculum or _readable_part(document), document)
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

    Faulty sources and stages are None in it, and so is a faulty `evaluate`.
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
        evaluate=attempt(Evaluate, written.get("evaluate", {})),
    )
