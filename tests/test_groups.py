"""Parameter groups as written, and the parts of a model that they mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_files import refusals_of

from ncamix.groups import (
    GROUPS,
    LAYERED,
    NAMES,
    UNIONS,
    FrozenGroup,
    Group,
    all_parts,
    covers_all,
    parse_frozen,
    parse_groups,
    parts,
)
from ncamix.quantities import parse_quantity


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("embeddings", [Group("embeddings")]),
        (["embeddings"], [Group("embeddings")]),
        (["head", {"attention": "0..11"}], [Group("head"), Group("attention", (0, 11))]),
        ({"attention": "0..11", "mlp": "all"}, [Group("attention", (0, 11)), Group("mlp")]),
        ([{"mlp": 3, "norms": "7..7"}], [Group("mlp", (3, 3)), Group("norms", (7, 7))]),
        ({"embeddings": "all"}, [Group("embeddings")]),
        ([{"mlp": "0..2"}, {"mlp": "3..5"}], [Group("mlp", (0, 2)), Group("mlp", (3, 5))]),
        ([], []),
    ],
)
def test_spellings(written: object, expected: list[Group]) -> None:
    assert parse_groups(written) == tuple(expected)
    assert parse_frozen(written) == tuple(FrozenGroup(g.name, g.layers) for g in expected)


def test_freezing_may_end() -> None:
    written = ["head", {"attention": {"layers": "all", "until": "20%"}, "mlp": {"layers": 3}}]
    until = parse_quantity("20%")
    frozen = FrozenGroup("attention", None, until)
    assert parse_frozen(written) == (FrozenGroup("head"), frozen, FrozenGroup("mlp", (3, 3)))
    assert parse_frozen({"embeddings": {"until": "5ba"}})[0].layers is None
    assert str(frozen) == "attention until 20%"
    assert str(FrozenGroup("mlp", (0, 3), until)) == "mlp 0..3 until 20%"
    assert [str(g) for g in parse_groups([{"mlp": 3}, "head"])] == ["mlp 3", "head"]


@pytest.mark.parametrize(
    ("written", "place", "what", "remedy"),
    [
        (5, "", "not a group", "write embeddings, [embeddings, {attention: 0..11}]"),
        (None, "", "not a group", "write embeddings"),
        ([["head"]], "0", "not a group", "write embeddings"),
        ("embedings", "", "unknown group 'embedings'", "did you mean 'embeddings'?"),
        (["head", "norm"], "1", "unknown group 'norm'", "did you mean 'norms'?"),
        ([{"atention": "all"}], "0.atention", "unknown group", "did you mean 'attention'?"),
        ({"head": "0..3"}, "head", "'head' has no layers", "attention, mlp, norms have layers"),
        ({"embeddings": 0}, "embeddings", "'embeddings' has no layers", "write embeddings alone"),
        ({"mlp": "11..0"}, "mlp", "the layers 11..0 are reversed", "write 0..11"),
        ({"mlp": "0-11"}, "mlp", "no layers", "write 0..11 (ends included), 3 or all"),
        ({"mlp": -1}, "mlp", "no layers", "0..11"),
        ({"mlp": True}, "mlp", "no layers", "0..11"),
        ({"mlp": None}, "mlp", "no layers", "0..11"),
        ({"mlp": [1, 2]}, "mlp", "no layers", "0..11"),
        ({"mlp": "0..²"}, "mlp", "no layers", "0..11"),
        (["mlp", "mlp"], "1", "'mlp' and 'mlp' overlap", "once"),
        (["embeddings", "head"], "1", "'head' and 'embeddings' overlap", "once"),
        ([{"mlp": "0..3"}, {"mlp": "3..5"}], "1.mlp", "'mlp 3..5' and 'mlp 0..3' overlap", "once"),
        ([{"mlp": "4..5"}, "mlp"], "1", "'mlp' and 'mlp 4..5' overlap", "once"),
    ],
)
def test_what_is_no_group(written: object, place: str, what: str, remedy: str) -> None:
    for read in (parse_groups, parse_frozen):
        ((found, said, way_out),) = refusals_of(read, written)
        assert found == place
        assert what in said
        assert remedy in way_out


@pytest.mark.parametrize(
    ("written", "place", "what"),
    [
        ({"layers": "0-3"}, "mlp.layers", "no layers"),
        ({"until": "20"}, "mlp.until", "'20' is not understood here"),
        ({"until": "1ep"}, "mlp.until", "'1ep' is not understood here"),
        ({"until": "0%"}, "mlp.until", "freezing ends within the stage"),
        ({"until": "100%"}, "mlp.until", "freezing ends within the stage"),
        ({"untill": "10%"}, "mlp.untill", "unknown key 'untill'"),
    ],
)
def test_what_cannot_be_frozen(written: object, place: str, what: str) -> None:
    ((found, said, remedy),) = refusals_of(parse_frozen, {"mlp": written})
    assert found == place
    assert what in said
    assert remedy
    assert "no layers" in refusals_of(parse_groups, {"mlp": written})[0][1]  # nothing else may end


def test_every_mistake_is_found() -> None:
    written = ["hed", {"mlp": "3..1", "attention": {"layers": "x", "until": "0%"}, "norms": "all"}]
    found = [place for place, _, _ in refusals_of(parse_frozen, written)]
    assert found == ["0", "1.mlp", "1.attention.layers", "1.attention.until"]


def test_groups_partition_a_model() -> None:
    whole = all_parts(3)
    assert len(whole) == 3 + 3 * len(LAYERED)
    assert parts([Group("embeddings")], 3) == {("embedding", None), ("head", None)}
    assert parts([Group("mlp", (1, 2))], 3) == {("mlp", 1), ("mlp", 2)}
    each = [parts([Group(name)], 3) for name in GROUPS]
    assert sum(map(len, each)) == len(whole)
    assert set().union(*each) == whole


@given(st.lists(st.sampled_from(NAMES), unique=True))
def test_groups_that_hold_everything(names: list[str]) -> None:
    members = {member for name in names for member in UNIONS.get(name, (name,))}
    groups = [Group(name) for name in names]
    assert covers_all(groups) == (members == set(GROUPS)) == (parts(groups, 2) == all_parts(2))
    assert not covers_all([Group(g, (0, 1)) if g in LAYERED else Group(g) for g in names])
