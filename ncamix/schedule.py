"""Schedules: whatever changes over training, written one way and evaluated exactly.

Grammar: a list of keyframes `{at, mix | to, ease}`, the short form `{0%: ..., 100%: ...}`, or a
bare value that is a constant. Here they are parsed into exact fractions, then *resolved* on a clock
of known length into a `Curve`. Progress between keyframes and the weights of mixtures are integers
(fixed point, 60 fractional bits, so that compiled code can follow in 64-bit words), numbers stay
fractions: the same bits on every platform, no libm anywhere.

Mixtures are normalised keyframe by keyframe, then interpolated. A stage's clock counts batches,
the clocks of the run and of a blend count tokens; a batch is evaluated at its midpoint.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, factorial, isqrt, lcm
from typing import Any, ClassVar

from pydantic_core import PydanticCustomError

from ncamix.errors import nearest
from ncamix.quantities import Quantity, parse_quantity, quantity_of, refusals, refuse, refuse_all

BITS = 60
SCALE = 1 << BITS  # fixed point: the value 1
HALF_PI = 1811004864519280710  # pi / 2 in fixed point, truncated
SINE = tuple((SCALE + factorial(n) // 2) // factorial(n) for n in range(1, 21, 2))
EASES = ("linear", "cosine", "step")
NAME = "^[A-Za-z_][A-Za-z0-9_-]*$"  # as JSON Schema spells it
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
    elif isinstance(written, Mapping) and len({is_name(str(key)) for key in written}) == 2:
        names = ", ".join(f"'{key}'" for key in written if is_name(str(key)))
        what = f"{names} {'stands' if ',' not in names else 'stand'} among positions"
        raise refuse(what, f"write {{0%: {{...}}, 100%: {{...}}}}, or {value_key}: once for all")
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
    name: ClassVar[str] = "the stage"
    finest: ClassVar[int] = 1 << 38  # parts of a batch, where a mixture's positions need more

    @property
    def length(self) -> Fraction:
        return Fraction(self.num_batches)

    def position(self, at: Quantity, end: Fraction | None = None) -> Fraction:
        """A duration or position as batches; negative ones count from `end`, the stage's own."""
        end = self.length if end is None else end
        if at.unit == "%":
            x = at.value / 100 * end
        elif at.unit == "tok":
            x = at.value / self.tokens_per_batch
        else:
            x = at.value
        return x + end if at.value < 0 else x


@dataclass(frozen=True)
class TokenClock:
    """A clock that counts tokens, `length` of them: the whole run's, or those of a blend."""

    length: Fraction
    name: str
    finest: ClassVar[int] = 1 << 16  # parts of a token

    def position(self, at: Quantity, end: Fraction | None = None) -> Fraction:
        """A duration or position as tokens; negative ones count from `end`, the clock's own.

        Raises ValueError for batches: they may differ in size from stage to stage.
        """
        if at.unit == "ba":
            raise ValueError(f"{at}: batches are not counted over {self.name}, write % or tok")
        end = self.length if end is None else end
        x = at.value / 100 * end if at.unit == "%" else at.value
        return x + end if at.value < 0 else x


@dataclass(frozen=True)
class Curve:
    """A resolved schedule: values as a function of the position on a clock.

    positions: of the keyframes, ascending, in units of 1/unit of what the clock counts.
    values: one tuple a keyframe: weights in fixed point, or a single Fraction (a number).
    unit: even, so that midpoints of batches are whole.
    cycle: period in the same units as positions, or 0.
    """

    positions: tuple[int, ...]
    values: tuple[tuple[Any, ...], ...]
    eases: tuple[str, ...]
    unit: int
    cycle: int = 0

    @property
    def is_constant(self) -> bool:
        return all(value == self.values[0] for value in self.values)

    def progress(self, x: int) -> tuple[int, int]:
        """(keyframe i, eased progress towards the next, fixed point) at `x`, in `positions`' units.

        Progress is 0 where keyframe i holds.
        """
        if self.cycle:
            x %= self.cycle
        i = max(0, bisect_right(self.positions, x) - 1)
        before = self.positions[i]
        if x <= before or i == len(self.positions) - 1 or self.eases[i] == "step":
            return i, 0
        u = ((x - before) << BITS) // (self.positions[i + 1] - before)
        return i, cosine_ease(u) if self.eases[i] == "cosine" else u

    def weights(self, x: int) -> tuple[int, ...]:
        """A mixture's weights at `x`, fixed point; they sum to 1 within rounding."""
        i, u = self.progress(x)
        if not u:
            return self.values[i]
        pairs = zip(self.values[i], self.values[i + 1], strict=True)
        return tuple([a + ((b - a) * u >> BITS) for a, b in pairs])

    def number(self, x: int) -> Fraction:
        """A number's value at `x`: exact, but for progress."""
        i, u = self.progress(x)
        (a,) = self.values[i]
        return Fraction(a + (self.values[i + 1][0] - a) * Fraction(u, SCALE) if u else a)


