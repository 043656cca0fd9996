"""Quantities: exact numbers with units."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from ncamix.quantities import (
    AboveZero,
    Exact,
    NotNegative,
    Positive,
    Quantity,
    Whole,
    Within,
    counted,
    format_bytes,
    format_count,
    format_fraction,
    parse_quantity,
    quantity_of,
    quantity_pattern,
    refusals,
)


@pytest.mark.parametrize(
    ("written", "value", "unit"),
    [
        ("15%", 15, "%"),
        ("0.1%", Fraction(1, 10), "%"),
        ("164Mtok", 164 * 10**6, "tok"),
        ("1.5ktok", 1500, "tok"),
        ("2Gtok", 2 * 10**9, "tok"),
        ("3Ttok", 3 * 10**12, "tok"),
        ("500ba", 500, "ba"),
        ("2kba", 2000, "ba"),
        ("10ep", 10, "ep"),
        ("0.2x", Fraction(1, 5), "x"),
        ("3e-4", Fraction(3, 10_000), ""),
        ("-10 %", -10, "%"),
        (" .5x ", Fraction(1, 2), "x"),
        (Decimal("1e-4"), Fraction(1, 10_000), ""),
        (7, 7, ""),
        ("0x", 0, "x"),
    ],
)
def test_units_are_read_exactly(written: object, value: Fraction | int, unit: str) -> None:
    assert parse_quantity(written) == Quantity(Fraction(value), unit)


@pytest.mark.parametrize(
    "written",
    ["", "%", "tok", "15 percent", "1,000tok", "1e4.5", "15%%", "ten", "1Mb", "0x1F", "1 0%", "٣%"]
    + [None, True, [], {}, 0.5],
)
def test_what_is_no_quantity(written: object) -> None:
    assert parse_quantity(written) is None


@pytest.mark.parametrize("written", ["1e999tok", "1e400", "9" * 60, "1e-90%", "-1e19", 10**19])
def test_absurd_sizes_are_refused(written: object) -> None:
    with pytest.raises(PydanticCustomError) as caught:
        parse_quantity(written)
    assert "out of all bounds" in refusals(caught.value)[0][1]


def test_a_wrong_unit_is_refused_with_an_example_and_its_place() -> None:
    with pytest.raises(PydanticCustomError) as caught:
        quantity_of("5tok", ("%", "ba"), "10% or 5ba", ("warmup",))
    assert refusals(caught.value) == [
        (("warmup",), "'5tok' is not understood here", "write it like 10% or 5ba")
    ]


@given(st.decimals(min_value="1e-6", max_value=10**12, places=6), st.sampled_from(["", "%", "tok"]))
def test_text_and_value_agree(number: Decimal, unit: str) -> None:
    quantity = parse_quantity(f"{number:f}{unit}")
    assert quantity == Quantity(Fraction(number), unit)
    assert parse_quantity(str(quantity)) == quantity


def test_numbers_for_readers() -> None:
    assert format_fraction(Fraction(1, 8)) == "0.125"
    assert format_fraction(Fraction(1, 3)) == "0.333333"
    assert format_fraction(Fraction(1500)) == "1500"
    assert str(Quantity(Fraction(60), "%")) == "60%"
    counts = [999, 12_345, 164 * 10**6, 13 * 10**9, 2 * 10**12]
    assert [format_count(n) for n in counts] == ["999", "12.3k", "164M", "13G", "2T"]
    assert [format_count(n) for n in (999_499, 999_500, 999_999_999)] == ["999k", "1M", "1G"]
    assert [format_bytes(n) for n in (0, 1, 999_999)] == ["0 bytes", "1 byte", "1 MB"]


def test_what_is_counted_stands_in_the_singular_once() -> None:
    found = [counted(n, "batch", "batches") for n in (0, 1, 2, 1200)]
    assert found == ["0 batches", "1 batch", "2 batches", "1,200 batches"]
    assert [counted(n, "stage") for n in (1, 2)] == ["1 stage", "2 stages"]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Exact, [0, -1, Decimal("0.5")], ["0.5", "1%", True, None]),
        (AboveZero, [1, Decimal("1e-8")], [0, -1]),
        (NotNegative, [0, Decimal("0.1")], [-1, Decimal("-1e-9")]),
        (Whole, [0, 3, Decimal("1e3")], [-1, Decimal("0.5"), "3", True]),
        (Positive, [1, 10**6], [0, -1, Decimal("1.5")]),
    ],
)
def test_kinds_of_numbers(kind: object, good: list[object], bad: list[object]) -> None:
    adapter = TypeAdapter(kind)
    for value in good:
        assert adapter.validate_python(value) == value
    for value in bad:
        with pytest.raises(ValueError, match="refused"):
            adapter.validate_python(value)


@pytest.mark.parametrize("text", ["5%", "1.5ktok", " 2e3 tok ", ".5%", "+7%", "-7%", "0tok"])
@pytest.mark.parametrize("text_more", ["", "x"])
def test_patterns_say_what_is_read(text: str, text_more: str) -> None:
    written = text + text_more
    try:
        quantity_of(written, ("%", "tok"), "")
        read = True
    except PydanticCustomError:
        read = False
    assert bool(re.search(quantity_pattern("%", "tok", negative=True), written)) == read
    positive = re.search(quantity_pattern("%", "tok"), written)
    assert bool(positive) == (read and "-" not in written)


def test_numbers_within_bounds() -> None:
    share = TypeAdapter(
        Annotated[Exact, Within(0, 1, "a share lies between 0 and 1", "write 0.5", without=(0,))]
    )
    assert share.validate_python(Decimal("1e-9")) and share.validate_python(1) == 1
    for bad in (0, -1, Decimal("1.0001"), 2):
        with pytest.raises(ValidationError) as caught:
            share.validate_python(bad)
        assert "a share lies between 0 and 1" in str(caught.value.errors())
    assert share.json_schema() == {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
    assert TypeAdapter(NotNegative).json_schema() == {"type": "number", "minimum": 0}
    whole = TypeAdapter(Annotated[Positive, Within(2, 64, "", "")])
    assert whole.json_schema() == {"type": "integer", "minimum": 2, "maximum": 64}
