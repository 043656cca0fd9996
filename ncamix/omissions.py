"""Omissions: what is left out of a corpus, counted, so that nothing vanishes unsaid.

bytes -> text, or a count and the name of the first that was none
"""

from __future__ import annotations

from typing import Any, Literal

from ncamix.errors import fail

Reason = Literal["not_utf8", "replaced", "binary", "empty", "too_large", "not_a_file", "unreadable"]
_WORDS = {"not_utf8": "not UTF-8", "replaced": "with U+FFFD for what is not UTF-8"}


class Omissions:
    """Counts what is left out, by reason, with the name of the first of each.

    `replaced` is not left out, but was not UTF-8 either; `not_a_file` is a link or a device in an
    archive; `unreadable` is a broken file of a corpus that is only measured. report: plain JSON,
    kept up to date, {reason: {"count": number, "first": name}}.
    """

    def __init__(self, report: dict[str, Any] | None = None) -> None:
        self.report: dict[str, Any] = {} if report is None else report

    def add(self, reason: Reason, name: str) -> None:
        """Count one more that is left out."""
        found = self.report.setdefault(reason, {"count": 0, "first": name})
        found["count"] += 1


def worded(reason: str) -> str:
    """A reason as a reader writes it, behind a number."""
    return _WORDS.get(reason, reason.replace("_", " "))


def decoded(
    value: bytes | str, policy: str, name: str, where: str, omissions: Omissions
) -> str | None:
    """Text of bytes, or of a string that may hold halves of characters; None if it is left out.

    policy: skip, replace or refuse what is not UTF-8. where: what an error calls it.

    Raises:
        UserError: it is not UTF-8, and the policy is to refuse.
    """
    try:
        if isinstance(value, bytes):
            return value.decode("utf-8-sig")
        value.encode()
        return value
    except UnicodeError:
        if policy == "refuse":
            raise fail(
                f"{where} is not UTF-8",
                "convert it, or write not_utf8: skip, or not_utf8: replace",
            ) from None
    if policy == "skip":
        omissions.add("not_utf8", name)
        return None
    omissions.add("replaced", name)
    data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
    return data.decode("utf-8-sig", "replace")
