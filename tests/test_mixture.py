"""Mixtures on the clocks of stage, run and blend, against plain evaluation in fractions."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncamix.mixture import (
    MixtureError,
    MixtureProblem,
    StageShape,
    names_of,
    resolve_mixtures,
    weights_as_floats,
)
from ncamix.quantities import Quantity, parse_quantity
from ncamix.schedule import SCALE, Keyframe, Schedule, parse_mixture
from ncamix.sources import BlendSource


def blend(mixture: Any, clock: str = "stage", cycle: str | None = None) -> BlendSource:
    return BlendSource.model_construct(
        mixture=parse_mixture(mixture), clock=clock, cycle=parse_quantity(cycle) if cycle else None
    )


def shape(mixture: Any, num_batches: int, first_token: int = 0, **more: Any) -> StageShape:
    """A stage of batches of 4 samples of 8 tokens."""
    schedule = parse_mixture(mixture)
    made = StageShape(schedule, None, num_batches, num_batches, 4, 8, first_token)
    return replace(made, **more)


def shares(mixture: Any, name: str, *batches: int) -> list[float]:
    return [round(weights_as_floats(mixture, batch)[name], 12) for batch in batches]


RISE = {"0%": {"a": 1}, "100%": {"b": 1}}  # b takes over


def test_a_blend_multiplies_through() -> None:
    blends = {
        "outer": blend({"0%": {"inner": 1}, "100%": {"c": 1}}),
        "inner": blend({"a": 1, "b": 3}),
    }
    (mixed,) = resolve_mixtures([shape({"outer": "50%", "b": "50%"}, 10)], blends)
    assert mixed.leaves == ("a", "b", "c")
    assert weights_as_floats(mixed, 2) == pytest.approx(
        {"a": 0.75 / 8, "b": 0.5 + 0.75 * 3 / 8, "c": 0.125}, rel=1e-15
    )
    assert sum(mixed.at(2)) == SCALE


def test_a_blend_that_two_mixtures_hold_has_both_weights() -> None:
    blends = {"inner": blend({"a": 1}), "outer": blend({"inner": 1, "b": 1})}
    (mixed,) = resolve_mixtures([shape({"inner": 1, "outer": 1}, 3)], blends)
    assert weights_as_floats(mixed, 1) == {"a": 0.75, "b": 0.25}


def test_the_stages_clock_begins_anew_in_each_stage() -> None:
    stages = [shape({"x": 1}, 10), shape({"x": 1}, 5, 320)]
    first, second = resolve_mixtures(stages, {"x": blend(RISE)})
    assert shares(first, "b", 0, 9) == [0.05, 0.95]
    assert shares(second, "b", 0, 4) == [0.1, 0.9]


def test_the_runs_clock_goes_on() -> None:
    stages = [shape({"x": 1}, 10), shape({"a": 1}, 4, 320), shape({"x": 1}, 6, 448)]
    first, _, third = resolve_mixtures(stages, {"x": blend(RISE, "run")})
    assert shares(first, "b", 0, 9) == [0.025, 0.475]
    assert shares(third, "b", 0, 5) == [0.725, 0.975]


def test_tokens_of_the_run_and_cycles() -> None:
    step = [{"at": "0tok", "mix": {"a": 1}, "ease": "step"}, {"at": "96tok", "mix": {"b": 1}}]
    stages = [shape({"x": 1}, 10), shape({"x": 1}, 10, 320)]
    mixtures = resolve_mixtures(stages, {"x": blend(step, "run", "128tok")})
    seen = [shares(mixture, "b", *range(10)) for mixture in mixtures]
    assert seen[0] + seen[1] == [0, 0, 0, 1] * 5


def test_a_blends_own_clock_goes_on_where_it_stood() -> None:
    """Half of stage 1, nothing of stage 2, all of stage 3: 5 + 0 + 5 batches of its own."""
    stages = [
        shape({"x": 1, "c": 1}, 10),
        shape({"c": 1}, 7, 320),
        shape({"x": 1}, 5, 544),
    ]
    first, _, third = resolve_mixtures(stages, {"x": blend(RISE, "self")})
    assert shares(first, "b", 0, 9) == [0.5 * 0.025, 0.5 * 0.475]
    assert shares(third, "b", 0, 4) == [0.55, 0.95]


def test_tokens_of_a_blends_own() -> None:
    step = [{"at": "0%", "mix": {"a": 1}, "ease": "step"}, {"at": "-64tok", "mix": {"b": 1}}]
    (mixed,) = resolve_mixtures([shape({"x": 1, "c": 3}, 16)], {"x": blend(step, "self")})
    assert shares(mixed, "b", *range(16)) == [0] * 8 + [0.25] * 8


def test_a_blend_without_weight_has_no_clock_and_needs_none() -> None:
    stages = [shape({"x": 0, "c": 1}, 4)]
    (mixed,) = resolve_mixtures(stages, {"x": blend({"5tok": {"a": 1}, "9tok": {"b": 1}}, "self")})
    assert weights_as_floats(mixed, 3) == {"a": 0, "b": 0, "c": 1}


@pytest.mark.parametrize("clock", ["stage", "run", "self"])
def test_a_stage_that_ends_early_changes_no_batch_before_its_end(clock: str) -> None:
    planned = [shape({"x": 1, "c": 1}, 10), shape({"x": 1}, 6, 320)]
    ended = [replace(planned[0], num_batches=4), shape({"x": 1}, 12, 128)]
    blends = {"x": blend(RISE, clock)}
    before = resolve_mixtures(planned, blends)
    after = resolve_mixtures(ended, blends, planned)
    assert [before[0].at(t) for t in range(10)] == [after[0].at(t) for t in range(10)]
    expected = {  # positions of the second stage's first and last batch
        "stage": [0.5 / 12, 11.5 / 12],
        "run": [4.5 / 16, 15.5 / 16],
        "self": [2.5 / 11, 1.0],
    }
    assert shares(after[1], "b", 0, 11) == pytest.approx(expected[clock], rel=1e-11)


def test_played_backwards_and_flattened() -> None:
    (mixed,) = resolve_mixtures([shape(RISE, 10)], {})
    back = mixed.reversed()
    assert [back.at(t) for t in range(10)] == [mixed.at(9 - t) for t in range(10)]
    assert back.reversed() == mixed
    flat = mixed.flattened([3, 1])
    assert flat.is_constant
    assert not mixed.is_constant
    assert flat.at(0) == flat.at(9) == (3 * SCALE // 4, SCALE // 4)


def test_every_problem_is_found_and_placed() -> None:
    beyond = {"0%": {"a": 1}, "50ba": {"b": 1}}
    stages = [
        shape({"0%": {"x": 1}, "11ba": {"y": 1}}, 10),
        shape({"x": 1, "y": 1, "z": 1}, 20, 320),
        shape({"y": 1, "z": 1}, 60, 960),
    ]
    blends = {
        "x": blend(beyond),
        "y": blend({"0%": {"a": 1}, "2881tok": {"b": 1}}, "run"),
        "z": blend({"0%": {"a": 1}, "1.3ktok": {"b": 1}}, "self"),
    }
    with pytest.raises(MixtureError) as caught:
        resolve_mixtures(stages, blends)
    problems = sorted(caught.value.problems, key=lambda p: (p.blend or "", p.stage))
    assert problems == [
        MixtureProblem(0, None, "the keyframe at 11ba lies outside the stage"),
        MixtureProblem(0, "x", "the keyframe at 50ba lies outside the stage"),
        MixtureProblem(1, "x", "the keyframe at 50ba lies outside the stage"),
        MixtureProblem(0, "y", "the keyframe at 2881tok lies outside the run"),
        MixtureProblem(1, "z", "the keyframe at 1300tok lies outside the blend's 1.17k tokens"),
    ]


# -- against the definition, in exact fractions ---------------------------------------------------


def evaluate(blend: Any, x: Fraction, end: Fraction) -> dict[str, Fraction]:
    """The value of a blend's schedule, of linear eases and steps, at a position of its clock."""
    if blend.cycle:
        end = blend.cycle.value / 100 * end
        x -= x // end * end
    at = [frame.at.value / 100 * end for frame in blend.mixture]
    before = [i for i, position in enumerate(at) if position <= x]
    i = before[-1] if before else 0
    left = blend.mixture[i]
    if not before or i == len(at) - 1 or left.ease == "step":
        return left.value
    u, right = (x - at[i]) / (at[i + 1] - at[i]), blend.mixture[i + 1]
    names = {**left.value, **right.value}
    return {n: left.value.get(n, 0) * (1 - u) + right.value.get(n, 0) * u for n in names}


