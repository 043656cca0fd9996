"""Schedules: one grammar, exact values, against independent evaluations in fractions."""

from __future__ import annotations

from fractions import Fraction
from math import factorial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from ncamix.quantities import Quantity, refusals
from ncamix.reading import parse_document
from ncamix.schedule import (
    SCALE,
    Clock,
    Curve,
    Keyframe,
    Schedule,
    TokenClock,
    cosine_ease,
    normalised,
    parse_mixture,
    parse_number,
    resolve_mixture,
    resolve_number,
    square_root,
)

# pi to 40 digits, to check the routine by sums of exact fractions
PI = Fraction("3.1415926535897932384626433832795028841971")
CLOCK = Clock(num_batches=100, tokens_per_batch=256)


def yaml(text: str) -> Any:
    return parse_document(f"ncamix: 1\na: {text}\n", "x.yaml").tree.plain()["a"]


def mixture(text: str) -> Schedule:
    return parse_mixture(yaml(text))


def refused(text: str, parse: Any = parse_mixture) -> list[tuple[Any, str, str]]:
    with pytest.raises(PydanticCustomError) as caught:
        parse(yaml(text))
    return refusals(caught.value)


def shares(schedule: Schedule, batch: int, *names: str, cycle: Quantity | None = None) -> list:
    values = at_batch(resolve_mixture(schedule, CLOCK, names, cycle), batch)
    return [round(value / SCALE, 12) for value in values]


