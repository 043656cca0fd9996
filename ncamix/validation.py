"""From a document to checked values: pydantic does the checking, the document says where.

Every mistake of a document is found at once and reported with file, line, YAML path, value and the
way out. Keys of the language that this version does not do yet are refused as such, never ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ncamix.errors import Problem, UserError, nearest
from ncamix.models import MODELS
from ncamix.reading import Document, unknown_key
from ncamix.sources import KINDS, Spec
from ncamix.tree import Tree

Model = TypeVar("Model", bound=Spec)


def validate(model: type[Model], document: Document) -> Model:
    """Check a document against a model. Raises UserError with every problem found."""
    checked, problems = examine(model, document)
    if checked is None or problems:
        raise UserError(in_order(problems))
    return checked


def examine(model: type[Model], document: Document) -> tuple[Model | None, list[Problem]]:
    """A document as a model, or None, and every problem of its YAML and of its values."""
    problems = list(document.problems)
    empty = [] if model.nulls else list(_empty(document, document.tree, ()))
    try:
        return model.model_validate(document.tree.plain()), problems + empty
    except ValidationError as error:
        found = problems_of(error, model, document)
        unknown = {p.path for p in found if "unknown" in p.what}
        empty = [p for p in empty if p.path not in unknown]
        told = {p.path for p in empty}
        return None, problems + empty + [p for p in found if p.path not in told]


def _empty(document: Document, tree: Tree, path: tuple[str | int, ...]) -> Iterator[Problem]:
    """Keys with nothing behind them: a value that was forgotten is not a default."""
    items = tree.value.items() if isinstance(tree.value, dict) else enumerate(tree.value)
    for key, child in items:
        if child.value is None:
            what = f"nothing is written for '{key}'"
            yield document.problem((*path, key), what, "write a value, or remove the key")
        elif isinstance(child.value, dict | list):
            yield from _empty(document, child, (*path, key))


def in_order(problems: list[Problem]) -> list[Problem]:
    """Problems in the order of the file, each once."""
    return sorted(dict.fromkeys(problems), key=lambda p: (p.file, p.line, p.column))


def problems_of(error: ValidationError, model: type[Spec], document: Document) -> list[Problem]:
    """The problems behind a pydantic error."""
    problems: list[Problem] = []
    for item in error.errors(include_url=False):
        loc = item["loc"]  # as the file has it, but with the kind of a source or a model in it
        path = (*loc[:2], *loc[3:]) if loc[:1] == ("sources",) else loc
        path = (*loc[:1], *loc[2:]) if loc[:1] == ("model",) and loc[1:] else path
        kind = item["type"]
        context = item.get("ctx") or {}
        if kind == "ncamix":
            for below, what, remedy in context["problems"]:
                problems.append(document.problem((*path, *below), what, remedy))
        elif kind == "extra_forbidden":
            owner = _model_at(model, loc[:-1])
            known = list(_fields(owner)) if owner else []
            if owner is model and "ncamix" in known:
                known.insert(1, "extends")  # which composition has taken up already
            later = owner.later if owner else ()
            problems.append(document.problem(path, *unknown_key(str(path[-1]), known, later)))
        elif kind == "missing":
            problems.append(document.problem(path, "this key is missing", f"add `{path[-1]}:`"))
        elif kind == "literal_error":
            choices = [c.strip(" '") for c in context["expected"].replace(" or ", ",").split(",")]
            remedy = nearest(str(item["input"]), choices, "choices")
            problems.append(document.problem(path, "not one of the choices", remedy))
        elif kind in ("model_type", "model_attributes_type", "dict_type"):
            problems.append(
                document.problem(
                    path,
                    "a mapping of keys to values is wanted here",
                    "write `key: value` lines below it",
                )
            )
        elif kind in ("list_type", "tuple_type"):
            problems.append(document.problem(path, "a list is wanted here", "write [a, b]"))
        elif kind == "string_type":
            problems.append(document.problem(path, "text is wanted here", "write it in quotes"))
        elif kind in ("bool_type", "bool_parsing"):
            problems.append(document.problem(path, "not true or false", "write true or false"))
        else:  # no kind of error that the models of ncamix are known to raise
            problems.append(document.problem(path, item["msg"]))
    return problems


def _model_at(model: type[Spec], path: tuple[Any, ...]) -> type[Spec] | None:
    """The model that reads the mapping at `path`."""
    if not path:
        return model
    step, rest = path[0], path[1:]
    if step == "sources":  # sources.<name>.<tag>
        return _model_at(KINDS[str(rest[1])], rest[2:])
    if step == "model" and rest:  # model.<tag>
        return _model_at(MODELS[str(rest[0])], rest[1:])
    if rest and isinstance(rest[0], int):
        rest = rest[1:]
    annotation = _fields(model)[str(step)].annotation
    inner = [annotation, *get_args(annotation)]
    for choice in [*inner, *(a for i in inner for a in get_args(i))]:
        if isinstance(choice, type) and issubclass(choice, Spec):
            return _model_at(choice, rest)
    return None


def _fields(model: type[Spec]) -> dict[str, FieldInfo]:
    """The fields of a model by their keys in the file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}
