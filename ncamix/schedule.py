"""Schedules: whatever changes over training, written one way and evaluated exactly.

Grammar: a list of keyframes `{at, mix | to, ease}`, the short form `{0%: ..., 100%: ...}`, or a
bare value that is a constant. Here they are parsed into exact fractions, then *resolved* for a
stage of known length into a `Curve` over batches, which is evaluated in integers (fixed point, 96
fractional bits): the same bits on every platform, no libm anywhere.

Mixtures are normalised keyframe by keyframe, then interpolated. Positions on a curve are counted in
batches; batch t is evaluated at its midpoint, t + 1/2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isqrt, lcm
from typing import Any

from pydantic_core import PydanticCustomError

from ncamix.errors import nearest
from ncamix.quantities import Quantity, parse_quantity, quantity_of, refusals, refuse, refuse_all

SCALE = 1 << 96  # fixed point: the value 1
EASES = ("linear", "cosine", "step")
NAME = "^[A-Za-z_][A-Za-z0-9_-]*$"  # as JSON Schema spells it
_PI = 248902613312231085230521944622  # pi * 2**96, truncated
_AT = ("%", "tok", "ba")


def is_name(text: str) -> bool:
    """Whether `text` can name a source or a stage."""
    return bool(re.fullmatch(NAME, text))


@dataclass(frozen=True)
class Keyframe:
    """A value that a schedule takes at `at` (negative: counted from the stage's end).

    `value` maps source names to shares that sum to 1 (a mixture), or is a Quantity (a number).
    `ease` shapes the way from here to the next keyframe.
    """

    at: Quantity
    value: Any
    ease: str = "linear"


Schedule = tuple[Keyframe, ...]


def parse_mixture(written: Any) -> Schedule:
    """Parse a mixture schedule; raises PydanticCustomError with every problem found."""
    return _parse(written, "mix", _shares)


def parse_number(written: Any) -> Schedule:
    """Parse a schedule of numbers, absolute or relative (`0.2x`)."""
    return _parse(written, "to", _number)


def _number(written: Any) -> Quantity:
    quantity = quantity_of(written, ("", "x"), "3e-4 or 0.2x")
    if quantity.value < 0:
        raise refuse("negative", "write 0 or more")
    return quantity


def _shares(written: Any) -> dict[str, Fraction]:
    """Normalised shares of a mixture `{source: weight}`; weights all bare or all percentages."""
    if not isinstance(written, Mapping) or not written:
        raise refuse("a mixture is a mapping of source names to weights", "write {code: 1}")
    problems: list[tuple[tuple[str | int, ...], str, str]] = []
    weights: dict[str, Quantity] = {}
    for name, value in written.items():
        try:
            quantity = parse_quantity(value)
        except PydanticCustomError as error:
            problems += [((name,), what, way) for _, what, way in refusals(error)]
            continue
        if not is_name(name):
            problems.append(((name,), f"'{name}' is not a source name", "begin with a letter"))
        elif quantity is None or quantity.unit not in ("", "%"):
            problems.append(((name,), "not a weight", "write a number, or a share such as 80%"))
        elif quantity.value < 0:
            problems.append(((name,), "the weight is negative", "write 0 or more"))
        else:
            weights[name] = quantity
    if problems:
        raise refuse_all(problems)
    total = sum((q.value for q in weights.values()), Fraction(0))
    units = {q.unit for q in weights.values()}
    if len(units) > 1:
        raise refuse("weights with and without % are mixed", "write all of them one way")
    if units == {"%"} and total != 100:
        raise refuse(
            f"the shares sum to {float(total):g}%, not 100%",
            "make them sum to 100%, or write bare numbers, which are normalised",
        )
    if total == 0:
        raise refuse("every weight is zero", "give at least one source a weight above 0")
    return {name: quantity.value / total for name, quantity in weights.items()}


def _parse(written: Any, value_key: str, read_value: Any) -> Schedule:
    problems: list[tuple[tuple[str | int, ...], str, str]] = []

    def attempt(suffix: tuple[str | int, ...], read: Any, *args: Any) -> Any:
        try:
            return read(*args)
        except PydanticCustomError as error:
            for below, what, remedy in refusals(error):
                problems.append(((*suffix, *below), what, remedy))
            return None

    frames: list[Keyframe] = []
    if isinstance(written, list):
        for i, item in enumerate(written):
            if not isinstance(item, Mapping):
                problems.append(((i,), "not a keyframe", f"write {{at: 0%, {value_key}: ...}}"))
                continue
            known = ("at", value_key, "ease")
            for key in item:
                if key not in known:
                    problems.append(((i, key), f"unknown key '{key}'", nearest(key, known)))
            for key in ("at", value_key):
                if key not in item:
                    problems.append(((i,), f"the keyframe has no '{key}'", f"add `{key}:`"))
            at = attempt((i, "at"), _position, item["at"]) if "at" in item else None
            value = (
                attempt((i, value_key), read_value, item[value_key]) if value_key in item else None
            )
            ease = item.get("ease", "linear")
            if ease not in EASES:
                problems.append(((i, "ease"), f"unknown ease '{ease}'", nearest(str(ease), EASES)))
            if at is not None and value is not None:
                frames.append(Keyframe(at, value, str(ease)))
        if not written:
            problems.append(((), "no keyframes", "write at least one"))
    elif isinstance(written, Mapping) and any(not is_name(str(key)) for key in written):
        for key, item in written.items():
            at = attempt((key,), _position, key)
            value = attempt((key,), read_value, item)
            if at is not None and value is not None:
                frames.append(Keyframe(at, value))
    else:
        value = attempt((), read_value, written)
        frames.append(Keyframe(Quantity(Fraction(0), "%"), value))
    seen: dict[Quantity, int] = {}
    for i, frame in enumerate(frames):
        if frame.at in seen:
            problems.append(((), f"two keyframes stand at {frame.at}", "keep one of them"))
        seen[frame.at] = i
    if problems:
        raise refuse_all(problems)
    return tuple(frames)


def _position(written: Any) -> Quantity:
    quantity = quantity_of(written, _AT, "0%, 60%, 5Mtok, 200ba or -10%")
    if quantity.unit == "%" and abs(quantity.value) > 100:
        raise refuse("beyond the stage", "write a share between -100% and 100%")
    return quantity


@dataclass(frozen=True)
class Clock:
    """A stage's length, for resolving positions: batches, and tokens a batch."""

    num_batches: int
    tokens_per_batch: int

    def batches(self, at: Quantity, end: Fraction | None = None) -> Fraction:
        """A duration or position as batches; negative ones count from `end`, the stage's own."""
        end = Fraction(self.num_batches) if end is None else end
        if at.unit == "%":
            x = at.value / 100 * end
        elif at.unit == "tok":
            x = at.value / self.tokens_per_batch
        else:
            x = at.value
        return x + end if at.value < 0 else x


@dataclass(frozen=True)
class Curve:
    """A resolved schedule: integer columns as a function of the batch.

    positions: keyframe positions in units of 1/(2*unit) batch, ascending.
    values: one tuple of fixed-point integers a keyframe.
    cycle: period in the same units as positions, or 0.
    """

    positions: tuple[int, ...]
    values: tuple[tuple[int, ...], ...]
    eases: tuple[str, ...]
    unit: int
    cycle: int = 0

    @property
    def is_constant(self) -> bool:
        return all(value == self.values[0] for value in self.values)

    def at(self, batch: int) -> tuple[int, ...]:
        """Values at the midpoint of `batch`, fixed point with 96 fractional bits."""
        return self.at_position((2 * batch + 1) * self.unit)

    def at_position(self, x: int) -> tuple[int, ...]:
        """Values at `x`, in the units of `positions`."""
        if self.cycle:
            x %= self.cycle
        positions = self.positions
        if x < positions[0]:
            return self.values[0]
        i = len(positions) - 1
        while positions[i] > x:
            i -= 1
        if i == len(positions) - 1 or self.eases[i] == "step":
            return self.values[i]
        u = (x - positions[i]) * SCALE // (positions[i + 1] - positions[i])
        if self.eases[i] == "cosine":
            u = cosine_ease(u)
        pairs = zip(self.values[i], self.values[i + 1], strict=True)
        return tuple(a + ((b - a) * u >> 96) for a, b in pairs)


def resolve(
    schedule: Schedule,
    clock: Clock,
    columns: Sequence[str],
    cycle: Quantity | None = None,
    base: Fraction = Fraction(1),
) -> Curve:
    """Resolve a schedule for a stage of known length.

    `columns` are the source names of a mixture, in order; empty for a schedule of numbers, whose
    relative values (`x`) are multiplied by `base`.

    Raises:
        ValueError: keyframes out of order, outside the stage, or beyond the cycle; a cycle of
            nothing. The message is for the user.
    """
    period = clock.batches(cycle) if cycle is not None else Fraction(0)
    if cycle is not None:
        if period <= 0:
            raise ValueError("the cycle has no length")
        end, what = period, f"the cycle of {cycle}"
    else:
        end, what = Fraction(clock.num_batches), "the stage"
    at_clock = [clock.batches(f.at, end) for f in schedule]  # keyframes are relative to the cycle
    for i, x in enumerate(at_clock):
        if not 0 <= x <= end:
            raise ValueError(f"the keyframe at {schedule[i].at} lies outside {what}")
        if i and x <= at_clock[i - 1]:
            raise ValueError(
                f"the keyframe at {schedule[i].at} does not come after the one at "
                f"{schedule[i - 1].at}"
            )
    unit = lcm(*(x.denominator for x in at_clock), period.denominator)
    values: list[tuple[int, ...]] = []
    for frame in schedule:
        if columns:
            shares = [frame.value.get(name, Fraction(0)) for name in columns]
            values.append(normalised([int(share * SCALE) for share in shares]))
        else:
            number = frame.value.value * (base if frame.value.unit == "x" else 1)
            values.append((int(number * SCALE),))
    return Curve(
        tuple(int(x * 2 * unit) for x in at_clock),
        tuple(values),
        tuple(f.ease for f in schedule),
        unit,
        int(period * 2 * unit),
    )


def normalised(weights: Sequence[int]) -> tuple[int, ...]:
    """Fixed-point weights that sum to exactly 1: the largest takes what rounding left over.

    Zeros stay zero. The input already sums to 1 within rounding.
    """
    largest = max(range(len(weights)), key=lambda i: (weights[i], -i))
    rest = SCALE - sum(weights)
    return tuple(w + rest if i == largest else w for i, w in enumerate(weights))


def cosine_ease(u: int) -> int:
    """(1 - cos(pi u)) / 2 in fixed point, by its Taylor series in integers.

    Symmetric about 1/2 and exact at 0, 1/2 and 1; elsewhere within 2**-88.
    """
    if 2 * u > SCALE:
        return SCALE - cosine_ease(SCALE - u)
    if 2 * u == SCALE:
        return SCALE // 2
    x = u * _PI >> 96
    square = x * x >> 96
    term, total, k = SCALE, 0, 0
    while term:  # cos x - 1 = -x^2/2! + x^4/4! - ...
        term = (term * square >> 96) // ((2 * k + 1) * (2 * k + 2))
        total += term if k % 2 == 0 else -term
        k += 1
    return total // 2


def inverse_sqrt(numerator: int, denominator: int) -> int:
    """sqrt(numerator / denominator) in fixed point, rounded down; positive integers."""
    return isqrt(numerator * SCALE * SCALE // denominator)
