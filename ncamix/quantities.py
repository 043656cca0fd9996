"""Numbers with units, exactly: `15%`, `164Mtok`, `500ba`, `0.2x`, `3e-4`.

Everything becomes a `Fraction`; nothing is ever a binary float. `k M G T` are powers of 1000. `%`
is a share of training time or of a mixture, `tok` trained input positions, `ba` global batches, `x`
a multiple of the trainer's value and `B` bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, PlainValidator, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?"
_PATTERN = re.compile(rf"\s*([-+]?{_NUMBER})\s*([kMGT]?)(%|tok|ba|ep|x|B)?\s*\Z", re.ASCII)
SMALLEST, LARGEST = Fraction(1, 10**30), 10**18  # anything beyond is a slip of the keyboard
_ROUNDED_UP = 0.9995  # of a unit, from which on three digits round to one
_POWERS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


Refusal = tuple[tuple[str | int, ...], str, str]  # path below the value, what is wrong, way out


def refuse(what: str, remedy: str = "", suffix: tuple[str | int, ...] = ()) -> PydanticCustomError:
    """An error for a validator to raise; `suffix` is the path below the validated value."""
    return refuse_all([(suffix, what, remedy)])


def refuse_all(problems: list[Refusal]) -> PydanticCustomError:
    """As `refuse`, for several problems at once."""
    return PydanticCustomError("ncamix", "refused", {"problems": problems})


def refusals(error: PydanticCustomError) -> list[Refusal]:
    """The problems that `refuse_all` was given."""
    return list((error.context or {})["problems"])


class Refusals:
    """Gathers what is wrong with the parts of a value, to be raised together."""

    def __init__(self) -> None:
        self.problems: list[Refusal] = []

    def add(self, suffix: tuple[str | int, ...], what: str, remedy: str) -> None:
        self.problems.append((suffix, what, remedy))

    def attempt(self, suffix: tuple[str | int, ...], read: Callable[..., Any], *args: Any) -> Any:
        """What `read` makes of `args`, or None when it refuses them."""
        try:
            return read(*args)
        except PydanticCustomError as error:
            self.problems += [((*suffix, *b), what, way) for b, what, way in refusals(error)]
            return None

    def stop(self) -> None:
        """Raise what was gathered, if anything."""
        if self.problems:
            raise refuse_all(self.problems)


@dataclass(frozen=True)
class Quantity:
    """An exact number and its unit: '' (bare), '%', 'tok', 'ba', 'ep', 'x' or 'B'.

    A percentage keeps its written number: 15% has the value 15.
    """

    value: Fraction
    unit: str

    def __str__(self) -> str:
        if self.unit in ("tok", "ba", "B"):
            for letter in "TGMk":
                if self.value and self.value % _POWERS[letter] == 0:
                    return f"{self.value // _POWERS[letter]}{letter}{self.unit}"
        return f"{format_fraction(self.value)}{self.unit}"


def parse_quantity(written: Any) -> Quantity | None:
    """Read a number or a number with a unit; None if it is neither.

    Raises PydanticCustomError for numbers too large or too small to be meant.
    """
    number: int | Decimal | Fraction
    if isinstance(written, int | Decimal | Fraction) and not isinstance(written, bool):
        number, power, unit = written, "", ""
    elif isinstance(written, str) and (match := _PATTERN.match(written)):
        number, power, unit = Decimal(match[1]), match[2], match[3] or ""
    else:
        return None
    if not number:
        return Quantity(Fraction(0), unit)
    wild = isinstance(number, Decimal) and abs(number.adjusted()) > 100  # too large to expand
    value = Fraction(0) if wild else Fraction(number) * _POWERS[power]
    if not SMALLEST <= abs(value) <= LARGEST:
        raise refuse("the number is out of all bounds", "write one between 1e-30 and 1e18")
    return Quantity(value, unit)


def format_fraction(value: Fraction) -> str:
    """The shortest decimal for a fraction that has one, otherwise six significant digits."""
    if value.denominator == 1:
        return str(value.numerator)
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    if rest == 1:
        text = format(Decimal(value.numerator) / Decimal(value.denominator), "f")
        return text.rstrip("0") if "." in text else text
    return f"{float(value):.6g}"


def format_seconds(seconds: float) -> str:
    """A duration for people: `0.4 s`, `12 s`, `3 min`, `2.5 h`, `40 h`."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 9.95 * 3600 else f"{seconds / 3600:,.0f} h"


