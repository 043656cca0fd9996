"""YAML text -> a tree that remembers where everything stood.

YAML 1.2 scalars: `1e-4` is a number, `on` and `12:30` are text. Numbers stay exact (int or
Decimal, never a binary float). Duplicate keys, merge keys and tags are refused, aliases bounded.
A `Document` joins the plain values with their positions, so that every later check can name the
file, the line and the YAML path of what it objects to.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from ncamix.errors import Problem, UserError, fail, nearest

LANGUAGE_VERSION = 1
MAX_NODES = 10_000  # a curriculum is written by hand; more is an alias bomb
MAX_DEPTH = 50
MAX_BYTES = 200_000

_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_TAG = re.compile(r"(&\S+\s+)?!")
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
    """One YAML node: `value` is a dict of Trees by key text, a list of Trees, or a scalar.

    `key` is the line and column of the key that it stands under, if any.
    """

    value: Any
    text: str
    line: int
    column: int
    key: tuple[int, int] | None = None

    def plain(self) -> Any:
        """The value without positions: dicts, lists, str, int, Decimal, bool, None."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value


@dataclass(frozen=True)
class Document:
    """A YAML file as read: `file` as the user named it, its `text`, and its tree.

    `problems` are faults of the YAML itself that leave the rest readable, such as duplicate keys;
    `validation.validate` raises them together with its own.
    """

    file: str
    text: str
    tree: Tree
    problems: tuple[Problem, ...] = ()

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
        """A problem located at `path` in this file: at a scalar, or at the key of anything else."""
        tree, names = self.find(path)
        whole = isinstance(tree.value, dict | list)
        line, column = tree.key if whole and tree.key else (tree.line, tree.column)
        value = "" if whole else tree.text
        return Problem(what, remedy, self.file, line, column, ".".join(names), value)


def read_document(file: str | Path) -> Document:
    """Read and parse one YAML file.

    Raises:
        UserError: the file is missing, too large, not UTF-8, not YAML, or does not begin with
            `ncamix: 1`.
    """
    name = str(file)
    path = Path(file)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise fail(
                f"the file is larger than {MAX_BYTES:,} bytes",
                "name a curriculum or a trainer; text belongs into the files of a text source",
                file=name,
            )
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise fail("no such file", "check the path", file=name) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        what = f"not UTF-8 text (byte 0x{error.object[error.start]:02x})"
        raise fail(what, "save the file as UTF-8", file=name, line=line, column=1) from None
    except OSError as error:
        raise fail(f"cannot be read ({error.strerror})", "check the path", file=name) from None
    return parse_document(text, name)


def parse_document(text: str, file: str) -> Document:
    """Parse YAML `text` that stood in `file`. Raises UserError like `read_document`."""
    document = parse_part(text, file)
    problem = _version_problem(document)
    if problem is not None:  # in another language, nothing else can be judged
        raise UserError(problem)
    return document


def parse_part(text: str, file: str) -> Document:
    """Parse a part of a document, which says no version. Raises UserError like `read_document`."""
    try:
        with warnings.catch_warnings():  # YAML 1.2 allows an anchor to be set anew
            warnings.simplefilter("ignore")
            node = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(str(part) for part in (error.context, error.problem) if part)
        begun = error.context_mark
        if begun and mark and begun.line != mark.line:
            what += f" (begun on line {begun.line + 1})"
        raise UserError(
            Problem(
                f"not valid YAML: {what}",
                "mend the syntax there, or just above",
                file,
                mark.line + 1 if mark else 0,
                mark.column + 1 if mark else 0,
            )
        ) from None
    except ReaderError as error:
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        what = f"not valid YAML: the character U+{ord(text[error.position]):04X} may not stand here"
        raise fail(what, "remove it", file=file, line=line, column=column) from None
    except (YAMLError, ValueError) as error:
        raise fail(f"not valid YAML: {error}", "mend the syntax", file=file) from None
    except RecursionError:
        raise fail("values are nested too deeply", "write them flatter", file=file) from None
    if node is None:
        raise fail("the file is empty", f"begin it with `ncamix: {LANGUAGE_VERSION}`", file=file)
    reader = _Reader(file, text)
    tree = reader.build(node, [])
    return Document(file, text, tree, tuple(reader.problems))


def _version_problem(document: Document) -> Problem | None:
    tree = document.tree
    want = f"make `ncamix: {LANGUAGE_VERSION}` the first key of the file"
    if not isinstance(tree.value, dict):
        return document.problem([], "not a mapping of keys to values", want)
    if "ncamix" not in tree.value:
        return document.problem([], "the language version is missing", want)
    version = tree.value["ncamix"].value
    if isinstance(version, bool) or version != LANGUAGE_VERSION:
        what = "unknown language version"
        remedy = f"this ncamix reads version {LANGUAGE_VERSION}: write `ncamix: {LANGUAGE_VERSION}`"
        return document.problem(["ncamix"], what, remedy)
    if next(iter(tree.value)) != "ncamix":
        return document.problem(["ncamix"], "the language version is not the first key", want)
    return None


class _Reader:
    """Turns composed YAML nodes into Trees, collecting problems on the way."""

    def __init__(self, file: str, text: str) -> None:
        self.file, self.text = file, text
        self.problems: list[Problem] = []
        self.num_nodes = 0

    def build(
        self,
        node: Node,
        path: list[str],
        above: tuple[int, ...] = (),
        key: tuple[int, int] | None = None,
    ) -> Tree:
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        self.num_nodes += 1
        place = (self.file, line, column, ".".join(path))
        if id(node) in above:
            raise UserError(Problem("an alias contains itself", "write the values out", *place))
        if self.num_nodes > MAX_NODES:
            what = f"more than {MAX_NODES:,} values, aliases expanded"
            raise UserError(Problem(what, "write less, or use fewer aliases", *place))
        if len(above) > MAX_DEPTH:
            what = f"values are nested more than {MAX_DEPTH} deep"
            raise UserError(Problem(what, "write them flatter", *place))
        above = (*above, id(node))
        if _TAG.match(self.text, node.start_mark.index):
            what = "tags (`!`) are not part of this language"
            self.problems.append(Problem(what, "remove the tag; quote what is text", *place))
        if isinstance(node, MappingNode):
            return Tree(self._mapping(node, path, above), "", line, column, key)
        if isinstance(node, SequenceNode):
            items = [self.build(n, [*path, str(i)], above) for i, n in enumerate(node.value)]
            return Tree(items, "", line, column, key)
        assert isinstance(node, ScalarNode)
        return Tree(_scalar(node), str(node.value), line, column, key)

    def _mapping(
        self, node: MappingNode, path: list[str], above: tuple[int, ...]
    ) -> dict[str, Tree]:
        children: dict[str, Tree] = {}
        keys: dict[str, tuple[int, int]] = {}
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
                    f"the key '{key}' stands twice (first on line {keys[key][0]})",
                    "keep one of them",
                )
            keys.setdefault(key, (line, column))
            children[key] = self.build(value_node, [*path, key], above, (line, column))
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


def not_yet(what: str, remedy: str = "remove it; nothing is ignored silently") -> tuple[str, str]:
    """What to say, and the way out, for a part of the language that is still to come."""
    return (
        f"'{what}' belongs to the language, but this version of ncamix does not do it yet",
        remedy,
    )


def unknown_key(key: str, known: Sequence[str], later: Sequence[str] = ()) -> tuple[str, str]:
    """What to say, and the way out, for a key that is not read here."""
    if key in later:
        return not_yet(key)
    return f"unknown key '{key}'", nearest(key, known, "keys read here")
