"""A tree -> YAML text that reads back as the same values.

Numbers stand as they were written, text is quoted where it would be read as something else. Small
collections stand on one line.
"""

from __future__ import annotations

import re

from ncamix.reading import Tree, plain_scalar

WIDTH = 100
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./%+*~-]*\Z")  # nothing that YAML gives a meaning


def render(tree: Tree) -> str:
    """A mapping as YAML, its own keys a line each or more; ends with a line break."""
    return "".join(f"{line}\n" for line in _block(tree))


def quoted(text: str) -> str:
    """Text in double quotes, on one line, in characters that every reader of YAML takes."""
    return f'"{"".join(map(_character, text))}"'


def _character(c: str) -> str:
    if c in ('"', "\\"):
        return f"\\{c}"
    return c if c.isprintable() else f"\\U{ord(c):08x}"


def _scalar(tree: Tree) -> str:
    if tree.value is None:
        return "null"
    if not isinstance(tree.value, str):
        return tree.text
    plain = _PLAIN.match(tree.value) and isinstance(plain_scalar(tree.value), str)
    return tree.value if plain else quoted(tree.value)


def _key(text: str) -> str:
    return text if _PLAIN.match(text) else quoted(text)


def flow(tree: Tree) -> str:
    """Any value on one line."""
    if isinstance(tree.value, dict):
        return "{" + ", ".join(f"{_key(k)}: {flow(v)}" for k, v in tree.value.items()) + "}"
    if isinstance(tree.value, list):
        return "[" + ", ".join(map(flow, tree.value)) + "]"
    return _scalar(tree)


def _block(tree: Tree) -> list[str]:
    """The lines of a mapping or list, not indented."""
    lines: list[str] = []
    items = tree.value.items() if isinstance(tree.value, dict) else ((None, t) for t in tree.value)
    for key, child in items:
        head = "-" if key is None else f"{_key(key)}:"
        line = f"{head} {flow(child)}"
        if len(line) <= WIDTH or not isinstance(child.value, dict | list):
            lines.append(line)
            continue
        below = [f"  {line}" for line in _block(child)]
        lines += [f"- {below[0][2:]}", *below[1:]] if key is None else [head, *below]
    return lines
