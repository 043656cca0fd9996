"""Composition: a file, the files that it extends and settings laid over them become one document.

    file -> the file that it extends -> ... ; merged from the last one on; then settings, in order

Mappings merge key by key, `null` deletes a key. What is one value replaces another whole: lists,
schedules, and what can be said in one of several ways. Stages merge by name. Every value keeps the
file that it came from, for errors and for relative paths. A setting is a value for one place, and
replaces what stands there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ncamix.errors import Problem, UserError, nearest
from ncamix.library import SORTS, find, not_taken, sort_of
from ncamix.reading import Document, parse_tree, read_document
from ncamix.rendering import flow, quoted, render
from ncamix.tree import SETTING, Origin, Place, Tree

MAX_FILES = 20  # that extend each other
SCHEDULES = {"mixture", "lr"}
GROUPS = {"reinitialize", "keep_only", "permute", "freeze", "spare"}  # lists, or written otherwise
ONE_VALUE = SCHEDULES | GROUPS | {"until", "band", "tokenizer"}
_DOT = re.compile(r"(?<![0-9])\.|\.(?![0-9])")  # between steps, unlike that of 12.5%


@dataclass(frozen=True)
class Setting:
    """A value for one place of a document; None deletes what stands there.

    path: names from the root on, stages by theirs. places: where each of them is written.
    """

    path: tuple[str, ...]
    places: tuple[Place, ...]
    value: Tree

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}={flow(self.value)}"

    def refused(self, depth: int, what: str, remedy: str) -> UserError:
        """An error located at the step `depth` of the path."""
        path = ".".join(self.path[: depth + 1])
        return UserError(self.value.origin.problem(what, remedy, self.places[depth], path))


def compose(
    file: str | Path, settings: Sequence[str | Setting] = (), folder: str = "curricula"
) -> Document:
    """Read a file and all that it extends, and lay settings over it.

    settings: `PATH=VALUE` each, or read already. Those below `trainer.` are for trainers alone,
        all others for curricula.
    folder: "curricula" or "trainers": what the file is, and where shipped ones lie.

    Mistakes that leave the rest readable are among the document's problems.

    Raises:
        UserError: a file cannot be read, or extends what is not there, or itself.
    """
    chain = _chain(Path(file), folder)
    problems = [problem for document in chain for problem in document.problems]
    tree = _plain_stages(chain[-1], problems)
    for document in reversed(chain[:-1]):
        if "name" not in document.tree.value:
            what = "a file that extends another has a name of its own"
            remedy = f"add `name: {Path(document.file).stem}`: runs are filed under it"
            problems.append(document.problem(("extends",), what, remedy))
        tree = _merge(tree, document.tree, (), problems)
    laid: list[str] = []
    for written in settings:
        if str(written).lstrip().startswith("trainer.") != (folder == "trainers"):
            continue
        try:
            setting = parse_setting(written) if isinstance(written, str) else written
            laid.append(str(setting))
            if folder == "trainers":
                setting = replace(setting, path=setting.path[1:], places=setting.places[1:])
            tree = apply(tree, setting)
        except UserError as error:
            problems += error.problems
    text = chain[0].text
    if len(chain) > 1 or laid:
        text = _remark([document.file for document in chain], laid) + render(tree)
    return Document(chain[0].file, text, tree, tuple(problems), tuple(laid))


def sort_at(file: Path) -> str:
    """What a file is by its keys, as `sort_of` says; empty, too, if it cannot be read, which is
    said when it is read for what it is."""
    try:
        return sort_of(read_document(file).tree.value)
    except UserError:
        return ""


def _remark(files: list[str], settings: list[str]) -> str:
    lines = [f"composed of {', which extends '.join(files)}", *(f"{SETTING} {s}" for s in settings)]
    return "".join(f"# {line if line.isprintable() else quoted(line)}\n" for line in lines)


def _chain(file: Path, folder: str) -> list[Document]:
    """A file, the one that it extends, and so on."""
    chain, seen = [read_document(file)], [file.resolve()]
    try:
        while (extends := chain[-1].tree.value.get("extends")) is not None:
            path, files = "extends", [document.file for document in chain]
            if not isinstance(extends.value, str):
                what = "`extends` names the file that this one starts from"
                raise UserError(extends.problem(what, "write `extends: base.yaml`", path))
            try:
                base = find(folder, extends.value, extends.origin.folder).resolve()
            except UserError as error:
                missing = error.problems[0]
                raise UserError(extends.problem(missing.what, missing.remedy, path)) from None
            here = Path.cwd()
            shown = str(base.relative_to(here) if base.is_relative_to(here) else base)
            if base in seen:
                what = "the files go in a circle: " + " extends ".join([*files, shown])
                raise UserError(extends.problem(what, "let one of them stand alone", path))
            if len(chain) == MAX_FILES:
                what = f"more than {MAX_FILES} files extend each other"
                raise UserError(extends.problem(what, "write some of them as one", path))
            chain.append(read_document(shown))
            seen.append(base)
            sort, wanted = sort_of(chain[-1].tree.value), SORTS[folder]
            if sort not in ("", wanted):
                what, way_out = not_taken(extends.value, sort, wanted), f"extend a {wanted}"
                raise UserError(extends.problem(what, way_out, path))
    except UserError as error:
        before = [problem for document in chain for problem in document.problems]
        raise UserError([*before, *error.problems]) from None
    return chain


def _merge(base: Tree, over: Tree, path: tuple[str, ...], problems: list[Problem]) -> Tree:
    """`over` laid over `base`, both from `path`; nulls of no use become problems."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    if len(path) == 2 and path[0] in ("sources", "stages"):  # the last step is somebody's choice
        kinds = [tree.value["kind"].value for tree in (base, over) if "kind" in tree.value]
        if path[0] == "sources" and len(kinds) == 2 and kinds[0] != kinds[1]:
            return over
    elif path == ("model",) and "kind" in over.value:
        kind = base.value.get("kind")
        if over.value["kind"].value != ("llama" if kind is None else kind.value):
            return over
    elif path and path[-1] in ONE_VALUE:
        return over
    children = dict(base.value)
    for key, child in over.value.items():
        below = (*path, key)
        if below == ("extends",) or _deletes(children, key, child, below, problems):
            continue
        if key in SCHEDULES and path != ("sources",) and "cycle" not in over.value:
            children.pop("cycle", None)  # it belongs to the schedule beside it
        if below == ("stages",):
            children[key] = _merge_stages(children.get(key), child, problems)
        else:
            known = children.get(key)
            children[key] = child if known is None else _merge(known, child, below, problems)
    return replace(over, value=children)


