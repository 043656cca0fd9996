"""Curation: which documents of a text source are used, and for what.

    files of earlier text sources -> digests and signatures, nothing else is kept of them
    documents, in order -> copies of those, or of earlier documents, dropped -> splits

Copies go before documents are split, so that no copy of a held-out document is trained on. `keep`
drops none; `drop` exact ones; `near` near ones, too. What an earlier source holds counts as it is
read, whatever that source itself drops, and whether or not a stage uses it. Memory is that of
`duplicates`: 24 to 72 bytes a document that stays, and 256 to 512 more with `near`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ncamix.documents import Document, batches, read_corpus, read_documents
from ncamix.duplicates import Digests, Signatures
from ncamix.errors import fail
from ncamix.planned_source import PlannedSource
from ncamix.sources import PairsSource, TextSource
from ncamix.splits import split_of


def split_documents(
    source: PlannedSource, report: dict[str, Any] | None = None
) -> Iterator[tuple[Document, str]]:
    """The documents (of a pairs source: the pairs) in order, each with its split.

    report: told what was left out so far, by `omissions`, and how many `exact_copies` and
    `near_copies` were dropped.

    Raises:
        UserError: a document cannot be read, or all are copies of other sources' documents.
    """
    spec, text = source.spec, source.text
    assert isinstance(spec, TextSource | PairsSource) and text is not None
    report = {} if report is None else report
    holdout = (spec.holdout.share, spec.holdout.by) if spec.holdout is not None else None
    copies = _Copies(spec.duplicates if isinstance(spec, TextSource) else "drop", report)
    for earlier in text.before:
        for batch in batches(read_documents(earlier.files, earlier.spec)):
            copies.without(batch)
    copies.forget_counts()
    num_read = num_left = 0
    for batch in batches(read_corpus(text.files, spec, report)):
        left = copies.without(batch)
        num_read, num_left = num_read + len(batch), num_left + len(left)
        for document in left:
            yield document, split_of(document, holdout)
    if num_read and not num_left:
        names = " and ".join(f"'{earlier.name}'" for earlier in text.before)
        raise fail(
            f"all {num_read:,} documents of '{source.name}' are copies of what {names} holds, "
            "declared before it",
            f"write `duplicates: keep` in '{source.name}', or remove the source",
        )


class _Copies:
    """Drops copies of what it has seen."""

    def __init__(self, which: str, report: dict[str, Any]) -> None:
        self.digests = Digests() if which != "keep" else None
        self.signatures = Signatures() if which == "near" else None
        self.report = report
        self.forget_counts()

    def forget_counts(self) -> None:
        self.report.update(exact_copies=0, near_copies=0)

    def without(self, batch: list[Document]) -> list[Document]:
        """A batch without the copies in it, which is seen from now on."""
        if self.digests is not None:
            known = self.digests.add([document.text for document in batch])
            batch = [document for document, copy in zip(batch, known, strict=True) if not copy]
            self.report["exact_copies"] += int(known.sum())
        if self.signatures is not None:
            near = self.signatures.add([document.text for document in batch])
            batch = [document for document, copy in zip(batch, near, strict=True) if not copy]
            self.report["near_copies"] += int(near.sum())
        return batch
