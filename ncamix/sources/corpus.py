"""Sources that come to an end: where they lie, what is held out, how often they come.

    globs -> files, sorted by name -> hash of their names and contents
    rows of the Hugging Face hub, by data set, configuration, split and revision

A finite source is shuffled anew every epoch; how many epochs it may be seen is its `repeat`.
"""

from __future__ import annotations

import glob
import hashlib
import os
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator

from ncamix.errors import fail
from ncamix.quantities import Exact, Within, refuse, refuse_all
from ncamix.sources.base import LeafSource, Spec

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

    files: Files = Field(None, description="Paths and globs, relative to this file.")
    hub: str | None = Field(None, description="A data set on the Hugging Face hub: owner/name.")
    config: str | None = Field(None, description="The configuration of the hub's data set.")
    split: str = Field("train", description="The split of the hub's data set.")
    revision: str | None = Field(None, description="The hub's commit, branch or tag.")
    holdout: Holdout | None = Field(None, description="What is kept for evaluation.")

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

    def held_out(self) -> list[str] | None:
        """The holdout as plain JSON, for meanings: [share, by]."""
        return [str(self.holdout.share), self.holdout.by] if self.holdout else None

    def data_set(self) -> dict[str, str | None]:
        """Where the rows are, of a source on the hub."""
        return {"hub": self.hub, **{key: getattr(self, key) for key in self.of_hub}}

    def own_summary(self) -> str:
        return f"{self.kind}, " + (self.hub or ", ".join(self.files or ()))


@dataclass(frozen=True)
class CorpusFile:
    """A file of a corpus: where it lies, and its name below the corpus root."""

    path: Path
    name: str


def corpus_files(files: tuple[str, ...], folder: Path) -> list[CorpusFile]:
    """The files that `files` name, sorted by name, each once; globs are relative to `folder`.

    Raises:
        UserError: an entry matches no file.
    """
    found: dict[Path, str] = {}
    for entry in files:
        if entry == STDLIB:
            root = Path(sysconfig.get_paths()["stdlib"])
            matches = {p: p.relative_to(root).as_posix() for p in _stdlib_files(str(root))}
        else:
            pattern = os.path.expanduser(entry)
            if (folder / pattern).is_dir():
                raise fail(f"'{entry}' is a folder", f"write '{entry.rstrip('/')}/**/*.txt'")
            root = folder / _fixed_part(pattern)
            found_here = glob.iglob(pattern, root_dir=folder, recursive=True)
            matches = {
                p: p.relative_to(root).as_posix()
                for p in (folder / found for found in found_here)
                if p.is_file()
            }
            if not matches:
                raise fail(f"no file matches '{entry}' (looked in {folder})", "check the path")
        for path, name in matches.items():
            found.setdefault(path.resolve(), name)
    pairs = sorted((name, str(path)) for path, name in found.items())
    return [CorpusFile(Path(path), name) for name, path in pairs]


@lru_cache(maxsize=1)
def _stdlib_files(root: str) -> tuple[Path, ...]:
    found: list[Path] = []
    folders = [Path(root)]
    while folders:
        for path in folders.pop().iterdir():
            if path.is_dir():
                if path.name not in _STDLIB_SKIPPED and not path.name.startswith("config-"):
                    folders.append(path)
            elif path.suffix == ".py" and not path.name.startswith("_sysconfigdata"):
                found.append(path)
    return tuple(found)


def _fixed_part(pattern: str) -> Path:
    """The folder above the first wildcard of a glob pattern."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:fixed])


def corpus_hash(files: list[CorpusFile]) -> str:
    """Hash of the names and contents of a corpus, 32 hexadecimal digits.

    Raises:
        UserError: a file cannot be read.
    """
    total = hashlib.blake2b(digest_size=16)
    for file in files:
        try:
            content = hashlib.blake2b(file.path.read_bytes(), digest_size=16).digest()
        except OSError as error:
            raise fail(f"cannot read {file.path}: {error.strerror}") from None
        total.update(file.name.encode() + b"\0" + content)
    return total.hexdigest()
