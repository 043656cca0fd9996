"""Entering a stage: the keys of `enter:`, and what they mean for a model."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from pydantic import ValidationError

from ncamix.entry import Enter, RunStage
from ncamix.groups import FrozenGroup, Group, all_parts


def test_nothing_happens_by_default() -> None:
    enter = Enter()
    assert enter.reinitialize == enter.keep_only == enter.permute == ()
    assert enter.freeze == enter.spare == ()
    assert (enter.initializer, enter.optimizer_state, enter.from_run) == ("model", "fresh", None)
    assert enter.redrawn(4) == enter.permuted(4) == set()


def test_every_key() -> None:
    enter = Enter.model_validate(
        {
            "reinitialize": ["embeddings", {"mlp": "0..1"}],
            "permute": {"mlp": 2, "attention": "all"},
            "freeze": {"attention": "all"},
            "initializer": {"normal": 2},
            "optimizer_state": "keep",
            "spare": ["nca", "code"],
            "from": "../runs/first run/automata",
        }
    )
    assert enter.reinitialize == (Group("embeddings"), Group("mlp", (0, 1)))
    assert enter.permute == (Group("mlp", (2, 2)), Group("attention"))
    assert enter.freeze == (FrozenGroup("attention"),)
    assert (enter.initializer, enter.optimizer_state) == (Fraction(2), "keep")
    assert enter.spare == ("nca", "code")
    assert enter.from_run == RunStage("../runs/first run", "automata")
    assert Enter.model_validate({"spare": "nca", "from": "/r/s"}).from_run == RunStage("/r", "s")


def test_what_is_drawn_anew() -> None:
    some = Enter.model_validate({"reinitialize": ["head", {"mlp": 1}]})
    assert some.redrawn(3) == {("head", None), ("mlp", 1)}
    kept = Enter.model_validate({"keep_only": ["head", {"mlp": 1}]})
    assert kept.redrawn(3) == all_parts(3) - some.redrawn(3)
    assert ("mlp", 2) in kept.redrawn(3)


@pytest.mark.parametrize(
    ("written", "path", "what"),
    [
        ({"reinitialize": "head", "keep_only": "mlp"}, "keep_only", "both say what is drawn anew"),
        ({"keep_only": []}, "keep_only", "nothing is kept"),
        (
            {"keep_only": ["embeddings", "attention", "mlp", "norms", "final_norm"]},
            "keep_only",
            "everything is kept",
        ),
        ({"keep_only": ["hed"]}, "keep_only.0", "unknown group 'hed'"),
        ({"permute": [{"mlp": "0..1"}, "mlp"]}, "permute.1", "overlap"),
        ({"freeze": {"mlp": {"layers": "3..1"}}}, "freeze.mlp.layers", "reversed"),
        ({"freeze": ["mlp", {"mlp": 3}]}, "freeze.1.mlp", "overlap"),
        ({"initializer": "xavier"}, "initializer", "not an initializer"),
        ({"initializer": {"normal": 0}}, "initializer", "not an initializer"),
        ({"optimizer_state": "kept"}, "optimizer_state", "Input should be 'fresh' or 'keep'"),
        ({"spare": 5}, "spare", "not a list of kinds or sources"),
        ({"spare": ["nca", 5]}, "spare.1", "not a kind or a source"),
        ({"spare": ["nca", "nca"]}, "spare.1", "'nca' stands twice"),
        ({"from": "automata"}, "from", "not a stage of a run"),
        ({"from": "/automata"}, "from", "not a stage of a run"),
        ({"from": "runs/a/"}, "from", "not a stage of a run"),
        ({"from": 5}, "from", "not a stage of a run"),
        ({"from_run": "a/b"}, "from_run", "Extra inputs"),
    ],
)
def test_what_cannot_happen(written: dict[str, Any], path: str, what: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Enter.model_validate(written)
    (error,) = caught.value.errors()
    problems = error.get("ctx", {}).get("problems", [((), error["msg"], "")])
    ((below, said, _),) = problems
    assert ".".join(map(str, (*error["loc"], *below))) == path
    assert what in said


def test_layers_that_a_model_lacks() -> None:
    enter = Enter.model_validate(
        {
            "keep_only": [{"mlp": "0..3", "attention": "2..4"}, "head"],
            "permute": {"mlp": 4},
            "freeze": {"norms": {"layers": 9, "until": "10%"}},
        }
    )
    found = enter.layers_beyond(4)
    paths = [("keep_only", "attention"), ("permute", "mlp"), ("freeze", "norms")]
    assert [path for path, _, _ in found] == paths
    assert found[0][1] == "'attention 2..4' goes beyond the model, whose layers are 0..3"
    assert found[2][1].startswith("'norms 9' goes beyond")
    assert all(remedy for _, _, remedy in found)
    assert not enter.layers_beyond(10)


@pytest.mark.parametrize(
    ("written", "faulty"),
    [
        ({"reinitialize": "head", "permute": ["attention", "mlp"]}, None),
        ({"reinitialize": {"mlp": "0..1"}, "permute": {"mlp": "2..3"}}, None),
        ({"reinitialize": {"mlp": "0..1"}, "permute": ["norms", "mlp"]}, "mlp"),
        ({"reinitialize": "embeddings", "permute": "head"}, "head"),
        ({"keep_only": ["attention", "head"], "permute": {"attention": "1..3"}}, None),
        ({"keep_only": {"mlp": "0..3"}, "permute": "mlp"}, None),  # of four layers
        ({"keep_only": {"mlp": "0..2"}, "permute": "mlp"}, "mlp"),
        ({"keep_only": ["attention"], "permute": "embeddings"}, "embeddings"),
    ],
)
def test_what_is_drawn_anew_is_not_permuted(written: dict[str, Any], faulty: str | None) -> None:
    enter = Enter.model_validate(written)
    found = enter.drawn_and_permuted(4)
    assert [path for path, _, _ in found] == ([("permute", faulty)] if faulty else [])
    assert bool(enter.permuted(4) & enter.redrawn(4)) == (faulty is not None)
    for _, what, _ in found:
        assert f"'{faulty}' is permuted, and {next(iter(written))} has it drawn anew" in what
