"""Documents of text sources: read from files or from the Hugging Face hub, in one fixed order.

files, sorted by name | rows of the hub, as stored -> documents
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncamix.errors import UserError, fail
from ncamix.sources.corpus import CorpusFile
from ncamix.tokenization import hub_reason


@dataclass(frozen=True)
class Document:
    """One text: `name` is its path below its root (or its row), `package` its first folder."""

    name: str
    package: str
    text: str


def package_of(name: str) -> str:
    """The package of a file by its name below its root: the first folder, or the file itself."""
    return name.split("/")[0]


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
                yield Document(file.name, package_of(file.name), text)
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