class Definition:
    """Weights by the words of the language; blends are resolved in the order of their names."""

    def __init__(
        self,
        stages: Sequence[StageShape],
        blends: Mapping[str, BlendSource],
        planned: Definition | None = None,
    ) -> None:
        self.stages, self.blends = stages, blends
        weights: Any = [[{"": Fraction(1)} for _ in range(s.clock_batches)] for s in stages]
        self.weights: list[list[dict[str, Fraction]]] = weights
        for i, stage in enumerate(stages):
            for t in range(stage.clock_batches):
                self.spread("", stage, i, t, t + Fraction(1, 2), Fraction(stage.clock_batches))
        run = Fraction(sum(s.clock_batches * s.tokens_per_batch for s in stages))
        self.run = planned.run if planned else run
        self.own: dict[str, Fraction] = {}
        for name in sorted(blends):
            self.own[name] = self.own_tokens(name)
            end = planned.own[name] if planned else self.own[name]
            self.resolve(name, end)

    def own_tokens(self, name: str) -> Fraction:
        return sum(
            (
                self.weights[i][t].get(name, Fraction(0)) * stage.tokens_per_batch
                for i, stage in enumerate(self.stages)
                for t in range(stage.num_batches)
            ),
            Fraction(0),
        )

    def resolve(self, name: str, own: Fraction) -> None:
        clock, done = self.blends[name].clock, Fraction(0)
        for i, stage in enumerate(self.stages):
            size, begun = stage.tokens_per_batch, done
            for t in range(stage.clock_batches):
                tokens = self.weights[i][t].get(name, Fraction(0)) * size
                x, end = t + Fraction(1, 2), Fraction(stage.clock_batches)
                if clock == "run":
                    x, end = stage.first_token + size * x, self.run
                if clock == "self":
                    x, end = begun + tokens / 2, own
                begun += tokens
                if t < stage.num_batches:
                    done = begun
                if tokens:
                    self.spread(name, self.blends[name], i, t, x, end)

    def spread(self, name: str, of: Any, i: int, t: int, x: Fraction, end: Fraction) -> None:
        if isinstance(of, StageShape):
            of = BlendSource.model_construct(mixture=of.schedule, cycle=of.cycle)
        weights = self.weights[i][t]
        for inner, share in evaluate(of, x, end).items():
            weights[inner] = weights.get(inner, Fraction(0)) + weights[name] * share


