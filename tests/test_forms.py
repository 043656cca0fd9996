"""JSON Schema of values, and of the models that hold them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic.json_schema import GenerateJsonSchema

from ncamix import forms
from ncamix.curriculum import Curriculum
from ncamix.quantities import parse_quantity
from ncamix.schedule import is_name
from ncamix.trainer import Trainer

numbers = st.from_regex(r" ?[-+]?[0-9.]{1,3}(e[-+]?[0-4])? ?[kMG]?", fullmatch=True)
texts = st.tuples(numbers, st.sampled_from(["%", "tok", "ba", "ep", "x", ""])).map("".join)


@given(texts, st.booleans())
def test_quantities_look_like_what_is_read(text: str, negative: bool) -> None:
    pattern = forms.quantity("%", "tok", negative=negative)["pattern"]
    quantity = parse_quantity(text)
    read = quantity is not None and quantity.unit in ("%", "tok")
    minus = text.strip().startswith("-")
    assert bool(re.search(pattern, text)) == (read and (negative or not minus))


def test_bare_numbers_are_numbers() -> None:
    number, text = forms.quantity("", "x")["oneOf"]
    assert number == {"type": "number", "minimum": 0}
    assert all(re.search(text["pattern"], written) for written in ("0.2x", "3k", "1e-4"))
    assert not any(re.search(text["pattern"], written) for written in ("1%", "x", "-1x"))


@given(st.text(alphabet="aB_-1 .é", max_size=4))
def test_names_look_like_what_is_read(text: str) -> None:
    assert bool(re.search(forms.WORD["pattern"], text)) == is_name(text)


class _Strict(GenerateJsonSchema):
    """Refuses a value whose form nobody wrote."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Any:
        raise AssertionError(error_info)

    def encode_default(self, dft: Any) -> Any:
        return None


def keys(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of a schema's models, as Model.key."""
    for name, model in {"": schema, **schema["$defs"]}.items():
        for key, form in model["properties"].items():
            yield f"{name}.{key}", form


@pytest.mark.parametrize("model", [Curriculum, Trainer])
def test_every_key_has_a_form_and_a_description(model: type[Curriculum | Trainer]) -> None:
    schema = model.model_json_schema(schema_generator=_Strict)
    for key, form in keys(schema):
        assert form.get("description", "").endswith("."), key
        assert len(form["description"]) < 120, key
        assert set(form) & {"type", "enum", "const", "oneOf", "anyOf", "$ref"}, key
