"""Rendering: YAML that reads back as the same values, and can be read by people."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncamix.library import shipped
from ncamix.reading import parse_part, read_document
from ncamix.rendering import WIDTH, render

NUMBERS = st.from_regex(r"[-+]?[0-9]{1,9}(\.[0-9]{0,9})?([eE][-+]?[0-9]{1,2})?", fullmatch=True)
WORDS = st.sampled_from(["null", "~", "true", "False", "on", "12:30", "60%", "0..11", "1_000"])
# Written between quotes, so that any text can be a key or a value.
QUOTED = st.text(max_size=12).map(json.dumps)
SCALARS = NUMBERS | WORDS | QUOTED | st.sampled_from(["-", "- a", "a: b", "#", "*a"]).map(repr)
KEYS = st.from_regex(r"[a-z]{1,30}", fullmatch=True) | NUMBERS | WORDS | QUOTED


def flow(value: Any) -> str:
    """Any generated value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(item)}" for key, item in value.items()) + "}"
    return "[" + ", ".join(map(flow, value)) + "]" if isinstance(value, list) else str(value)


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=16,
)


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=6))
def test_what_is_rendered_reads_back_as_the_same(value: dict[str, Any]) -> None:
    tree = parse_part(flow(value), "a.yaml").tree
    again = parse_part(render(tree), "b.yaml").tree
    assert again.plain() == tree.plain()
    assert repr(again.plain()) == repr(tree.plain())  # 1.0 is not 1, nor True


@pytest.mark.parametrize(
    "character", ["\0", "\x1b", "\x85", "\u2028", "\ufeff", "\U0010ffff", "\U0001f600"]
)
def test_every_character_survives(character: str) -> None:
    tree = parse_part('{"a%s": "%s"}' % ((f"\\U{ord(character):08x}",) * 2), "a.yaml").tree
    assert tree.plain() == {f"a{character}": character}
    assert parse_part(render(tree), "b.yaml").tree.plain() == tree.plain()


def test_numbers_stand_as_they_were_written() -> None:
    text = "a: [1.50e-4, 0.30, +5, 007]\n"
    assert render(parse_part(text, "a.yaml").tree) == text


def test_long_values_are_broken_into_lines() -> None:
    lists = ", ".join("[[1, 2], {a: 3}]" for _ in range(8))
    tree = parse_part(f"{{a: [{lists}], b: {{c: {{d: [{lists}], e: {{}}}}}}}}", "a.yaml").tree
    text = render(tree)
    assert all(len(line) <= WIDTH + 4 for line in text.splitlines())
    assert "a:\n  - [[1, 2], {a: 3}]\n" in text
    assert "b:\n  c:\n    d:\n      - [[1" in text
    assert parse_part(text, "b.yaml").tree.plain() == tree.plain()
    deep = parse_part(f"a: [[[{lists}]], {{b: [{lists}], c: 1}}]", "a.yaml").tree
    assert "a:\n  - - - [[1, 2]" in render(deep)
    assert "  - b:\n      - [[1" in render(deep)
    assert parse_part(render(deep), "b.yaml").tree.plain() == deep.plain()


@pytest.mark.parametrize("folder", ["curricula", "trainers"])
def test_shipped_files_survive(folder: str) -> None:
    for file in sorted(shipped(folder).glob("*.yaml")):
        tree = read_document(file).tree
        assert parse_part(render(tree), "again.yaml").tree.plain() == tree.plain()
