"""Errors for people: what a message shows, and what it offers."""

from __future__ import annotations

import pytest
from torch._utils import ExceptionWrapper

from ncamix.automata import UnreachableBand
from ncamix.errors import LINE_WIDTH, Problem, UserError, excerpt, fail, nearest


def test_a_problem_says_where_what_and_the_way_out() -> None:
    place = {"file": "c.yaml", "line": 3, "column": 5, "path": "stages.one"}
    shown = Problem("wrong", "mend it", **place, value="5", excerpt="a: 5\n^^^^")  # type: ignore[arg-type]
    assert str(shown) == "c.yaml:3:5: stages.one: wrong\n    a: 5\n    ^^^^\n    mend it"
    assert str(Problem("wrong", value="5")) == "wrong\n    value: 5"
    assert str(Problem("wrong", "mend it", file="c.yaml")) == "c.yaml: wrong\n    mend it"


def test_problems_that_crossed_processes_keep_their_lines() -> None:
    first = UserError([Problem("one", "way"), Problem("two", value="3")])
    assert str(UserError(str(first))) == str(first)


def test_messages_stay_short_and_harmless() -> None:
    shown = str(Problem("what " * 1000, "way", path="x" * 9999, value="\x1b[31m\n" + "y" * 9999))
    assert len(shown) < 1500
    assert "\x1b" not in shown
    assert "value: \\x1b[31m\\nyyy" in shown


@pytest.mark.parametrize(
    ("line", "column", "end", "shown"),
    [
        ("a: 5", 4, 5, "a: 5\n   ^"),
        ("    a: 5  ", 5, 9, "a: 5\n^^^^"),
        ("a: 5", 4, 4, "a: 5\n   ^"),
        ("a: [", 5, 6, "a: [\n    ^"),
        ("\ta: 5", 1, 2, " a: 5\n^"),
        ("a: \x07", 4, 5, "a:\n   ^"),
        ("   ", 2, 3, ""),
    ],
)
def test_excerpts(line: str, column: int, end: int, shown: str) -> None:
    assert excerpt(line, column, end) == shown


@pytest.mark.parametrize("column", [1, 60, 300, 599])
def test_excerpts_of_long_lines_are_cut_around_the_mark(column: int) -> None:
    line = "".join(chr(ord("a") + i % 26) for i in range(600))
    shown, marks = excerpt(line, column, column + 2).split("\n")
    assert len(shown) == LINE_WIDTH
    assert shown[marks.index("^") : marks.index("^") + 2] == line[column - 1 : column + 1]
    assert marks.count("^") == 2
    assert len(excerpt(line, column, 601).split("\n")[1]) <= LINE_WIDTH


def test_the_nearest_name_is_offered() -> None:
    assert nearest("simpel", ["rich", "simple"]) == "did you mean 'simple'? known: rich, simple"
    assert nearest("LR", ["lr", "clip"], "keys").startswith("did you mean 'lr'?")
    assert nearest("batch-size", ["batch_size"]).startswith("did you mean 'batch_size'?")
    assert nearest("zzz", ["rich", "simple"], "sources") == "sources: rich, simple"
    assert nearest("a", []) == "known: none"


def test_long_lists_of_names_are_cut() -> None:
    shown = nearest("name_57", [f"name_{i}" for i in range(100)])
    assert shown.startswith("did you mean 'name_57'? known: name_0, name_1,")
    assert shown.endswith("name_23 and 76 more")


def test_an_error_of_a_worker_process_is_its_message_alone() -> None:
    for error in (fail("what is wrong", "the way out"), UnreachableBand("no rule")):
        try:
            raise error
        except UserError:
            crossing = ExceptionWrapper(where="in DataLoader worker process 0")
        with pytest.raises(type(error)) as caught:
            crossing.reraise()
        assert str(caught.value) == str(error)
