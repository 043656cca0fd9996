"""YAML text -> a tree that remembers where everything stood.

YAML 1.2 scalars: `1e-4` is a number, `on` and `12:30` are text. Numbers stay exact (int or
Decimal, never a binary float). Duplicate keys, merge keys and tags are refused, aliases bounded.
A `Document` finds values by their path, so that every later check can name the file, the line and
the YAML path of what it objects to.
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
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import Event
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from ncamix.errors import Problem, UserError, fail, nearest
from ncamix.tree import Origin, Place, Tree, lines_of

LANGUAGE_VERSION = 1
MAX_NODES = 10_000  # a curriculum is written by hand; more is an alias bomb
MAX_DEPTH = 50
MAX_BYTES = 200_000
MAX_DIGITS = 40

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
# By what the YAML library says; the first that fits.
_WAYS_OUT = {
    r"'\t'": "indent with spaces, not tabs",
    "mapping values": "quote text that holds `: `, or indent the line like its neighbours",
    "undefined alias": "quote text that begins with `*`",
    "single document": "a file holds one document: remove the others",
    "cannot start any token": "quote text that begins so",
    "": "mend the syntax there, or just above",
}


@dataclass(frozen=True)
class Document:
    """What was read: its `file` as the user named it, its `text`, and its tree.

    A document composed of several files is named by the one that extends the others, and its text
    is the whole of it, written out. `settings` are those of the command line that went into it.
    `problems` are faults that leave the rest readable, such as duplicate keys;
    `validation.validate` raises them together with its own.
    """

    file: str
    text: str
    tree: Tree
    problems: tuple[Problem, ...] = ()
    settings: tuple[str, ...] = ()

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
        """A problem located at `path`, in the file that holds it."""
        tree, names = self.find(path)
        return tree.problem(what, remedy, ".".join(names))

    def folder_of(self, path: Sequence[str | int]) -> Path:
        """Where a relative path written at `path` starts: the folder of the file that holds it."""
        return self.find(path)[0].origin.folder


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
        text = path.read_bytes().decode("utf-8")
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
    tree, problems = parse_tree(text, Origin(file, text))
    return Document(file, text, tree, problems)


def parse_tree(text: str, origin: Origin) -> tuple[Tree, tuple[Problem, ...]]:
    """Parse `text`, which stands at the same lines and columns of `origin`.

    Returns the tree and the faults that leave it readable. Raises UserError like `read_document`.
    """
    try:
        with warnings.catch_warnings():  # YAML 1.2 allows an anchor to be set anew
            warnings.simplefilter("ignore")
            yaml = YAML(typ="safe", pure=True)
            yaml.Composer = _Composer
            node = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(str(part) for part in (error.context, error.problem) if part)
        begun = error.context_mark
        if begun and mark and begun.line != mark.line:
            what += f" (begun on line {begun.line + 1})"
        remedy = next((way for says, way in _WAYS_OUT.items() if says in what), _WAYS_OUT[""])
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        place = Place(line, column, column + 1)
        raise UserError(origin.problem(f"not valid YAML: {what}", remedy, place)) from None
    except ReaderError as error:
        before = lines_of(text[: error.position])
        what = f"not valid YAML: the character U+{ord(text[error.position]):04X} may not stand here"
        place = Place(len(before), len(before[-1]) + 1, len(before[-1]) + 2)
        raise UserError(origin.problem(what, "remove it", place)) from None
    except (YAMLError, ValueError) as error:
        what = f"not valid YAML: {error}"
        raise fail(what, "mend the syntax", file=origin.file) from None
    except _TooDeepError as error:
        raise UserError(_too_deep(origin, error.place)) from None
    if node is None:
        return Tree(None, "", origin, Place(1, 1, 2)), ()
    reader = _Reader(origin)
    return reader.build(node, []), tuple(reader.problems)


def _version_problem(document: Document) -> Problem | None:
    tree = document.tree
    want = f"make `ncamix: {LANGUAGE_VERSION}` the first key of the file"
    if tree.value is None:
        return document.problem([], "the file is empty", want)
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


def _too_deep(origin: Origin, place: Place) -> Problem:
    what = f"values are nested more than {MAX_DEPTH} deep"
    return origin.problem(what, "write them flatter", place)


class _TooDeepError(Exception):
    def __init__(self, place: Place) -> None:
        self.place = place


class _Composer(Composer):
    """Gives up where values are nested too deeply, before Python does."""

    nesting = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        if self.nesting > MAX_DEPTH:
            raise _TooDeepError(_place(self.parser.peek_event()))
        self.nesting += 1
        node: Node | None = super().compose_node(parent, index)
        self.nesting -= 1
        return node


def _place(node: Node | Event) -> Place:
    start, end = node.start_mark, node.end_mark
    column = start.column + 1
    return Place(start.line + 1, column, end.column + 1 if end.line == start.line else column + 1)


class _Reader:
    """Turns composed YAML nodes into Trees, collecting problems on the way."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.problems: list[Problem] = []
        self.num_nodes = 0

    def build(
        self, node: Node, path: list[str], above: tuple[int, ...] = (), key: Place | None = None
    ) -> Tree:
        place = _place(node)
        self.num_nodes += 1

        def problem(what: str, remedy: str) -> Problem:
            return self.origin.problem(what, remedy, place, ".".join(path))

        if id(node) in above:
            raise UserError(problem("an alias contains itself", "write the values out"))
        if self.num_nodes > MAX_NODES:
            what = f"more than {MAX_NODES:,} values, aliases expanded"
            raise UserError(problem(what, "write less, or use fewer aliases"))
        if len(above) > MAX_DEPTH:
            raise UserError(_too_deep(self.origin, place))
        above = (*above, id(node))
        if _TAG.match(self.origin.text, node.start_mark.index):
            what = "tags (`!`) are not part of this language"
            self.problems.append(problem(what, "remove the tag; quote what is text"))
        if isinstance(node, MappingNode):
            return Tree(self._mapping(node, path, above), "", self.origin, place, key)
        if isinstance(node, SequenceNode):
            items = [self.build(n, [*path, str(i)], above) for i, n in enumerate(node.value)]
            return Tree(items, "", self.origin, place, key)
        assert isinstance(node, ScalarNode)
        text = str(node.value)
        value = text if node.style is not None else plain_scalar(text)  # quoted or block: text
        return Tree(value, text, self.origin, place, key)

    def _mapping(
        self, node: MappingNode, path: list[str], above: tuple[int, ...]
    ) -> dict[str, Tree]:
        children: dict[str, Tree] = {}
        keys: dict[str, Place] = {}
        for key_node, value_node in node.value:
            place = _place(key_node)

            def refuse(what: str, remedy: str, place: Place = place) -> None:
                self.problems.append(self.origin.problem(what, remedy, place, ".".join(path)))

            if not isinstance(key_node, ScalarNode):
                refuse("a key must be plain text", "quote it or simplify it")
                continue
            key = str(key_node.value)
            if key == "<<" and key_node.style is None:
                refuse("merge keys (`<<`) are not part of YAML 1.2", "write the keys out")
                continue
            if key in children:
                refuse(
                    f"the key '{key}' stands twice (first on line {keys[key].line})",
                    "keep one of them",
                )
            keys.setdefault(key, place)
            children[key] = self.build(value_node, [*path, key], above, place)
        return children


def plain_scalar(text: str) -> str | int | Decimal | bool | None:
    """What a scalar without quotes means. Numbers too long or too large to be meant are text."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > MAX_DIGITS:
        return text
    if _INT.match(text):
        return int(text)
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