def resolve_mixture(
    schedule: Schedule,
    clock: Clock | TokenClock,
    columns: Sequence[str],
    cycle: Quantity | None = None,
    grid: int = 0,
) -> Curve:
    """Resolve a mixture on a clock of known length.

    columns: the source names, in the order of the curve's weights.
    grid: positions are rounded up to multiples of 1/grid of the clock's unit; 0 keeps them exact,
        or as exact as compiled code can follow where nothing repeats.

    Raises:
        ValueError: keyframes out of order, outside the clock's whole, or beyond the cycle; a cycle
            of nothing. The message is for the user.
    """
    values = tuple(
        normalised([int(frame.value.get(name, 0) * SCALE) for name in columns])
        for frame in schedule
    )
    return _resolve(schedule, clock, values, cycle, grid, clock.finest)


def resolve_number(
    schedule: Schedule,
    clock: Clock,
    cycle: Quantity | None = None,
    base: Fraction = Fraction(1),
) -> Curve:
    """As `resolve_mixture`, for numbers; relative ones (`x`) are multiplied by `base`."""
    values = tuple(
        (frame.value.value * (base if frame.value.unit == "x" else 1),) for frame in schedule
    )
    return _resolve(schedule, clock, values, cycle)


def _resolve(
    schedule: Schedule,
    clock: Clock | TokenClock,
    values: tuple[tuple[Any, ...], ...],
    cycle: Quantity | None,
    grid: int = 0,
    finest: int = 0,
) -> Curve:
    period = clock.position(cycle) if cycle is not None else Fraction(0)
    if cycle is not None:
        if period <= 0:
            raise ValueError("the cycle has no length")
        end, what = period, f"the cycle of {cycle}"
    else:
        end, what = clock.length, clock.name
    at_clock = [clock.position(f.at, end) for f in schedule]  # keyframes are relative to the cycle
    for i, x in enumerate(at_clock):
        if not 0 <= x <= end:
            raise ValueError(f"the keyframe at {schedule[i].at} lies outside {what}")
        if i and x <= at_clock[i - 1]:
            raise ValueError(
                f"the keyframe at {schedule[i].at} does not come after the one at "
                f"{schedule[i - 1].at} that stands before it: write keyframes in the order of time"
            )
    exact = 2 * lcm(*(x.denominator for x in at_clock), period.denominator)
    unit = grid or (min(exact, finest) if finest and not period else exact)
    return Curve(
        tuple(ceil(x * unit) for x in at_clock),
        values,
        tuple(f.ease for f in schedule),
        unit,
        ceil(period * unit),
    )


def normalised(weights: Sequence[int]) -> tuple[int, ...]:
    """Fixed-point weights that sum to exactly 1: the largest takes what rounding left over.

    Zeros stay zero. The input already sums to 1 within rounding.
    """
    largest = weights.index(max(weights))
    rest = SCALE - sum(weights)
    return tuple([w + rest if i == largest else w for i, w in enumerate(weights)])


def cosine_ease(u: int) -> int:
    """(1 - cos(pi u)) / 2 = sin(pi u / 2)**2 in fixed point, by the Taylor series of the sine.

    Symmetric about 1/2 and exact at 0, 1/2 and 1; elsewhere within 2**-56.
    """
    if 2 * u > SCALE:
        return SCALE - cosine_ease(SCALE - u)
    if 2 * u == SCALE:
        return SCALE // 2
    x = u * HALF_PI >> BITS
    square = x * x >> BITS
    total = 0
    for term in reversed(SINE):  # x (1 - x^2/3! + x^4/5! - ...), from the inside
        total = term - (total * square >> BITS)
    sine = x * total >> BITS
    return sine * sine >> BITS


def square_root(value: Fraction) -> Fraction:
    """The square root of a positive fraction, rounded down to 96 binary places."""
    return Fraction(isqrt((value.numerator << 192) // value.denominator), 1 << 96)
