"""Conditions that end a stage, as written."""

from __future__ import annotations

from fractions import Fraction

import pytest
from plan_files import refusals_of
from pydantic import TypeAdapter

from ncamix.evidence import Condition, Until, WrittenUntil
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
    assert str(plateau) == "bits_per_byte/code down by less than 0.01 over 1000000tok"
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
            "write loss/simple",
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
