"""Sizes of corpora in bytes of text, before any tokenizer.

    files -> about so many bytes, and at most so many

Where a container tells how much it holds, that counts: zip and Parquet in their directories, most
gzip and zstd files in a few bytes. A compressed byte of the others counts as three.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from ncamix.errors import fail
from ncamix.formats import LARGEST_DOCUMENT, Format, format_of
from ncamix.quantities import format_bytes
from ncamix.sources.corpus import CorpusFile

NUM_OPENED = 64  # containers that are looked into; they speak for the others
EXPANSION = 3  # of compressed text, about
_MOST_EXPANSION = 1032  # of gzip
_WRAPS_AT = 1 << 32  # what a gzip file tells of its size is modulo this
_HEAD_BYTES = 32  # enough of a zstd frame to hold its header


def corpus_size(files: Sequence[CorpusFile], columns: Collection[str]) -> tuple[int, int | None]:
    """Bytes of text in a corpus, (about, at most); no bound is known of compressed ones.

    columns: of rows, those that hold the text.

    Raises:
        UserError: a file cannot be read, or is too large for one document.
    """
    about, closed, opened = 0, [], [0, 0]
    for file in files:
        try:
            size = file.path.stat().st_size
        except OSError as error:
            raise fail(f"cannot read {file.path}: {error.strerror}") from None
        form = format_of(file.name)
        if form == Format("text") and size > LARGEST_DOCUMENT:
            raise fail(
                f"{file.path} is one document of {format_bytes(size)}, and a document has at most "
                f"{format_bytes(LARGEST_DOCUMENT)}",
                "split it, or write it as JSON lines",
            )
        if form.is_plain:
            about += size
        else:
            closed.append(size)
            if len(closed) <= NUM_OPENED:
                opened[0] += size
                opened[1] += _text_bytes(file.path, form, columns, size)
    if opened[0]:
        about += sum(closed) * opened[1] // opened[0]
    return about, None if closed else about


def _text_bytes(path: Path, form: Format, columns: Collection[str], size: int) -> int:
    """Bytes of text, about, in a file of `size` bytes that is compressed, a zip or Parquet."""
    from ncamix.containers import readable  # late: a plan seldom needs it

    with readable(path):
        if form.holds == "zip":
            import zipfile

            with zipfile.ZipFile(path) as archive:
                return sum(min(info.file_size, LARGEST_DOCUMENT) for info in archive.infolist())
        if form.holds == "parquet":
            return _column_bytes(path, columns)
        told = _told(path, form.compression or "")
        return told if told >= size else EXPANSION * size


def _column_bytes(path: Path, columns: Collection[str]) -> int:
    from pyarrow import parquet

    total = 0
    with path.open("rb") as file:
        metadata = parquet.ParquetFile(file).metadata
        for group in range(metadata.num_row_groups):
            chunks = (metadata.row_group(group).column(i) for i in range(metadata.num_columns))
            total += sum(c.total_uncompressed_size for c in chunks if c.path_in_schema in columns)
    return total


def _told(path: Path, compression: str) -> int:
    """The uncompressed size that a compressed file tells of; 0 where it tells none."""
    with path.open("rb") as file:
        if compression == "gzip":
            size = file.seek(0, os.SEEK_END)
            if not 18 <= size < _WRAPS_AT // 4:  # too short to be one, or too long to tell
                return 0
            file.seek(-4, os.SEEK_END)
            told = int.from_bytes(file.read(4), "little")
            return told if told <= _MOST_EXPANSION * size else 0  # cut off, it tells nonsense
        if compression == "zstd":
            import zstandard

            try:
                return max(0, zstandard.frame_content_size(file.read(_HEAD_BYTES)))
            except zstandard.ZstdError:  # told once it is read
                return 0
    return 0
