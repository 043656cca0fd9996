"""YAML text -> a tree that remembers where everything stood.

YAML 1.2 scalars: `1e-4` is a number, `on` and `12:30` are text. Numbers stay exact (int or
Decimal, never a binary float). Duplicate keys and merge keys are refused, aliases are bounded.
A `Document` joins the plain values with their positions, so that every later check can name the
file, the line and the YAML path of what it objects to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ncamix.errors import Problem, UserError, fail, nearest

LANGUAGE_VERSION = 1
MAX_NODES = 20_000  # a curriculum is written by hand; more is an alias bomb
MAX_BYTES = 1_000_000

_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_WORDS = {
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
    "null": None,
    "Null": None,
    "NULL": None,
    "~": None,
    "": None,
}


@dataclass(frozen=True)
class Tree:
    """One YAML node: `value` is a dict of Trees by key text, a list of Trees, or a scalar."""

    value: Any
    text: str
    line: int
    column: int

    def plain(self) -> Any:
        """The value without positions: dicts, lists, str, int, Decimal, bool, None."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value


@dataclass(frozen=True)
class Document:
    """A YAML file as read: `file` as the user named it, its `text`, and its tree."""

    file: str
    text: str
    tree: Tree

    def find(self, path: Sequence[str | int]) -> tuple[Tree, list[str]]:
        """The deepest tree on `path` and the readable names of the steps to it.

        Steps that the file does not hold (a missing key, a tag of the validator) are skipped,
        except a last one, which names the missing key itself. List entries that have a `name` are
        named by it, as a reader of the file would.
        """
        tree, names = self.tree, []
        for i, step in enumerate(path):
            value = tree.value
            if isinstance(value, dict) and str(step) in value:
                tree = value[str(step)]
                names.append(str(step))
            elif isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value):
                tree = value[step]
                name = tree.value.get("name") if isinstance(tree.value, dict) else None
                names.append(name.text if name is not None else str(step))
            elif i == len(path) - 1 and isinstance(value, dict):
                names.append(str(step))
        return tree, names

    def problem(self, path: Sequence[str | int], what: str, remedy: str = "") -> Problem:
        """A problem located at `path` in this file."""
        tree, names = self.find(path)
        value = tree.text if not isinstance(tree.value, dict | list) else ""
        return Problem(what, remedy, self.file, tree.line, tree.column, ".".join(names), value)


def read_document(file: str | Path) -> Document:
    """Read and parse one YAML file.

    Raises:
        UserError: the file is missing, too large, not UTF-8, not YAML, has duplicate keys, or does
            not begin with `ncamix: 1`.
    """
    name = str(file)
    path = Path(file)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise fail(f"larger than {MAX_BYTES:,} bytes", "is this a curriculum?", file=name)
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise fail("no such file", "check the path", file=name) from None
    except (OSError, UnicodeDecodeError) as error:
        raise fail(f"cannot be read: {error}", file=name) from None
    return parse_document(text, name)


def parse_document(text: str, file: str) -> Document:
    """Parse YAML `text` that stood in `file`. Raises UserError like `read_document`."""
    try:
        node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise UserError(
            Problem(
                f"not valid YAML: {what}",
                "mend the syntax at this line",
                file,
                mark.line + 1 if mark else 0,
                mark.column + 1 if mark else 0,
            )
        ) from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise fail(f"not valid YAML: {error}", "mend the syntax", file=file) from None
    if node is None:
        raise fail("the file is empty", f"begin it with `ncamix: {LANGUAGE_VERSION}`", file=file)
    reader = _Reader(file)
    tree = reader.build(node, [])
    document = Document(file, text, tree)
    problems = reader.problems + _version_problems(document)
    if problems:
        raise UserError(problems)
    return document


def _version_problems(document: Document) -> list[Problem]:
    tree = document.tree
    want = f"`ncamix: {LANGUAGE_VERSION}` must be the first key"
    if not isinstance(tree.value, dict):
        return [document.problem([], "not a mapping of keys to values", want)]
    if "ncamix" not in tree.value:
        return [document.problem([], "the language version is missing", want)]
    version = tree.value["ncamix"].value
    if isinstance(version, bool) or version != LANGUAGE_VERSION:
        return [
            document.problem(
                ["ncamix"],
                "unknown language version",
                f"this ncamix reads version {LANGUAGE_VERSION}",
            )
        ]
    if next(iter(tree.value)) != "ncamix":
        return [document.problem(["ncamix"], "the language version is not the first key", want)]
    return []


class _Reader:
    """Turns composed YAML nodes into Trees, collecting problems on the way."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.num_nodes = 0

    def build(self, node: Node, path: list[str], above: tuple[int, ...] = ()) -> Tree:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        self.num_nodes += 1
        if self.num_nodes > MAX_NODES or id(node) in above:
            what = "an alias contains itself" if id(node) in above else "too many values"
            raise UserError(
                Problem(
                    f"{what} (aliases expanded, at most {MAX_NODES:,})",
                    "write the values out",
                    self.file,
                    line,
                    column,
                    ".".join(path),
                )
            )
        above = (*above, id(node))
        if isinstance(node, MappingNode):
            return Tree(self._mapping(node, path, above), "", line, column)
        if isinstance(node, SequenceNode):
            items = [self.build(n, [*path, str(i)], above) for i, n in enumerate(node.value)]
            return Tree(items, "", line, column)
        assert isinstance(node, ScalarNode)
        return Tree(_scalar(node), str(node.value), line, column)

    def _mapping(
        self, node: MappingNode, path: list[str], above: tuple[int, ...]
    ) -> dict[str, Tree]:
        children: dict[str, Tree] = {}
        for key_node, value_node in node.value:
            line, column = key_node.start_mark.line + 1, key_node.start_mark.column + 1

            def refuse(what: str, remedy: str, line: int = line, column: int = column) -> None:
                place = ".".join(path)
                self.problems.append(Problem(what, remedy, self.file, line, column, place))

            if not isinstance(key_node, ScalarNode):
                refuse("a key must be plain text", "quote it or simplify it")
                continue
            key = str(key_node.value)
            if key == "<<" and key_node.style is None:
                refuse("merge keys (`<<`) are not part of YAML 1.2", "write the keys out")
                continue
            if key in children:
                refuse(
                    f"the key '{key}' stands twice (first on line {children[key].line})",
                    "keep one of them",
                )
            children[key] = self.build(value_node, [*path, key], above)
        return children


def _scalar(node: ScalarNode) -> str | int | Decimal | bool | None:
    text = str(node.value)
    if node.style is not None:  # quoted or block: text
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INT.match(text):
        return int(text) if len(text) < 40 else text
    if _FLOAT.match(text):
        number = Decimal(text)
        return number if abs(number.adjusted()) < 100 else text
    return text


def unknown_key(key: str, known: Sequence[str], later: Sequence[str]) -> tuple[str, str]:
    """What to say, and the way out, for a key that is not read here."""
    if key in later:
        return (
            f"'{key}' belongs to the language, but this version of ncamix does not do it yet",
            "remove it; nothing is ignored silently",
        )
    return f"unknown key '{key}'", nearest(key, known, "keys read here")
