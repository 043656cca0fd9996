"""Compiled counting equals the plain forms to the bit."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ncamix import apportionment, counting, mixture
from ncamix.apportionment import NEAR, PlainCounter, apportion
from ncamix.counting import CompiledCounter, make_program
from ncamix.mixture import Mixture, StageShape, resolve_mixtures
from ncamix.quantities import Quantity
from ncamix.schedule import BITS, SCALE, Keyframe, Schedule, cosine_ease
from ncamix.sources import BlendSource

LEAVES = "abcde"


@given(st.integers(-SCALE, SCALE), st.integers(0, 2 * SCALE))
@example(-1, 1)
@example(-SCALE, 2 * SCALE)
@example(SCALE, 2 * SCALE)
def test_products_are_floors(x: int, y: int) -> None:
    assert counting.product(x, y) == x * y >> BITS


@given(st.integers(1, (1 << 62) - 1), st.floats(0, 1, exclude_max=True))
@example((1 << 62) - 1, 0.99999)
@example(1, 0.0)
def test_quotients_are_floors(y: int, share: float) -> None:
    x = min(y - 1, int(share * y))
    assert counting.quotient(x, y, 63 - y.bit_length()) == (x << BITS) // y


@given(st.integers(0, SCALE))
@example(SCALE // 2)
@example(SCALE)
def test_eases_are_the_same(u: int) -> None:
    assert counting.ease(u) == cosine_ease(u)


def random_schedule(rng: random.Random, names: str, unit: str = "%") -> Schedule:
    """Keyframes with many zeros, many ties and all eases."""
    frames = []
    for at in sorted(rng.sample(range(0, 101), rng.randint(1, 5))):
        weights = [rng.choice([0, 0, 1, 1, 3, 50, 10**6]) for _ in names]
        weights[rng.randrange(len(names))] += 1
        shares = {n: Fraction(w, sum(weights)) for n, w in zip(names, weights, strict=True)}
        ease = rng.choice(["linear", "cosine", "step"])
        frames.append(Keyframe(Quantity(Fraction(at), unit), shares, ease))
    return tuple(frames)


def random_cycle(rng: random.Random) -> Quantity | None:
    return Quantity(Fraction(rng.randint(1, 30)), "%") if rng.random() < 0.3 else None


def random_mixtures(rng: random.Random) -> list[Mixture]:
    """Two stages, nested blends on all clocks."""
    blends: dict[str, Any] = {}
    for name, inner in (("outer", ["a", "inner", "b"]), ("inner", ["c", "d"])):
        names: Any = inner
        blends[name] = BlendSource.model_construct(
            mixture=random_schedule(rng, names),
            cycle=random_cycle(rng),
            clock=rng.choice(["stage", "run", "self"]),
        )
    stages, first = [], 0
    for _ in range(2):
        names = rng.choice(["abcde", ["a", "outer", "e"], ["inner", "outer", "a", "b"]])
        length, size, tokens = rng.randint(1, 120), rng.choice([1, 2, 3, 64]), 16
        kept = rng.randint(1, length)
        stages.append(
            StageShape(
                random_schedule(rng, names), random_cycle(rng), length, kept, size, tokens, first
            )
        )
        first += kept * size * tokens
    return resolve_mixtures(stages, blends)


@settings(max_examples=60)
@given(st.randoms(use_true_random=False))
def test_compiled_counts_are_the_plain_ones(rng: random.Random) -> None:
    for mixed in random_mixtures(rng):
        shape = (mixed.num_batches, len(mixed.leaves))
        program = make_program(mixed)
        assert program is not None
        plain = PlainCounter(mixed, np.zeros(shape, np.int16))
        fast = CompiledCounter(program, mixed.batch_size, NEAR, np.zeros(shape, np.int16))
        for counter in (plain, fast):
            batch = counter.advance(0)
            while batch < len(counter.counts):
                while wrong := mixed.batch_size - int(counter.counts[batch].sum()):
                    change = 1 if wrong > 0 else -1
                    counter.given[counter.reroute(batch, change)] += change
                batch = counter.advance(batch + 1)
        assert (plain.counts == fast.counts).all()
        assert (plain.flags == fast.flags).all()
        assert (plain.given == fast.given).all()
        assert plain.worst == fast.worst
        assert plain.deviation() == fast.deviation() < SCALE


@settings(max_examples=30)
@given(st.integers(0, 10**9))
def test_long_stages_are_counted_by_compiled_code(seed: int) -> None:
    """Own clocks too: what is resolved and counted does not depend on which form did it."""
    plain = [apportion(mixed) for mixed in random_mixtures(random.Random(seed))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture, "LONG", 0)
        patch.setattr(apportionment, "LONG", 0)
        fast = [apportion(mixed) for mixed in random_mixtures(random.Random(seed))]
    for (mixed, counted), (mixed_fast, counted_fast) in zip(plain, fast, strict=True):
        assert (counted.counts == counted_fast.counts).all()
        assert counted.largest_deviation == counted_fast.largest_deviation
        for name, curve in mixed.curves.items():
            if curve.positions is not None:
                assert (curve.positions == mixed_fast.curves[name].positions).all()


def odd_positions(cycle: str | None) -> Mixture:
    """Keyframes at positions without a common unit of modest size."""
    frames = tuple(
        Keyframe(Quantity(at, "ba"), {"a": share, "b": 1 - share})
        for at, share in (
            (Fraction(0), Fraction(1)),
            (Fraction(10**10, 10**9 + 9), Fraction(0)),
            (Fraction(2 * 10**10, 10**9 + 7), Fraction(1, 3)),
        )
    )
    period = Quantity(Fraction(30), "ba") if cycle else None
    return resolve_mixtures([StageShape(frames, period, 100, 100, 4, 16, 0)], {})[0]


def test_odd_positions_are_rounded_unless_they_repeat() -> None:
    rounded, exact = odd_positions(None), odd_positions("30ba")
    assert make_program(rounded) is not None
    assert make_program(exact) is None
    for t in range(30):
        for one, other in zip(rounded.at(t), exact.at(t), strict=True):
            assert abs(one - other) < SCALE >> 36


def test_what_has_no_program_is_counted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = apportion(odd_positions("30ba"))[1]
    monkeypatch.setattr(apportionment, "LONG", 0)
    assert (apportion(odd_positions("30ba"))[1].counts == plain.counts).all()
