"""Sources that come to an end: where they lie, what is held out, how often they come.

    globs -> files, sorted by name -> hash of their names and contents
    rows of the Hugging Face hub, by data set, configuration, split and revision

A file's name is its path below the corpus root, the folder above its glob's first wildcard.

A finite source is shuffled anew every epoch; how many epochs it may be seen is its `repeat`.
"""

from __future__ import annotations

import glob
import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from ncamix.errors import UserError, fail
from ncamix.formats import format_of, legible
from ncamix.globs import fixed_part, matching
from ncamix.hashing import FileHash, file_hashes
from ncamix.quantities import Exact, Within, refuse, refuse_all
from ncamix.sources.base import LeafSource, Meaning, Spec
from ncamix.waiting import Say, quiet

REPOSITORIES = ("repo_name", "repository", "repo", "repository_name")  # columns, the first counts
STDLIB = "python-stdlib"  # the interpreter's own standard library, without its tests
_STDLIB_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


class Holdout(Spec):
    """Which documents are kept from training, for evaluation."""

    share: Annotated[
        Exact, Within(0, 1, "a share lies between 0 and 1", "write 0.02", without=(0, 1))
    ] = Field(description="Share of the groups that are held out, between 0 and 1.")
    by: Literal["document", "package", "repository"] = Field(
        "document", description="What is held out or trained on as a whole."
    )
    column: str | None = Field(
        None, description="The column of rows that names their repository, with by: repository."
    )

    @model_validator(mode="after")
    def _check_column(self) -> Self:
        if self.column is not None and self.by != "repository":
            raise refuse("'column' names repositories", "write by: repository", ("column",))
        return self


def _repeat(written: Any) -> int | None:
    """Epochs allowed: refuse is 1, free is None."""
    if written == "refuse":
        return 1
    if written == "free":
        return None
    if isinstance(written, int) and not isinstance(written, bool) and written >= 1:
        return written
    raise refuse("not a number of epochs", "write refuse, free, or a whole number of epochs")


Repeat = Annotated[
    int | None,
    PlainValidator(_repeat),
    WithJsonSchema({"oneOf": [{"enum": ["refuse", "free"]}, {"type": "integer", "minimum": 1}]}),
]


def _files(written: Any) -> tuple[str, ...]:
    items = [written] if isinstance(written, str) else written
    if not isinstance(items, list) or not items or not all(isinstance(f, str) for f in items):
        raise refuse("not a list of files", f"write [{STDLIB}] or ['src/**/*.py']")
    return tuple(items)


Files = Annotated[
    tuple[str, ...] | None,
    PlainValidator(_files),
    WithJsonSchema(
        {
            "oneOf": [
                {"type": "string"},
                {"type": "array", "minItems": 1, "items": {"type": "string"}},
            ]
        }
    ),
]


Misfit = tuple[tuple[str, ...], str, str]  # path below the source, what, remedy


class FiniteSource(LeafSource):
    """The YAML keys of every source that comes to an end; its ids are text."""

    finite: ClassVar[bool] = True

    repeat: Repeat = Field(
        4, description="Epochs allowed: refuse (one), a whole number, or free (any number)."
    )

    def range_name(self) -> str:
        return "text"


