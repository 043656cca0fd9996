"""Rows: what JSON lines, Parquet files and data sets on the Hugging Face hub are made of.

    files, in order | a data set of the hub, streamed -> rows, as stored

One row is in memory at a time, of Parquet a small part of a row group.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncamix.containers import opened, readable
from ncamix.errors import UserError, fail
from ncamix.formats import LARGEST_DOCUMENT, Format
from ncamix.omissions import Omissions, decoded
from ncamix.sources.corpus import CorpusFile
from ncamix.tokenization import hub_reason

_PARQUET_ROWS = 256  # that are decoded at once
_PARQUET_BUFFER = 1 << 20  # bytes of a column that are read at once


@dataclass(frozen=True)
class Row:
    """name: in reports (`corpus.jsonl:17`, counted from 1; of the hub the number from 0). where:
    in errors. values: strings of Parquet are bytes, which nobody has checked yet."""

    name: str
    where: str
    values: dict[str, Any]


def no_column(where: str, column: str, known: Iterable[str]) -> UserError:
    """The error of rows without a column that they should have."""
    return fail(f"{where} has no column '{column}'", f"its columns: {', '.join(known)}")


def json_rows(file: CorpusFile, form: Format, policy: str, omissions: Omissions) -> Iterator[Row]:
    """The rows of a file of JSON lines; lines that are blank are none.

    policy: for lines that are not UTF-8, see `decoded`.

    Raises:
        UserError: the file cannot be read, or a line is no JSON object.
    """
    number = 0
    with readable(file.path), opened(file.path, form.compression) as stream:
        while line := stream.readline(LARGEST_DOCUMENT + 1):
            number += 1
            name, where = f"{file.name}:{number}", f"{file.path}:{number}"
            if len(line) > LARGEST_DOCUMENT:
                raise fail(f"{where}: the line is too long", "has it JSON lines, a row a line?")
            text = decoded(line, policy, name, where, omissions)
            if text is None or not text.strip():
                continue
            try:
                values = json.loads(text.rstrip())
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                column = f":{error.colno}" if isinstance(error, json.JSONDecodeError) else ""
                raise fail(
                    f"{where}{column}: not JSON ({reason})", "mend the line, or leave the file out"
                ) from None
            if not isinstance(values, dict):
                raise fail(f"{where}: not a JSON object", 'write {"text": "..."} on each line')
            yield Row(name, where, values)


def parquet_columns(file: CorpusFile) -> list[str]:
    """The columns of a Parquet file. Raises UserError if it cannot be read."""
    from pyarrow import parquet

    with readable(file.path):
        return list(parquet.read_schema(file.path).names)


def parquet_rows(
    file: CorpusFile, needed: Collection[str], welcome: Collection[str]
) -> Iterator[Row]:
    """The rows of a Parquet file, with the columns that are needed, and those welcome ones that it
    has.

    Raises:
        UserError: the file cannot be read, or lacks a column.
    """
    import pyarrow
    from pyarrow import compute, parquet

    number = 0
    with readable(file.path), file.path.open("rb") as stream:
        table = parquet.ParquetFile(stream, buffer_size=_PARQUET_BUFFER, pre_buffer=False)
        schema = table.schema_arrow
        for name in needed:
            if name not in schema.names:
                raise no_column(str(file.path), name, schema.names)
        columns = [name for name in schema.names if name in needed or name in welcome]
        for batch in table.iter_batches(_PARQUET_ROWS, columns=columns):
            values = []
            for column in batch.columns:
                kind = column.type
                if pyarrow.types.is_dictionary(kind):
                    column = column.dictionary_decode()
                    kind = column.type
                if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind):
                    column = compute.cast(column, pyarrow.large_binary())
                values.append(column.to_pylist())
            for row in zip(*values, strict=True):
                number += 1
                where = f"row {number} of {file.path}"
                yield Row(f"{file.name}:{number}", where, dict(zip(columns, row, strict=True)))


def hub_rows(data_set: dict[str, str | None]) -> Iterator[Row]:
    """The rows of a data set on the hub, as they stream in.

    Raises:
        UserError: the hub cannot be reached or has no such data set, or `datasets` is missing.
    """
    try:
        for number, values in enumerate(_stream(data_set)):
            yield Row(str(number), f"row {number} of the data set {data_set['hub']}", values)
    except UserError:
        raise
    except Exception as error:  # the hub's client raises many kinds
        raise fail(
            f"the data set {data_set['hub']} cannot be had from the Hugging Face hub "
            f"({hub_reason(error)})",
            "check its name, the network and HF_TOKEN; data sets cached earlier work with "
            "HF_HUB_OFFLINE=1",
        ) from None


def _stream(data_set: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    try:
        import datasets
    except ImportError:
        raise fail(
            f"the data set {data_set['hub']} needs the library `datasets`, which is not installed",
            "pip install 'ncamix[hub]'",
        ) from None
    from huggingface_hub import HfApi, constants

    name = str(data_set["hub"])
    if not constants.HF_HUB_OFFLINE and not Path(name).exists():
        # Asked once, so that a missing network or data set is told at once; the client retries.
        HfApi().dataset_info(name, revision=data_set["revision"], timeout=10)
    datasets.disable_progress_bars()
    yield from datasets.load_dataset(
        name,
        data_set["config"],
        split=data_set["split"],
        revision=data_set["revision"],
        streaming=True,
    )