def at_batch(curve: Curve, batch: int) -> tuple[int, ...]:
    """Weights at the midpoint of a batch, on a stage's clock."""
    return curve.weights((2 * batch + 1) * curve.unit // 2)


# -- grammar ------------------------------------------------------------------------------------


def test_short_form_full_form_and_constants_mean_the_same() -> None:
    short = mixture("{0%: {a: 1}, 100%: {b: 1}}")
    full = mixture("[{at: 0%, mix: {a: 1}}, {at: 100%, mix: {b: 1}, ease: linear}]")
    assert short == full
    assert mixture("{a: 1}") == mixture("{0%: {a: 5}}") == mixture("[{at: 0.0%, mix: {a: 100%}}]")
    assert parse_number(yaml("3e-4"))[0].value == Quantity(Fraction(3, 10_000), "")
    assert parse_number(yaml("{0%: 1x, 100%: 0.1x}"))[1].value == Quantity(Fraction(1, 10), "x")


def test_mixtures_are_normalised_keyframe_by_keyframe_then_interpolated() -> None:
    schedule = mixture("{0ba: {a: 1, b: 9}, 100ba: {a: 300, b: 100}}")
    assert schedule[0].value == {"a": Fraction(1, 10), "b": Fraction(9, 10)}
    half = Fraction(1, 10) + (Fraction(3, 4) - Fraction(1, 10)) * Fraction("0.505")
    assert shares(schedule, 50, "a", "b") == [round(float(half), 12), round(1 - float(half), 12)]


def test_an_absent_source_is_zero() -> None:
    schedule = mixture("{0%: {a: 1}, 50%: {b: 1}, 100%: {a: 1}}")
    assert shares(schedule, 0, "a", "b") == [0.99, 0.01]
    assert shares(mixture("{a: 1}"), 7, "a", "b") == [1, 0]


def test_before_the_first_and_after_the_last_keyframe_the_nearest_holds() -> None:
    schedule = mixture("{20%: {a: 1}, 40%: {b: 1}}")
    for batch, expected in ((0, [1, 0]), (19, [1, 0]), (40, [0, 1]), (99, [0, 1])):
        assert shares(schedule, batch, "a", "b") == expected


def test_negative_positions_count_from_the_end() -> None:
    for at in ("-10%", "-10ba", "-2560tok", "90%", "90ba", "23.04ktok"):
        schedule = mixture(f"{{0%: {{a: 1}}, {at}: {{b: 1}}}}")
        assert resolve_mixture(schedule, CLOCK, ("a", "b")).positions == (0, 180)


def test_a_step_holds_until_the_next_keyframe_which_owns_its_own_instant() -> None:
    text = "[{at: 0%, mix: {a: 1}, ease: step}, {at: 10.5ba, mix: {b: 1}}]"
    schedule = mixture(text)
    assert shares(schedule, 9, "a", "b") == [1, 0]
    assert shares(schedule, 10, "a", "b") == [0, 1]  # the midpoint of batch 10 is 10.5
    late = mixture(text.replace("10.5ba", "10.500001ba"))
    assert shares(late, 10, "a", "b") == [1, 0]


def test_cosine_ease_is_slow_at_both_ends() -> None:
    schedule = mixture("[{at: 0%, mix: {a: 1}, ease: cosine}, {at: 100%, mix: {b: 1}}]")
    assert shares(schedule, 0, "a", "b")[1] < 0.0001
    assert shares(schedule, 24, "a", "b")[1] == round((1 - 0.7181262977631888) / 2, 12)


def test_cycles_repeat_and_their_keyframes_are_relative_to_them() -> None:
    schedule = mixture("[{at: 0%, mix: {a: 1}, ease: step}, {at: 50%, mix: {b: 1}}]")
    ten = Quantity(Fraction(10), "ba")
    seen = [shares(schedule, t, "a", "b", cycle=ten)[0] for t in range(40)]
    assert seen == ([1] * 5 + [0] * 5) * 4
    for at in ("-5ba", "-50%", "-1280tok", "5ba", "1280tok"):
        moved = mixture(f"[{{at: 0%, mix: {{a: 1}}, ease: step}}, {{at: {at}, mix: {{b: 1}}}}]")
        names = ("a", "b")
        curves = [resolve_mixture(each, CLOCK, names, ten) for each in (moved, schedule)]
        assert curves[0] == curves[1]
    with pytest.raises(ValueError, match="outside the cycle of 10ba"):
        resolve_mixture(mixture("{0%: {a: 1}, 11ba: {b: 1}}"), CLOCK, ("a", "b"), ten)


def test_relative_numbers_are_multiplied_by_the_base() -> None:
    number = parse_number(yaml("{0%: 0.5x, 100%: 3e-4}"))
    curve = resolve_number(number, CLOCK, None, Fraction(1, 100))
    assert curve.values == ((Fraction(5, 1000),), (Fraction(3, 10_000),))


def test_numbers_are_exact() -> None:
    curve = resolve_number(parse_number(yaml("{0%: 3e-4, 50%: 1e-4, 100%: 1e-4}")), CLOCK)
    assert [curve.number(x) for x in (0, 50, 100, 150)] == [
        Fraction(3, 10_000),
        Fraction(2, 10_000),
        Fraction(1, 10_000),
        Fraction(1, 10_000),
    ]
    constant = resolve_number(parse_number(yaml("3e-4")), CLOCK)
    assert float(constant.number(77)) == 3e-4


def test_a_clock_of_tokens() -> None:
    clock = TokenClock(Fraction(2000), "the run")
    quantities = [Quantity(Fraction(v), u) for v, u in ((25, "%"), (500, "tok"), (-1500, "tok"))]
    assert [clock.position(at) for at in quantities] == [500] * 3
    curve = resolve_mixture(mixture("{500tok: {a: 1}, -50%: {b: 1}}"), clock, ("a", "b"))
    assert curve.positions == (1000, 2000)
    assert [at_batch(curve, t)[0] / SCALE for t in (0, 749, 1000)] == [1, 0.501, 0]
    with pytest.raises(ValueError, match="5ba: batches are not counted over the run"):
        resolve_mixture(mixture("{0%: {a: 1}, 5ba: {b: 1}}"), clock, ("a", "b"))
    with pytest.raises(ValueError, match="at 2001tok lies outside the run"):
        resolve_mixture(mixture("{0%: {a: 1}, 2001tok: {b: 1}}"), clock, ("a", "b"))


def test_positions_on_a_grid_are_rounded_up() -> None:
    """So that what has reached a keyframe, on the grid, has reached its rounded position."""
    schedule = mixture("{10%: {a: 1}, 33%: {b: 1}}")
    clock = TokenClock(Fraction(10), "the run")
    assert resolve_mixture(schedule, clock, ("a", "b"), None, 4).positions == (4, 14)


@pytest.mark.parametrize(
    ("text", "path", "what"),
    [
        ("{}", (), "a mixture is a mapping"),
        ("5", (), "a mixture is a mapping"),
        ("[]", (), "no keyframes"),
        ("{a: 60%, b: 30%}", (), "sum to 90%, not 100%"),
        ("{a: 60%, b: 1}", (), "with and without % are mixed"),
        ("{a: 0, b: 0}", (), "every weight is zero"),
        ("{a: -1, b: 2}", ("a",), "negative"),
        ("{a: 5tok}", ("a",), "not a weight"),
        ("{a: true}", ("a",), "not a weight"),
        ("{a: 1e50}", ("a",), "out of all bounds"),
        ("{0%: {a: 1}, 60%: {a: 1}, 60.0%: {b: 1}}", (), "two keyframes stand at 60%"),
        ("{0%: {a: 1}, 101%: {b: 1}}", ("101%",), "beyond the stage"),
        ("{0: {a: 1}}", ("0",), "'0' is not understood here"),
        ("{0%: {a: 1}, b: {a: 1}}", (), "'b' stands among positions"),
        ("{0%: {a: 50%}}", ("0%",), "sum to 50%"),
        ("[{at: 0%}]", (0,), "no 'mix'"),
        ("[{mix: {a: 1}}]", (0,), "no 'at'"),
        ("[{at: 0%, mix: {a: 1}, ease: sine}]", (0, "ease"), "unknown ease 'sine'"),
        ("[{at: 0%, mix: {a: 1}, easy: step}]", (0, "easy"), "unknown key 'easy'"),
        ("[5]", (0,), "not a keyframe"),
    ],
)
def test_refused_mixtures(text: str, path: tuple, what: str) -> None:
    ((where, said, remedy),) = refused(text)
    assert where == path
    assert what in said
    assert remedy


def test_refused_numbers() -> None:
    assert refused("{0%: -1x}", parse_number)[0][:2] == (("0%",), "negative")
    assert "'5tok' is not understood" in refused("5tok", parse_number)[0][1]


def test_every_problem_of_a_schedule_is_found() -> None:
    found = refused("{0%: {a: -1, b: x}, 200%: {c: 1}, 50%: {}}")
    assert [where for where, *_ in found] == [("0%", "a"), ("0%", "b"), ("200%",), ("50%",)]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{50%: {a: 1}, 40%: {b: 1}}", "at 40% does not come after the one at 50%"),
        ("{50%: {a: 1}, 50ba: {b: 1}}", "at 50ba does not come after the one at 50%"),
        ("{0%: {a: 1}, 101ba: {b: 1}}", "at 101ba lies outside the stage"),
        ("{-101ba: {a: 1}, 50%: {b: 1}}", "at -101ba lies outside the stage"),
        ("{0%: {a: 1}, 1Mtok: {b: 1}}", "at 1Mtok lies outside the stage"),
    ],
)
def test_keyframes_that_do_not_fit_the_stage(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        resolve_mixture(mixture(text), CLOCK, ("a", "b"))


# -- values against exact fractions -------------------------------------------------------------

EASES = st.sampled_from(["linear", "step"])
NAMES = ("a", "b", "c")


@st.composite
def schedules(draw: st.DrawFn) -> tuple[Schedule, int]:
    num_batches = draw(st.integers(1, 300))
    points = draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True))
    frames = []
    for point in sorted(points):
        weights = draw(st.lists(st.integers(0, 1000), min_size=3, max_size=3).filter(any))
        value = {n: Fraction(w, sum(weights)) for n, w in zip(NAMES, weights, strict=True)}
        frames.append(Keyframe(Quantity(Fraction(point, 10**4), "%"), value, draw(EASES)))
    return tuple(frames), num_batches