class CorpusSource(FiniteSource):
    """The YAML keys of sources made of files or of rows on the hub, either of them."""

    of_hub: ClassVar[tuple[str, ...]] = ("config", "revision", "split")  # keys beside `hub` only
    column_keys: ClassVar[tuple[str, ...]] = ()  # those that name the columns of the text

    files: Files = Field(None, description="Paths and globs, relative to this file.")
    hub: str | None = Field(None, description="A data set on the Hugging Face hub: owner/name.")
    config: str | None = Field(None, description="The configuration of the hub's data set.")
    split: str = Field("train", description="The split of the hub's data set.")
    revision: str | None = Field(None, description="The hub's commit, branch or tag.")
    holdout: Holdout | None = Field(None, description="What is kept for evaluation.")
    not_utf8: Literal["skip", "replace", "refuse"] = Field(
        "skip",
        description="Text that is not UTF-8: skip: left out and counted; replace: what cannot be "
        "read becomes U+FFFD; refuse: an error.",
    )

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if (self.files is None) == (self.hub is None):
            raise refuse(
                f"a {self.kind} source needs either `files` or `hub`",
                f"write `files: [{STDLIB}]` or `hub: owner/name`",
            )
        given = [key for key in self.of_hub if key in self.model_fields_set]
        if self.hub is None and given:
            what = "'{}' belongs to `hub`, not to `files`"
            raise refuse_all([((key,), what.format(key), "remove it") for key in given])
        return self

    @property
    def by_repository(self) -> bool:
        return self.holdout is not None and self.holdout.by == "repository"

    def columns(self) -> tuple[str, ...]:
        """The columns that hold the text, where documents are rows."""
        return tuple(getattr(self, key) for key in self.column_keys)

    def named_columns(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """(path of the key, column) of all columns that rows must have."""
        yield from (((key,), getattr(self, key)) for key in self.column_keys)
        if self.holdout is not None and self.holdout.column is not None:
            yield ("holdout", "column"), self.holdout.column

    def held_out(self) -> list[str] | None:
        """The holdout as plain JSON, for meanings: [share, by], and the column if one is named."""
        if self.holdout is None:
            return None
        column = [] if self.holdout.column is None else [self.holdout.column]
        return [str(self.holdout.share), self.holdout.by, *column]

    def document_meaning(self) -> Meaning:
        """What chooses and splits the documents; the plan adds the hash of the files."""
        return {
            "kind": self.kind,
            "version": self.version,
            "columns": list(self.columns()),
            "holdout": self.held_out(),
            "not_utf8": self.not_utf8,
        }

    def misfits(self, files: Sequence[CorpusFile]) -> Iterator[Misfit]:
        """What is asked of these files and cannot be had."""
        formats = [format_of(file.name) for file in files]
        for path, part in ((), self), (("holdout",), self.holdout):
            written = part is not None and "column" in part.model_fields_set
            if written and not any(form.has_rows for form in formats):
                what = "none of the files has columns"
                remedy = "remove it, or name files that end in .jsonl or .parquet"
                yield (*path, "column"), what, remedy
        for file, form in zip(files, formats, strict=True):
            if self.by_repository and form.holds == "text" and file.repository is None:
                problem = no_repository(f"the file '{file.name}'").problems[0]
                yield ("holdout", "by"), problem.what, problem.remedy
                return

    def data_set(self) -> dict[str, str | None]:
        """Where the rows are, of a source on the hub."""
        return {"hub": self.hub, **{key: getattr(self, key) for key in self.of_hub}}

    def own_summary(self) -> str:
        return f"{self.kind}, " + (self.hub or ", ".join(self.files or ()))


@dataclass(frozen=True)
class CorpusFile:
    """A file of a corpus: where it lies, and its name below the corpus root; both are resolved.

    repository: the nearest folder above it that holds `.git`, below the corpus root; the root's
    own name if that is it. known: its content, once it is hashed; who reads it then reads that, or
    fails.
    """

    path: Path
    name: str
    repository: str | None = None
    known: FileHash | None = field(default=None, compare=False)


def corpus_files(files: tuple[str, ...], folder: Path) -> list[CorpusFile]:
    """The files that `files` name, sorted by name, each once; globs are relative to `folder`.

    Raises:
        UserError: an entry matches no file, or a folder cannot be read.
    """
    resolved = cache(os.path.realpath)  # of folders, which many files share
    found: dict[str, tuple[str, str | None]] = {}
    for entry in files:
        if entry == STDLIB:
            root = sysconfig.get_paths()["stdlib"]
            paths: tuple[str, ...] = _stdlib_files(root)
        else:
            pattern = os.path.expanduser(entry)
            if (folder / pattern).is_dir():
                raise fail(
                    f"'{entry}' is a folder", f"write '{glob.escape(entry).rstrip('/')}/**/*.txt'"
                )
            root = str(folder / fixed_part(pattern))
            paths = tuple(matching(pattern, folder))
            if not paths:
                raise _no_match(entry, folder)
        repository_of = _repositories(root)
        for path in paths:
            above, name = os.path.split(path)
            real = os.path.join(resolved(above), name)
            if os.path.islink(real):
                real = os.path.realpath(real)
            if real not in found:
                below = path[len(root) :].lstrip("/")
                found[real] = legible(below), repository_of(os.path.dirname(below))
    named = sorted((name, path, repository) for path, (name, repository) in found.items())
    return [CorpusFile(Path(path), name, repository) for name, path, repository in named]


def _no_match(entry: str, folder: Path) -> UserError:
    """The error of a glob that names no file."""
    what = f"no file matches '{entry}' (looked in {folder})"
    if "[" not in entry:
        return fail(what, "check the path")
    literal = entry.replace("[", "[[]")
    found = next(matching(os.path.expanduser(literal), folder), None) is not None
    return fail(
        what,
        f"in a pattern, [ab] is one character, a or b; a bracket of a name is written [[]: "
        f"{'write' if found else 'as in'} '{literal}'",
    )


def no_repository(where: str) -> UserError:
    """The error of a document that is to be held out by its repository and has none."""
    return fail(
        f"{where} belongs to no repository that it could be held out by",
        "a file's repository is the nearest folder with .git, below the glob's first wildcard or "
        f"where that stands; a row's is its column {', '.join(REPOSITORIES)}, or the one that "
        "`holdout: {by: repository, column: NAME}` names",
    )


def _repositories(root: str) -> Callable[[str], str | None]:
    """Finds the repository that a folder below `root` belongs to."""

    @cache
    def of(folder: str) -> str | None:
        if os.path.lexists(os.path.join(root, folder, ".git")):
            return legible(folder) or os.path.basename(os.path.realpath(root))
        return of(os.path.dirname(folder)) if folder else None

    return of


@lru_cache(maxsize=1)
def _stdlib_files(root: str) -> tuple[str, ...]:
    found: list[str] = []
    for folder, below, names in os.walk(root):
        below[:] = [n for n in below if n not in _STDLIB_SKIPPED and not n.startswith("config-")]
        for name in names:
            if name.endswith(".py") and not name.startswith("_sysconfigdata"):
                found.append(os.path.join(folder, name))
    return tuple(found)


def hashed(files: Sequence[CorpusFile], say: Say = quiet) -> tuple[CorpusFile, ...]:
    """Files with the hashes of their contents.

    Raises:
        UserError: a file cannot be read.
    """
    hashes = file_hashes([file.path for file in files], say)
    return tuple(replace(file, known=known) for file, known in zip(files, hashes, strict=True))


def corpus_hash(files: Sequence[CorpusFile]) -> str:
    """Hash of the names and contents of hashed files, 32 hexadecimal digits."""
    total = hashlib.blake2b(digest_size=16)
    for file in files:
        assert file.known is not None
        total.update(file.name.encode() + b"\0" + file.known.digest)
    return total.hexdigest()
