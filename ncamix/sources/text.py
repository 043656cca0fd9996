"""Source kind `text`: documents from files or from the Hugging Face hub.

Reading, splitting, tokenizing and packing them into samples is the compiler's work; a text source
is finite, and its order is drawn anew every epoch.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ncamix.sources.base import Meaning
from ncamix.sources.corpus import CorpusSource


class TextSource(CorpusSource):
    """YAML keys of `kind: text`: `files` or `hub`, and how documents are split."""

    version: ClassVar[int] = 3
    column_keys: ClassVar[tuple[str, ...]] = ("column",)

    kind: Literal["text"] = Field(description="Documents from files or from the hub.")
    column: str = Field(
        "text", description="The column that holds the text: of JSON lines, Parquet, or the hub."
    )
    duplicates: Literal["keep", "drop", "near"] = Field(
        "drop",
        description="drop: exact copies come once, and not where an earlier text has them; near: "
        "near copies too; keep: all come.",
    )
    overlap: Literal["report", "refuse", "ignore"] = Field(
        "report",
        description="What becomes of runs of 13 words that training shares with evaluation sets.",
    )
    attention: Literal["whole", "document"] = Field(
        "whole", description="Whether a token attends to the whole sample or to its document."
    )

    def attends_within_documents(self) -> bool:
        return self.attention == "document"

    def document_meaning(self) -> Meaning:
        """As for every corpus; tokenizers are trained on these documents, too."""
        return {**super().document_meaning(), "duplicates": self.duplicates}

    def own_meaning(self) -> Meaning:
        attention = {} if self.attention == "whole" else {"attention": self.attention}
        return {**self.document_meaning(), **attention}
