"""Omissions: counted with the first name, and text that is none by each policy."""

from __future__ import annotations

import json

import pytest

from ncamix.errors import UserError
from ncamix.omissions import Omissions, decoded, worded


def test_each_reason_is_counted_with_its_first_name() -> None:
    omissions = Omissions()
    omissions.add("binary", "a")
    omissions.add("empty", "b")
    omissions.add("binary", "c")
    expected = {"binary": {"count": 2, "first": "a"}, "empty": {"count": 1, "first": "b"}}
    assert json.loads(json.dumps(omissions.report)) == expected
    known = {"exact_copies": 3}
    Omissions(known).add("empty", "d")
    assert known == {"exact_copies": 3, "empty": {"count": 1, "first": "d"}}
    assert Omissions().report == {}


def test_reasons_are_worded_for_readers() -> None:
    reasons = ("not_utf8", "replaced", "too_large", "exact_copies")
    words = ["not UTF-8", "with U+FFFD for what is not UTF-8", "too large", "exact copies"]
    assert [worded(reason) for reason in reasons] == words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"caf\xc3\xa9", "caf\u00e9"),
        (b"\xef\xbb\xbfmarked", "marked"),
        ("caf\u00e9", "caf\u00e9"),
        (b"", ""),
    ],
)
@pytest.mark.parametrize("policy", ["skip", "replace", "refuse"])
def test_utf8_is_read_whatever_the_policy(value: bytes | str, text: str, policy: str) -> None:
    omissions = Omissions()
    assert decoded(value, policy, "a", "a", omissions) == text
    assert omissions.report == {}


@pytest.mark.parametrize(
    ("value", "replaced"),
    [(b"caf\xe9 \xff", "caf\ufffd \ufffd"), ("half \ud800", "half \ufffd\ufffd\ufffd")],
)
def test_what_is_not_utf8_follows_the_policy(value: bytes | str, replaced: str) -> None:
    omissions = Omissions()
    assert decoded(value, "skip", "a", "x/a", omissions) is None
    assert decoded(value, "skip", "b", "x/b", omissions) is None
    assert decoded(value, "replace", "c", "x/c", omissions) == replaced
    assert omissions.report == {
        "not_utf8": {"count": 2, "first": "a"},
        "replaced": {"count": 1, "first": "c"},
    }
    with pytest.raises(UserError, match="x/d is not UTF-8\n.*not_utf8: skip"):
        decoded(value, "refuse", "d", "x/d", omissions)
