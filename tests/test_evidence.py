"""Conditions that end a stage, as written."""

from __future__ import annotations

from fractions import Fraction

import pytest
from plan_files import refusals_of
from pydantic import TypeAdapter

from ncamix.evidence import Condition, Observation, Until, WrittenUntil, has_ended
from ncamix.quantities import Quantity

READ = TypeAdapter(WrittenUntil).validate_python


def test_conditions() -> None:
    until = READ(
        {
            "loss/simple": {"below": 2},
            "bits_per_byte/code": {"plateau": Fraction(1, 100), "over": "1Mtok"},
        }
    )
    below = Condition("loss", "simple", below=Fraction(2))
    million = Quantity(Fraction(10**6), "tok")
    plateau = Condition("bits_per_byte", "code", plateau=Fraction(1, 100), over=million)
    assert until == Until((below, plateau))
    assert str(below) == "loss/simple below 2"
    assert str(plateau) == "bits_per_byte/code down by less than 0.01 over 1Mtok"
    assert READ({"perplexity/a": {"plateau": 0, "over": "1tok"}}).conditions[0].plateau == 0


@pytest.mark.parametrize(
    ("written", "place", "what", "remedy"),
    [
        (5, "", "a mapping of metrics", "{loss/simple: {below: 2.0}}"),
        ({}, "", "a mapping of metrics", "{loss/simple: {below: 2.0}}"),
        (
            {"loss": {"below": 2}},
            "loss",
            "not a metric of an evaluated source",
            "write {loss/simple: {below: 2.0}}",
        ),
        ({"loss/": {"below": 2}}, "loss/", "not a metric of an evaluated source", "loss/simple"),
        ({"los/a": {"below": 2}}, "los/a", "unknown metric 'los'", "did you mean 'loss'?"),
        ({"loss/a": 2}, "loss/a", "not a condition", "write {below: 2.0} or {plateau"),
        ({"loss/a": {}}, "loss/a", "one of below and plateau", "{below: 2.0}"),
        ({"loss/a": {"over": "1tok"}}, "loss/a", "one of below and plateau", "{below: 2.0}"),
        (
            {"loss/a": {"below": 2, "plateau": 0, "over": "1tok"}},
            "loss/a",
            "one of below and plateau",
            "{below: 2.0}",
        ),
        ({"loss/a": {"plateau": 0}}, "loss/a", "a plateau has a length", "over: 1Mtok"),
        ({"loss/a": {"below": 2, "over": "1tok"}}, "loss/a", "a plateau has a length", "below"),
        ({"loss/a": {"below": 0}}, "loss/a.below", "not above 0", "above 0"),
        ({"loss/a": {"below": "2%"}}, "loss/a.below", "not a number", "plain number"),
        ({"loss/a": {"plateau": 1, "over": "1tok"}}, "loss/a.plateau", "between 0 and 1", "0.01"),
        ({"loss/a": {"plateau": -1, "over": "1tok"}}, "loss/a.plateau", "between 0 and", "0.01"),
        ({"loss/a": {"plateau": 0, "over": "1ba"}}, "loss/a.over", "'1ba' is not", "1Mtok"),
        ({"loss/a": {"plateau": 0, "over": "0tok"}}, "loss/a.over", "longer than", "1Mtok"),
        ({"loss/a": {"below": 1, "bellow": 1}}, "loss/a.bellow", "unknown key", "'below'?"),
    ],
)
def test_what_is_no_condition(written: object, place: str, what: str, remedy: str) -> None:
    ((found, said, way_out),) = refusals_of(READ, written)
    assert found == place
    assert what in said
    assert remedy in way_out


def test_every_mistake_is_found() -> None:
    written = {"lss/a": {"below": 1}, "loss/b": {"plateau": 2, "over": "0tok", "x": 1}}
    found = [place for place, _, _ in refusals_of(READ, written)]
    assert found == ["lss/a", "loss/b.x", "loss/b.plateau", "loss/b.over"]


def seen(*losses: float, every: int = 100) -> list[Observation]:
    """Observations of loss/simple and loss/rich, which is twice that."""
    return [
        Observation(i * every, {"loss/simple": loss, "loss/rich": 2 * loss})
        for i, loss in enumerate(losses)
    ]


def test_a_stage_ends_below_a_value() -> None:
    until = READ({"loss/simple": {"below": 2}})
    assert not has_ended(until, [])
    assert not has_ended(until, seen(3, 2))  # below, not at
    assert has_ended(until, seen(3, 1.99))
    assert not has_ended(until, seen(3, 1.99, 2.5))  # what counts is the last one
    assert not has_ended(until, seen(3, float("nan")))


def test_all_conditions_hold_at_one_evaluation() -> None:
    until = READ({"loss/simple": {"below": 2}, "loss/rich": {"below": 3}})
    assert not has_ended(until, seen(3, 1.9))
    assert has_ended(until, seen(3, 1.4))


def test_a_stage_ends_on_a_plateau() -> None:
    until = READ({"loss/simple": {"plateau": Fraction(1, 100), "over": "200tok"}})
    assert not has_ended(until, seen(3, 3))  # nothing is 200 tokens ago
    assert has_ended(until, seen(3, 3, 3))
    assert not has_ended(until, seen(3, 2.9, 2.95))  # 3.3% better
    assert has_ended(until, seen(3, 2.98, 2.99))  # 0.7% better
    assert has_ended(until, seen(1, 3, 3, 3))  # the best before, not the last
    assert not has_ended(until, seen(3, float("nan"), 1))
