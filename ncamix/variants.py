"""Variants: a study's file becomes a base, a trainer and checked curricula, or every mistake in it.

    variants x points of the grid -> settings of each -> base with these settings, checked

Every variant is read, with every value that is tuned, so that its mistakes come to light before
anything runs. They are located where they were written: most of them in the study.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ncamix.composition import Setting, parse_setting, settings_of, sort_at
from ncamix.curriculum import Curriculum
from ncamix.errors import Problem, UserError, fail, nearest
from ncamix.library import SORTS, find, not_taken
from ncamix.loading import LoadedCurriculum, load_curriculum
from ncamix.paths import anchored
from ncamix.reading import Document, Tree, read_document
from ncamix.schedule import is_name
from ncamix.study import Match, Study
from ncamix.trainer import LoadedTrainer, load_trainer
from ncamix.validation import examine, in_order

MAX_VARIANTS = 1000
OF_THE_STUDY = {  # keys of a curriculum that no variant may change, and why
    "name": "variants are named by the study",
    "seed": "the study's `seeds` are those of every variant",
}
_NAMING = re.compile(r"[A-Za-z0-9_.%+-]+\Z")  # a value that can stand in a variant's name

Item = TypeVar("Item")


@dataclass(frozen=True)
class Variant:
    """One curriculum to compare: the base with `settings`.

    `written` is its name in the study's `variants`, empty for a point of the grid alone. `point`
    are those of its settings that the grid brings: it is matched to the base with these.
    """

    name: str
    written: str = ""
    settings: tuple[Setting, ...] = ()
    point: tuple[Setting, ...] = ()
    match: Match | None = None


@dataclass(frozen=True)
class LoadedStudy:
    """A study, the document it was read from, the files of its base and its trainer.

    settings: laid over both before those of any variant.
    """

    study: Study
    document: Document
    base: Path
    trainer: Path
    settings: tuple[Setting, ...] = ()
    under: str | None = None  # the trainer, where it is named in place of the study's own

    @property
    def names(self) -> tuple[str, str]:
        """Base and trainer as a command names them that is run in the study's folder."""
        if self.under is None:
            return self.study.base, self.study.trainer
        file = Path(self.under)
        return self.study.base, str(file.absolute()) if file.is_file() else self.under

    def tuning_points(self) -> dict[str, tuple[Setting, ...]]:
        """The points of the tuning by name, such as `peak=0.5x`: their settings."""
        if self.study.tune is None:
            return {}
        return _points(_without(self.document.tree.value["tune"], "seeds", "on"))

    def load(self, settings: Iterable[Setting] = ()) -> tuple[LoadedCurriculum, LoadedTrainer]:
        """The base and the trainer with settings laid over them. Raises UserError."""
        laid = (*self.settings, *settings)
        problems: list[Problem] = []
        loaded: list[Any] = []
        for read, file in ((load_curriculum, self.base), (load_trainer, self.trainer)):
            try:
                loaded.append(read(file, laid))
            except UserError as error:
                problems += error.problems
        if problems:
            raise UserError(in_order(problems))
        return loaded[0], loaded[1]


def load_study(
    file: str | Path, trainer: str | None = None, settings: Sequence[str] = ()
) -> LoadedStudy:
    """Read and check a study and all that it names.

    trainer: a name, instead of the study's own. settings: of every variant, as `--set` takes them,
    relative paths from where the user is; runs start in the study's folder, and get absolute ones.
    Raises UserError with every problem found.
    """
    document = read_document(file)
    study, problems = examine(Study, document)
    part = study or _readable_part(document)
    laid: list[Setting] = []
    for written in settings:
        try:
            laid.append(anchored(parse_setting(written), Path.cwd()))
        except UserError as error:
            problems += error.problems
    problems += _cross_check(part, document)
    files: list[Path] = []
    for key, folder in (("base", "curricula"), ("trainer", "trainers")):
        chosen = trainer if key == "trainer" else None
        try:
            if chosen is not None:
                files.append(_find(folder, chosen))
            elif getattr(part, key) is not None:
                files.append(_find(folder, getattr(part, key), document.folder_of((key,))))
        except UserError as error:
            missing = error.problems[0]
            if chosen is None:
                missing = document.problem((key,), missing.what, missing.remedy)
            problems.append(missing)
    if problems or len(files) < 2:
        raise UserError(in_order(problems))
    loaded = LoadedStudy(part, document, files[0], files[1], tuple(laid), trainer)
    problems = _faults(loaded)
    if problems:
        raise UserError(in_order(problems))
    return loaded


