"""Formats of corpus files, told by their suffixes.

corpus.jsonl.zst -> JSON lines, compressed by zstd
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

LARGEST_DOCUMENT = 1 << 28  # bytes; a document is held in memory as a whole
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
_SHORT = {".tgz": ".tar.gz", ".tzst": ".tar.zst", ".whl": ".zip", ".ndjson": ".jsonl"}


@dataclass(frozen=True)
class Format:
    """What a file holds: a text is one document, an archive holds members, others hold rows."""

    holds: Literal["text", "zip", "tar", "jsonl", "parquet"]
    compression: str | None = None  # of the file as a whole: gzip, zstd, bz2 or xz

    @property
    def has_rows(self) -> bool:
        return self.holds in ("jsonl", "parquet")

    @property
    def is_plain(self) -> bool:
        """Whether the file is at least as long as the text in it."""
        return self.compression is None and self.holds in ("text", "tar", "jsonl")


def format_of(name: str) -> Format:
    """The format of a file of this name; a suffix that says nothing means one text."""
    stem, suffix = os.path.splitext(name.lower())
    stem, suffix = os.path.splitext(stem + _SHORT.get(suffix, suffix))
    compression = _COMPRESSIONS.get(suffix)
    if compression is not None:
        suffix = os.path.splitext(stem)[1]
    match suffix:
        case ".tar" | ".jsonl":
            return Format("tar" if suffix == ".tar" else "jsonl", compression)
        case ".zip" | ".parquet" if compression is None:  # both need to be read in any order
            return Format("zip" if suffix == ".zip" else "parquet")
    return Format("text", compression)


def legible(name: str) -> str:
    """A name as proper text: what is not UTF-8 in it is spelled out."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode()
