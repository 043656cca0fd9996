"""Source kind `text`: documents from files or from the Hugging Face hub, split and hashed.

Documents come in one fixed order (files by path, hub rows as stored). Exact duplicates are dropped
unless kept, a share is held out by a hash of the document (or of its package), and what remains is
for training. Neither split depends on the curriculum's seed. Tokenizing and packing into samples
is the compiler's work; a text source is finite, and its order is drawn anew every epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from ncamix.errors import UserError, fail
from ncamix.sources.base import Meaning
from ncamix.sources.corpus import CorpusFile, CorpusSource
from ncamix.tokenization import hub_reason


class TextSource(CorpusSource):
    """YAML keys of `kind: text`: `files` or `hub`, and how documents are split."""

    version: ClassVar[int] = 1
    of_hub: ClassVar[tuple[str, ...]] = ("column", *CorpusSource.of_hub)

    kind: Literal["text"] = Field(description="Documents from files or from the hub.")
    column: str = Field("text", description="The column of the hub's data set that holds the text.")
    duplicates: Literal["keep", "drop", "near"] = Field(
        "drop", description="drop: exact copies come once; near: near copies too; keep: all come."
    )
    attention: Literal["whole", "document"] = Field(
        "whole", description="Whether a token attends to the whole sample or to its document."
    )

    def document_meaning(self) -> Meaning:
        """What chooses and splits the documents, whose hash the plan adds; of tokenizers too."""
        return {
            "kind": "text",
            "version": self.version,
            "holdout": self.held_out(),
            "duplicates": self.duplicates,
        }

    def own_meaning(self) -> Meaning:
        attention = {} if self.attention == "whole" else {"attention": self.attention}
        return {**self.document_meaning(), **attention}


@dataclass(frozen=True)
class Document:
    """One text: `name` is its path below its root (or its row), `package` its first folder."""

    name: str
    package: str
    text: str


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


def split_of(document: Document, holdout: tuple[Fraction, str] | None) -> str:
    """'train' or 'holdout': a document's split depends on its content or package alone."""
    if holdout is None:
        return "train"
    share, by = holdout
    group = document.package if by == "package" else document.text
    digest = hashlib.blake2b(group.encode(), digest_size=8, person=b"ncamix-holdout").digest()
    return "holdout" if int.from_bytes(digest, "big") < share * (1 << 64) else "train"