def format_count(value: float, unit: str = "") -> str:
    """A count for a reader: 999, 12.3k, 164M."""
    for power, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if abs(value) >= _ROUNDED_UP * power:
            return f"{value / power:.3g}{letter}{unit}"
    return f"{value:g}{unit}"


def counted(count: int, noun: str, several: str = "") -> str:
    """A count and what is counted: `1 batch`, `1,200 batches`; `several` where an s does not do."""
    return f"{count:,} {noun if count == 1 else several or f'{noun}s'}"


def format_bytes(num_bytes: float) -> str:
    """A size for a reader, in powers of 1000: `980 bytes`, `12.3 kB`, `1.64 GB`."""
    for power, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if num_bytes >= _ROUNDED_UP * power:
            return f"{num_bytes / power:.3g} {unit}"
    return f"{num_bytes:g} byte{'s' * (num_bytes != 1)}"


def quantity_of(
    written: Any, units: tuple[str, ...], example: str, suffix: tuple[str | int, ...] = ()
) -> Quantity:
    """Read a quantity in one of `units`, or refuse it with `example` as the way out."""
    try:
        quantity = parse_quantity(written)
    except PydanticCustomError as error:
        raise refuse_all([((*suffix, *b), w, r) for b, w, r in refusals(error)]) from None
    if quantity is None or quantity.unit not in units:
        shown = f"'{written}'" if isinstance(written, str | int | Decimal) else "this"
        raise refuse(f"{shown} is not understood here", f"write it like {example}", suffix)
    return quantity


def quantity_pattern(*units: str, negative: bool = False) -> str:
    """A regular expression of JSON Schema for a quantity in one of `units` ('': none)."""
    sign = "[-+]?" if negative else r"\+?"
    return rf"^\s*{sign}{_NUMBER}\s*[kMGT]?({'|'.join(units)})\s*$"


@dataclass(frozen=True)
class Within:
    """Annotates a number between two bounds, for its check and for its JSON Schema.

    what, remedy: of the refusal. without: the bounds that are no allowed values themselves.
    """

    low: int
    high: int
    what: str
    remedy: str
    without: tuple[int, ...] = ()

    def check(self, value: int | Fraction) -> int | Fraction:
        """The value itself. Raises PydanticCustomError where it lies outside."""
        if not self.low <= value <= self.high or value in self.without:
            raise refuse(self.what, self.remedy)
        return value

    def __get_pydantic_core_schema__(self, of: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self.check, handler(of))

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        lower = "exclusiveMinimum" if self.low in self.without else "minimum"
        upper = "exclusiveMaximum" if self.high in self.without else "maximum"
        schema = handler(core)
        schema.pop("minimum", None)  # of the type, which this narrows
        return {**schema, lower: self.low, upper: self.high}


def exact(written: Any) -> Fraction:
    """A plain number, never with a unit."""
    quantity = parse_quantity(written)
    if quantity is None or quantity.unit or isinstance(written, str):
        raise refuse("not a number", "write a plain number such as 0.5 or 1e-4")
    return quantity.value


def above_zero(written: Any) -> Fraction:
    """A plain number above 0."""
    value = exact(written)
    if value <= 0:
        raise refuse("not above 0", "write a number above 0")
    return value


def _not_negative(written: Any) -> Fraction:
    value = exact(written)
    if value < 0:
        raise refuse("negative", "write 0 or more")
    return value


def _whole(written: Any) -> int:
    value = exact(written)
    if value.denominator != 1 or value < 0:
        raise refuse("not a whole number", "write a whole number, 0 or more")
    return int(value)


def positive(written: Any) -> int:
    """A whole number of 1 or more."""
    value = _whole(written)
    if value < 1:
        raise refuse("not a positive number", "write a whole number of 1 or more")
    return value


Exact = Annotated[Fraction, PlainValidator(exact), WithJsonSchema({"type": "number"})]
AboveZero = Annotated[
    Fraction,
    PlainValidator(above_zero),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0}),
]
NotNegative = Annotated[
    Fraction, PlainValidator(_not_negative), WithJsonSchema({"type": "number", "minimum": 0})
]
Whole = Annotated[int, PlainValidator(_whole), WithJsonSchema({"type": "integer", "minimum": 0})]
Positive = Annotated[
    int, PlainValidator(positive), WithJsonSchema({"type": "integer", "minimum": 1})
]
