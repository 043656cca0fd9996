"""What values look like as JSON Schema, by which editors check and complete the YAML files.

The validators decide what is accepted; a form says the same as far as JSON Schema can say it.
Numbers with units are text there, as they are to YAML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ncamix.quantities import quantity_pattern
from ncamix.reading import LANGUAGE_VERSION
from ncamix.schedule import EASES, NAME

Form = dict[str, Any]

WORD: Form = {"type": "string", "pattern": NAME}
VERSION: Form = {"const": LANGUAGE_VERSION}
COUNT: Form = {"type": "integer", "minimum": 1}


def quantity(*units: str, negative: bool = False) -> Form:
    """A number with one of `units`, of which '' is none."""
    written: Form = {"type": "string", "pattern": quantity_pattern(*units, negative=negative)}
    return either({"type": "number", "minimum": 0}, written) if "" in units else written


def either(*forms: Form) -> Form:
    """One of several forms, of which no value has two."""
    return {"oneOf": list(forms)}


def choice(*values: str) -> Form:
    """One of a few words."""
    return {"enum": list(values)}


def about(form: Form, description: str) -> Form:
    """A form with the sentence that an editor shows beside it."""
    return {**form, "description": description}


def mapping(keys: dict[str, Form], required: Sequence[str] = ()) -> Form:
    """A mapping that has no other keys."""
    form: Form = {"type": "object", "properties": keys, "additionalProperties": False}
    return {**form, "required": list(required)} if required else form


def table(pattern: str, value: Form) -> Form:
    """A mapping of at least one key, all of which match `pattern`."""
    return {
        "type": "object",
        "propertyNames": {"pattern": pattern},
        "additionalProperties": value,
        "minProperties": 1,
    }


def array(item: Form) -> Form:
    """A list of at least one item."""
    return {"type": "array", "items": item, "minItems": 1}


def schedule(value: Form, key: str) -> Form:
    """A constant, a mapping of positions to values, or a list of keyframes."""
    at = quantity("%", "tok", "ba", negative=True)
    frame = {"at": at, key: value, "ease": choice(*EASES)}
    return either(value, table(at["pattern"], value), array(mapping(frame, required=("at", key))))