def evaluate(schedule: Schedule, x: Fraction, length: int, name: str) -> Fraction:
    """The definition, in exact fractions."""
    at = [frame.at.value / 100 * length for frame in schedule]
    before = [i for i, position in enumerate(at) if position <= x]
    if not before:
        return schedule[0].value[name]
    i = before[-1]
    if i == len(at) - 1 or schedule[i].ease == "step":
        return schedule[i].value[name]
    u = (x - at[i]) / (at[i + 1] - at[i])
    return schedule[i].value[name] * (1 - u) + schedule[i + 1].value[name] * u


@given(schedules())
def test_curves_agree_with_exact_fractions(drawn: tuple[Schedule, int]) -> None:
    schedule, length = drawn
    curve = resolve_mixture(schedule, Clock(length, 64), NAMES)
    for batch in {0, length // 3, length // 2, length - 1}:
        values = at_batch(curve, batch)
        for name, value in zip(NAMES, values, strict=True):
            exact = evaluate(schedule, Fraction(2 * batch + 1, 2), length, name)
            assert abs(Fraction(value, SCALE) - exact) < Fraction(1, 1 << 56)
            assert value >= 0
        assert abs(sum(values) - SCALE) <= 2 * len(NAMES)
        assert sum(normalised(values)) == SCALE


def exact_ease(u: Fraction) -> Fraction:
    """(1 - cos(pi u)) / 2 = sin(pi u / 2)**2 by a Taylor series in fractions."""
    x = PI * u / 2
    sine = sum(((-1) ** k * x ** (2 * k + 1) / factorial(2 * k + 1) for k in range(16)), Fraction())
    return sine**2


@given(st.integers(0, SCALE))
def test_cosine_ease_agrees_with_its_series(u: int) -> None:
    difference = Fraction(cosine_ease(u), SCALE) - exact_ease(Fraction(u, SCALE))
    assert abs(difference) < Fraction(1, 1 << 56)


@given(st.integers(0, SCALE))
def test_cosine_ease_is_symmetric(u: int) -> None:
    assert cosine_ease(u) + cosine_ease(SCALE - u) == SCALE


@given(st.integers(0, SCALE - 1), st.integers(1, 1 << 58))
def test_cosine_ease_rises(u: int, step: int) -> None:
    later = min(SCALE, u + step)
    assert 0 <= cosine_ease(u) <= SCALE
    # steps below the last places of the series may tie, or fall by those places
    assert cosine_ease(later) - cosine_ease(u) >= -16


def test_cosine_ease_is_exact_at_the_ends_and_rises_on_a_grid() -> None:
    assert [cosine_ease(u) for u in (0, SCALE // 2, SCALE)] == [0, SCALE // 2, SCALE]
    values = [cosine_ease(i * SCALE // 2000) for i in range(2001)]
    assert all(b > a for a, b in zip(values, values[1:], strict=False))


@given(st.fractions(Fraction(1, 10**12), 10**12))
def test_square_roots_are_rounded_down(value: Fraction) -> None:
    root, place = square_root(value), Fraction(1, 1 << 96)
    assert root**2 <= value < (root + place) ** 2


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6).filter(any))
def test_normalising_keeps_zeros(weights: list[int]) -> None:
    total = sum(weights)
    scaled = normalised([w * SCALE // total for w in weights])
    assert sum(scaled) == SCALE
    assert [w == 0 for w in scaled] == [w == 0 for w in weights]