def _deletes(
    known: dict[str, Tree], name: str, child: Tree, path: tuple[str, ...], problems: list[Problem]
) -> bool:
    """Whether `child` is a null, which takes `name` out of the `known` ones."""
    if child.value is not None:
        return False
    where = ".".join(path)
    if not child.text:
        what = f"nothing is written for '{name}'"
        problems.append(child.problem(what, "write null to delete it, or leave the key out", where))
    elif name not in known:
        what = f"there is no '{name}' to delete"
        problems.append(child.problem(what, nearest(name, known, "what there is"), where))
    else:
        del known[name]
    return True


def _merge_stages(base: Tree | None, over: Tree, problems: list[Problem]) -> Tree:
    """Stages laid over others; new ones stand behind the stage that they follow in `over`."""
    if not isinstance(over.value, dict | list):
        return over
    written = _by_name(over, problems)
    stages = {} if base is None else _by_name(base, problems)
    order, names = list(stages), list(written)
    for i, name in enumerate(names):
        if name not in order and written[name].value is not None:
            behind = next((order.index(n) + 1 for n in reversed(names[:i]) if n in order), None)
            before = next((order.index(n) for n in names[i:] if n in order), len(order))
            order.insert(before if behind is None else behind, name)
    for name, child in written.items():
        path = ("stages", name)
        if not _deletes(stages, name, child, path, problems):
            known = stages.get(name)
            stages[name] = child if known is None else _merge(known, child, path, problems)
    return replace(over, value=[stages[name] for name in order if name in stages])


def _by_name(tree: Tree, problems: list[Problem]) -> dict[str, Tree]:
    """Stages by name, however they are written; what cannot be one becomes a problem."""
    stages: dict[str, Tree] = {}
    if isinstance(tree.value, dict):
        for name, child in tree.value.items():
            if isinstance(child.value, dict):
                stages[name] = _named(name, child)
            elif child.value is None:
                stages[name] = child
            else:
                what, remedy = "a stage is a mapping of keys to values", "write {duration: 10%}"
                problems.append(child.problem(what, remedy, f"stages.{name}"))
        return stages
    for i, child in enumerate(tree.value if isinstance(tree.value, list) else []):
        name = stage_name(child)
        if name is None:
            what = "stages of files that extend each other merge by name, and this one has none"
            problems.append(child.problem(what, "add `name:`", f"stages.{i}"))
        elif name in stages:
            what = f"two stages are named '{name}'"
            problems.append(child.value["name"].problem(what, "rename one", f"stages.{name}.name"))
        else:
            stages[name] = child
    return stages


def _plain_stages(document: Document, problems: list[Problem]) -> Tree:
    """The tree of a document that extends no other, in which stages are a list."""
    tree = document.tree
    stages = tree.value.get("stages")
    if stages is None or not isinstance(stages.value, dict):
        return tree
    what = "stages are a list; only a file that extends another may write them by name"
    problems.append(document.problem(("stages",), what, "write `- name: automata` and so on"))
    return replace(tree, value={**tree.value, "stages": _merge_stages(None, stages, problems)})


