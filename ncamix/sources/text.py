"""Source kind `text`: documents from files or from the Hugging Face hub, split and hashed.

Documents come in one fixed order (files by path, hub rows as stored). Exact duplicates are dropped
unless kept, a share is held out by a hash of the document (or of its package), and what remains is
for training. Neither split depends on the curriculum's seed. Tokenizing and packing into samples
is the compiler's work; a text source is finite, and its order is drawn anew every epoch.
"""

from __future__ import annotations

import glob
import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import PlainValidator, WithJsonSchema, model_validator

from ncamix.errors import UserError, fail
from ncamix.quantities import Exact, refuse
from ncamix.sources.base import Meaning, SourceSpec, Spec
from ncamix.tokenization import hub_reason

STDLIB = "python-stdlib"  # the interpreter's own standard library, without its tests
_STDLIB_SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


class Holdout(Spec):
    """Which documents are kept from training, for evaluation."""

    later_values: ClassVar[tuple[str, ...]] = ("repository",)

    share: Exact
    by: Literal["document", "package"] = "document"

    @model_validator(mode="after")
    def _check(self) -> Holdout:
        if not 0 < self.share < 1:
            raise refuse("a share lies between 0 and 1", "write 0.02", ("share",))
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


def _files(written: Any) -> tuple[str, ...]:
    items = [written] if isinstance(written, str) else written
    if not isinstance(items, list) or not items or not all(isinstance(f, str) for f in items):
        raise refuse("not a list of files", f"write [{STDLIB}] or ['src/**/*.py']")
    return tuple(items)


class TextSource(SourceSpec):
    """YAML keys of `kind: text`: `files` or `hub`, and how documents are split."""

    version: ClassVar[int] = 1
    finite: ClassVar[bool] = True
    later: ClassVar[tuple[str, ...]] = (*SourceSpec.later, "attention")
    later_values: ClassVar[tuple[str, ...]] = ("near",)

    kind: Literal["text"]
    files: Annotated[
        tuple[str, ...] | None,
        PlainValidator(_files),
        WithJsonSchema({"type": "array", "items": {"type": "string"}}),
    ] = None
    hub: str | None = None
    config: str | None = None
    split: str = "train"
    column: str = "text"
    revision: str | None = None
    holdout: Holdout | None = None
    duplicates: Literal["keep", "drop"] = "drop"
    repeat: Annotated[int | None, PlainValidator(_repeat)] = 4

    @model_validator(mode="after")
    def _check(self) -> TextSource:
        if (self.files is None) == (self.hub is None):
            raise refuse(
                "a text source needs either `files` or `hub`",
                f"write `files: [{STDLIB}]` or `hub: owner/name`",
            )
        if self.hub is None:
            given = self.model_fields_set & {"config", "split", "column", "revision"}
            if given:
                raise refuse(
                    f"'{min(given)}' belongs to `hub`, not to `files`", "remove it", (min(given),)
                )
        return self

    def range_name(self) -> str:
        return "text"

    def meaning(self) -> Meaning:
        """Everything but the documents themselves, whose hash the plan adds."""
        holdout = [str(self.holdout.share), self.holdout.by] if self.holdout else None
        return {
            "kind": "text",
            "version": self.version,
            "holdout": holdout,
            "duplicates": self.duplicates,
        }

    def summary(self) -> str:
        return f"text, {self.hub}" if self.hub else "text, " + ", ".join(self.files or ())


@dataclass(frozen=True)
class Document:
    """One text: `name` is its path below its root (or its row), `package` its first folder."""

    name: str
    package: str
    text: str


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


def read_documents(
    files: list[CorpusFile] | None, hub: dict[str, str | None] | None
) -> Iterator[Document]:
    """All documents of a source in their fixed order; empty ones are left out.

    Bytes that are not UTF-8 become the replacement character.

    Raises:
        UserError: a file cannot be read, or the hub cannot be reached or has no such data set.
    """
    if files is not None:
        for file in files:
            try:
                text = file.path.read_bytes().decode("utf-8", errors="replace")
            except OSError as error:
                raise fail(f"cannot read {file.path}: {error.strerror}") from None
            if text.strip():
                yield Document(file.name, file.name.split("/")[0], text)
        return
    assert hub is not None
    column = str(hub["column"])
    try:
        for i, row in enumerate(_hub_rows(hub)):
            value = row.get(column)
            if not isinstance(value, str):
                raise fail(
                    f"the data set {hub['hub']} has no text column '{column}'",
                    f"its columns: {', '.join(row)}",
                )
            if value.strip():
                yield Document(str(i), str(row.get("repo_name") or i), value)
    except UserError:
        raise
    except Exception as error:  # the hub's client raises many kinds
        raise fail(
            f"the data set {hub['hub']} cannot be had from the Hugging Face hub "
            f"({hub_reason(error)})",
            "check its name, the network and HF_TOKEN; data sets cached earlier work with "
            "HF_HUB_OFFLINE=1",
        ) from None


def _hub_rows(hub: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    import datasets
    from huggingface_hub import HfApi, constants

    name = str(hub["hub"])
    if not constants.HF_HUB_OFFLINE and not Path(name).exists():
        # Asked once, so that a missing network or data set is told at once; the client retries.
        HfApi().dataset_info(name, revision=hub["revision"], timeout=10)
    datasets.disable_progress_bars()
    yield from datasets.load_dataset(
        hub["hub"], hub["config"], split=hub["split"], revision=hub["revision"], streaming=True
    )


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


def split_of(document: Document, holdout: tuple[Fraction, str] | None) -> str:
    """'train' or 'holdout': a document's split depends on its content or package alone."""
    if holdout is None:
        return "train"
    share, by = holdout
    group = document.package if by == "package" else document.text
    digest = hashlib.blake2b(group.encode(), digest_size=8, person=b"ncamix-holdout").digest()
    return "holdout" if int.from_bytes(digest, "big") < share * (1 << 64) else "train"