def _find(folder: str, name: str, beside: Path | None = None) -> Path:
    """The file that a study means. Raises UserError if there is none, or it is of another sort."""
    file, wanted = find(folder, name, beside), SORTS[folder]
    sort = sort_at(file)
    if sort not in ("", wanted):
        raise fail(not_taken(name, sort, wanted), f"name a {wanted}: ncamix help studies")
    return file


def variants_of(loaded: LoadedStudy) -> dict[str, Variant]:
    """The variants of a study by name: those that it writes, at every point of its grid.

    The grid's settings come first, so that a variant may delete what they change.
    """
    study, tree = loaded.study, loaded.document.tree
    points = _points(tree.value["grid"]) if study.grid else {"": ()}
    if not study.variants:
        return {name: Variant(name, "", point, point) for name, point in points.items()}
    variants: dict[str, Variant] = {}
    for written, changes in study.variants.items():
        own = settings_of(_without(tree.value["variants"].value[written], "match"))
        for at, point in points.items():
            name = f"{written},{at}" if at else written
            variants[name] = Variant(name, written, (*point, *own), point, changes.match)
    return variants


def _points(grid: Tree) -> dict[str, tuple[Setting, ...]]:
    """Every combination of a grid's values: its name, such as `alphabet=2,duration=10%`, and its
    settings. Values that make no name are numbered."""
    labels = _labels(list(grid.value))
    columns = [
        [(f"{labels[path]}={name}", path, item) for name, item in _named(values)]
        for path, values in grid.value.items()
    ]
    points = {}
    for point in product(*columns):
        chosen = {path: replace(item, key=grid.value[path].key) for _, path, item in point}
        name = ",".join(shown for shown, _, _ in point)
        points[name] = tuple(settings_of(replace(grid, value=chosen)))
    return points


def _labels(paths: list[str]) -> dict[str, str]:
    """The last steps of each path, as many as tell it from the others."""
    labels = {}
    for path in paths:
        steps = path.split(".")
        ends = (steps[-n:] for n in range(1, len(steps) + 1))
        own = (end for end in ends if sum(p.split(".")[-len(end) :] == end for p in paths) == 1)
        labels[path] = ".".join(next(own, steps))
    return labels


def _named(values: Tree) -> list[tuple[str, Tree]]:
    names = [item.text for item in values.value]
    if len(set(names)) < len(names) or not all(map(_NAMING.match, names)):
        names = [str(i) for i in range(1, len(names) + 1)]
    return list(zip(names, values.value, strict=True))


def _without(mapping: Tree, *keys: str) -> Tree:
    return replace(mapping, value={k: v for k, v in mapping.value.items() if k not in keys})


def _readable_part(document: Document) -> Study:
    """What can be read of a faulty study, so that the rest is checked all the same."""
    written, values = document.tree.plain(), {}
    for name, field in Study.model_fields.items():
        values[name] = field.get_default() if not field.is_required() else None
        try:
            adapter = TypeAdapter(field.rebuild_annotation())
            values[name] = adapter.validate_python(written[name])
        except (KeyError, ValidationError):
            continue
    return Study.model_construct(**values)


