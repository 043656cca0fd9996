"""From a document to checked values: pydantic does the checking, the document says where.

Every mistake of a document is found at once and reported with file, line, YAML path, value and the
way out. Keys of the language that this version does not do yet are refused as such, never ignored.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ncamix.errors import Problem, UserError, nearest
from ncamix.reading import Document, unknown_key

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], document: Document) -> Model:
    """Check a document against a model. Raises UserError with every problem found."""
    try:
        return model.model_validate(document.tree.plain(), context={"file": document.file})
    except ValidationError as error:
        raise UserError(problems_of(error, model, document)) from None


def problems_of(
    error: ValidationError, model: type[BaseModel], document: Document
) -> list[Problem]:
    """The problems behind a pydantic error, in the order of the file."""
    problems: list[Problem] = []
    for item in error.errors(include_url=False):
        path = tuple(item["loc"])
        kind = item["type"]
        context = item.get("ctx") or {}
        if kind == "ncamix":
            for below, what, remedy in context["problems"]:
                problems.append(document.problem((*path, *below), what, remedy))
        elif kind == "extra_forbidden":
            owner = _model_at(model, path[:-1], document)
            known = list(owner.model_fields) if owner else []
            later = getattr(owner, "later", ())
            problems.append(document.problem(path, *unknown_key(str(path[-1]), known, later)))
        elif kind == "missing":
            problems.append(document.problem(path, "this key is missing", f"add `{path[-1]}:`"))
        elif kind == "literal_error":
            choices = [c.strip(" '") for c in context["expected"].replace(" or ", ",").split(",")]
            written = str(item["input"])
            problems.append(
                document.problem(path, "not one of the choices", nearest(written, choices))
            )
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
            problems.append(document.problem(path, "text is wanted here", "quote the value"))
        elif kind == "bool_type":
            problems.append(document.problem(path, "true or false is wanted here", ""))
        else:
            problems.append(document.problem(path, item["msg"]))
    return sorted(problems, key=lambda p: (p.line, p.column))


def _model_at(
    model: type[BaseModel] | None, path: tuple[Any, ...], document: Document
) -> type[BaseModel] | None:
    """The model that reads the mapping at `path`."""
    from typing import get_args

    from ncamix.sources import KINDS

    if model is None or not path:
        return model
    step, rest = path[0], path[1:]
    field = model.model_fields.get(str(step))
    if field is None:
        return None
    if step == "sources":  # sources.<name>.<tag>
        return KINDS.get(str(rest[1])) and _model_at(KINDS[str(rest[1])], rest[2:], document)
    if rest and isinstance(rest[0], int):
        rest = rest[1:]
    inner = [field.annotation, *get_args(field.annotation)]
    for annotation in [*inner, *(a for i in inner for a in get_args(i))]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return _model_at(annotation, rest, document)
    return None