def random_schedule(rng: random.Random, names: str) -> Schedule:
    frames = []
    for at in sorted(rng.sample(range(0, 101), rng.randint(1, 4))):
        weights = [rng.choice([0, 0, 1, 1, 2, 5, 1000]) for _ in names]
        weights[rng.randrange(len(names))] += 1
        value = {n: Fraction(w, sum(weights)) for n, w in zip(names, weights, strict=True)}
        ease = rng.choice(["linear", "step"])
        frames.append(Keyframe(Quantity(Fraction(at), "%"), value, ease))
    return tuple(frames)


def random_run(
    rng: random.Random, clocks: Sequence[str] = ("stage", "run", "self")
) -> tuple[list[StageShape], dict[str, BlendSource]]:
    """Stages of leaves abc and blends X, Y in X, with cycles."""

    def cycle() -> Quantity | None:
        period = Quantity(Fraction(rng.randint(5, 60)), "%")
        return period if rng.random() < 0.3 else None

    blends = {
        name: BlendSource.model_construct(
            mixture=random_schedule(rng, names), cycle=cycle(), clock=rng.choice(clocks)
        )
        for name, names in (("X", "abY"), ("Y", "bcd"))
    }
    stages: list[StageShape] = []
    for _ in range(rng.randint(1, 3)):
        schedule = random_schedule(rng, rng.choice(["abc", "aX", "XYd", "bXc"]))
        n, size, length = rng.randint(1, 40), rng.choice([1, 2, 5, 64]), rng.choice([4, 16])
        first = stages[-1].first_token + n * stages[-1].tokens_per_batch if stages else 0
        stages.append(StageShape(schedule, cycle(), n, n, size, length, first))
    return stages, blends


@settings(max_examples=100)
@given(st.randoms(use_true_random=False), st.booleans())
def test_weights_agree_with_exact_fractions(rng: random.Random, early: bool) -> None:
    stages, blends = random_run(rng)
    planned = None
    if early:
        planned, stages = stages, list(stages)
        stages[0] = replace(stages[0], num_batches=rng.randint(1, stages[0].clock_batches))
    exact = Definition(stages, blends, Definition(planned, blends) if planned else None)
    mixtures = resolve_mixtures(stages, blends, planned)
    own = any(blend.clock == "self" for blend in blends.values())  # tokens of its own are rounded
    for mixture, stage, weights in zip(mixtures, stages, exact.weights, strict=True):
        assert set(names_of(stage.schedule)) <= {*mixture.leaves, *blends}
        for t in range(stage.clock_batches):
            assert sum(mixture.at(t)) == SCALE
            for name, weight in zip(mixture.leaves, mixture.at(t), strict=True):
                difference = Fraction(weight, SCALE) - weights[t].get(name, 0)
                assert abs(difference) < Fraction(1, 1 << (30 if own else 52))
                assert (weight == 0) == (weights[t].get(name, 0) == 0)