def _cross_check(study: Study, document: Document) -> list[Problem]:
    """What no key can know by itself: paths that are none, names and seeds that refer to others."""
    problems: list[Problem] = []

    def bad(path: tuple[str | int, ...], what: str, remedy: str) -> None:
        problems.append(document.problem(path, what, remedy))

    mappings: list[tuple[str | int, ...]] = [("variants", name) for name in study.variants]
    mappings += [("grid",)] if study.grid else []
    mappings += [("tune",)] if study.tune else []
    for where in mappings:
        tree = _without(document.find(where)[0], "match", "seeds", "on")
        try:
            settings = settings_of(tree)
        except UserError as error:
            problems += error.problems
            continue
        for setting, path in zip(settings, tree.value, strict=True):
            if setting.path[0] in OF_THE_STUDY:
                what = f"a variant does not set the {setting.path[0]}"
                bad((*where, path), what, f"remove it: {OF_THE_STUDY[setting.path[0]]}")
    for name in study.variants:
        if not is_name(name):
            bad(("variants", name), f"'{name}' cannot name a variant", "use letters, digits, _, -")
    if study.tune and study.seeds:
        for i, seed in enumerate(study.tune.seeds):
            if seed in study.seeds:
                what = f"the seed {seed} is tuned with and compared with"
                bad(("tune", "seeds", i), what, "tune with seeds that are not among `seeds`")
    written = document.tree.value
    if study.tune and ("compare" not in written or written["compare"].value is None):
        what = "nothing says by which figure it is tuned"
        bad(("tune",), what, "add `compare:`, whose metric judges points, too")
    if not any(key in written and written[key].value for key in ("variants", "grid")):
        bad(("variants",), "nothing is compared", "add `variants:` or `grid:`")
    num_variants = max(1, len(study.variants)) * prod(map(len, study.grid.values()))
    if num_variants > MAX_VARIANTS:
        bad(("grid",), f"{num_variants:,} variants", f"{MAX_VARIANTS:,} are the most; vary less")
    if study.controls and study.controls.beside is not None and not problems:
        names = list(study.variants or _points(written["grid"]))
        if study.controls.beside not in names:
            remedy = nearest(study.controls.beside, names, "variants")
            bad(("controls", "beside"), f"unknown variant '{study.controls.beside}'", remedy)
    return problems


def applicable(settings: Iterable[Setting], curriculum: Curriculum) -> tuple[Setting, ...]:
    """Settings without those about a stage or a source that a curriculum lacks."""
    known = {
        "stages": {stage.name for stage in curriculum.stages},
        "sources": set(curriculum.sources),
    }
    return tuple(
        setting
        for setting in settings
        if len(setting.path) == 1 or setting.path[1] in known.get(setting.path[0], setting.path)
    )


def _faults(loaded: LoadedStudy) -> list[Problem]:
    """What is wrong with the base and the trainer, or else with what variants make of them."""
    try:
        loaded.load()
    except UserError as error:
        return error.problems
    found: dict[str, list[Problem]] = {}
    compare = loaded.study.compare
    tuned = loaded.tuning_points()
    for i, variant in enumerate(variants_of(loaded).values()):
        problems = found[variant.name] = []
        try:
            curriculum, _ = loaded.load(variant.settings)
            for point in list(tuned.values())[: None if i == 0 else 1]:
                at = point if i == 0 else applicable(point, curriculum.curriculum)
                loaded.load((*variant.settings, *at))
        except UserError as error:
            problems += error.problems
            continue
        if compare and {variant.name, variant.written} & set(compare.primary):
            problems += _not_measured(curriculum, loaded)
    return named(found)


def named(problems: Mapping[str, Sequence[Problem]]) -> list[Problem]:
    """The problems of arms, each once, saying which arms have it."""
    return [replace(p, what=f"{where}: {p.what}") for where, p in shared(problems)]


def shared(items: Mapping[str, Sequence[Item]]) -> list[tuple[str, Item]]:
    """What arms have, each once, behind words for those that have it."""
    owners: dict[Item, list[str]] = {}
    for name, own in items.items():
        for item in dict.fromkeys(own):
            owners.setdefault(item, []).append(name)
    return [(_in_arms(names, len(items)), item) for item, names in owners.items()]


def _in_arms(names: list[str], of: int) -> str:
    if len(names) == 1:
        return f"in the arm '{names[0]}'"
    return "in every arm" if len(names) == of else f"in {len(names)} arms, as '{names[0]}'"


def _not_measured(curriculum: LoadedCurriculum, loaded: LoadedStudy) -> list[Problem]:
    """The problem of a metric that a variant's evaluations do not give, if so."""
    compare, c = loaded.study.compare, curriculum.curriculum
    assert compare is not None
    source = compare.metric.source
    where = ("compare", "metric")
    if source not in c.evaluate.sources:
        remedy = nearest(source, c.evaluate.sources, "evaluated")
        return [loaded.document.problem(where, f"'{source}' is not evaluated", remedy)]
    if compare.metric.name == "bits_per_byte" and c.sources[source].range_name() != "text":
        what = f"'{source}' is no text, so it has no bits per byte"
        return [loaded.document.problem(where, what, f"write loss/{source}")]
    return []