def stage_name(stage: Tree) -> str | None:
    """What a stage of a list is named, if it is a mapping that says so."""
    name = stage.value.get("name") if isinstance(stage.value, dict) else None
    return name.text if name is not None and name.text else None


def _named(name: str, stage: Tree) -> Tree:
    """A stage written under its name, with that name among its keys, unless it has a new one."""
    key = stage.key or stage.place
    own = Tree(name, name, stage.origin, key, key)
    return replace(stage, value={"name": own, **stage.value})


def parse_setting(written: str) -> Setting:
    """Read `PATH=VALUE`, the value in YAML. Raises UserError when it cannot be read."""
    path, equals, value = written.partition("=")
    origin = Origin(SETTING, written)
    if not equals:
        what, remedy = "a setting is PATH=VALUE", "write stages.code.optimizer.lr.peak=3e-4"
        raise UserError(origin.problem(what, remedy, Place(1, 1, len(path) + 1)))
    tree, problems = parse_tree(" " * (len(path) + 1) + value, origin)
    if problems:
        raise UserError(problems)
    return _setting(path, Place(1, 1, len(path) + 1), tree)


def settings_of(tree: Tree) -> list[Setting]:
    """The settings of a mapping `{PATH: VALUE, ...}`. Raises UserError with every wrong one."""
    settings: list[Setting] = []
    problems: list[Problem] = []
    for path, value in tree.value.items():
        try:
            settings.append(_setting(path, value.key or value.place, value))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return settings


def _setting(written: str, place: Place, value: Tree) -> Setting:
    ends = [*(dot.start() for dot in _DOT.finditer(written)), len(written)]
    starts = [0, *(end + 1 for end in ends[:-1])]
    spans = list(zip(starts, ends, strict=True))
    path = tuple(written[start:end].strip() for start, end in spans)
    places = tuple(Place(place.line, place.column + a, place.column + b) for a, b in spans)
    setting = Setting(path, places, replace(value, key=places[-1]))
    if not all(path):
        what = "not a path of names with dots between them"
        raise setting.refused(path.index(""), what, "write stages.code.optimizer.lr.peak")
    if path[0] in ("ncamix", "extends"):
        raise setting.refused(0, f"`{path[0]}` is said by the file itself", "write it there")
    if path == ("trainer",):
        remedy = "choose it with --trainer, or set one key: trainer.budget=2Mtok"
        raise setting.refused(0, "a trainer is no part of a curriculum", remedy)
    if value.value is None and not value.text:
        what, remedy = "no value is given", f"write {written}=null to delete what stands there"
        raise setting.refused(len(path) - 1, what, remedy)
    return setting


def apply(tree: Tree, setting: Setting) -> Tree:
    """A tree with a setting laid over it. Mappings on the way to it are made where they lack.

    Raises:
        UserError: a stage or a source on the path does not exist, a value other than a mapping
            stands on it, or there is nothing to delete.
    """
    return _laid(tree, setting, 0)


def _laid(tree: Tree, setting: Setting, depth: int) -> Tree:
    """`tree`, which stands at the first `depth` steps of the path, with the setting below it."""
    above, step, value = setting.path[:depth], setting.path[depth], setting.value
    last = depth + 1 == len(setting.path)
    if above == ("stages",) and isinstance(tree.value, list):
        known: dict[str, Tree] = {}
        for i, stage in enumerate(tree.value):
            name = stage_name(stage)
            known[str(i) if name is None or name in known else name] = stage
    elif isinstance(tree.value, dict):
        known = dict(tree.value)
    else:
        what = "a list" if isinstance(tree.value, list) else tree.text
        whole, inner = ".".join(above), f"{step}: {flow(value) if last else '...'}"
        raise setting.refused(
            depth,
            f"'{whole}' is {what}, and nothing stands below it",
            f"set it as a whole: {whole}={'[...]' if what == 'a list' else f'{{{inner}}}'}",
        )
    named = above in (("stages",), ("sources",))
    if step not in known and (value.value is None or (named and not last)):
        what = f"there is no {above[0][:-1]} '{step}'" if named else f"there is no '{step}' here"
        raise setting.refused(depth, what, nearest(step, known, "what there is"))
    if not last:
        below = known.get(step)
        if below is None or below.value is None:
            below = Tree({}, "", value.origin, setting.places[depth], setting.places[depth])
        known[step] = _laid(below, setting, depth + 1)
    elif value.value is None:
        del known[step]
    elif above == ("stages",):
        if not isinstance(value.value, dict):
            what, remedy = "a stage is a mapping of keys to values", f"set one key: {step}.duration"
            raise setting.refused(depth, what, remedy)
        known[step] = _named(step, value)
    else:
        if step in SCHEDULES and above != ("sources",):
            known.pop("cycle", None)  # it belongs to the schedule beside it
        known[step] = value
    return replace(tree, value=list(known.values()) if isinstance(tree.value, list) else known)
