"""Rows: of JSON lines, Parquet and data sets, as stored, and told where they are broken."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from ncamix import rows
from ncamix.errors import UserError
from ncamix.formats import format_of
from ncamix.omissions import Omissions
from ncamix.rows import hub_rows, json_rows, parquet_rows
from ncamix.sources.corpus import CorpusFile

LINES = b'{"text": "one", "n": 1}\n\n  {"text": "tw\xc3\xb6"}\r\n{"text": null}'


def lines_of(path: Path, policy: str = "skip", omissions: Omissions | None = None) -> list[Any]:
    file = CorpusFile(path, path.name)
    found = json_rows(file, format_of(path.name), policy, omissions or Omissions())
    return [(row.name, row.values) for row in found]


def columns_of(path: Path, *needed: str, welcome: tuple[str, ...] = ()) -> list[Any]:
    found = parquet_rows(CorpusFile(path, path.name), needed, welcome)
    return [(row.name, row.values) for row in found]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", LINES),
        ("a.ndjson", b"\xef\xbb\xbf" + LINES),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("a.jsonl.zst", zstandard.compress(LINES)),
    ],
)
def test_json_lines_are_named_by_their_line(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert lines_of(tmp_path / name) == [
        (f"{name}:1", {"text": "one", "n": 1}),
        (f"{name}:3", {"text": "tw\u00f6"}),
        (f"{name}:4", {"text": None}),
    ]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{broken", r"a\.jsonl:2:2: not JSON \(Expecting property name"),
        ('{"text": "cut', r"a\.jsonl:2:10: not JSON \(Unterminated string"),
        ('["text"]', r"a\.jsonl:2: not a JSON object"),
        ("[" * 100_000, r"a\.jsonl:2: not JSON \(maximum recursion"),
        ("9" * 5000, r"a\.jsonl:2: not JSON \(Exceeds the limit"),
        ('{"text": "' + "x" * 300 + '"}', r"a\.jsonl:2: the line is too long"),
    ],
)
def test_a_broken_line_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, what: str
) -> None:
    if "x" * 300 in line:
        monkeypatch.setattr(rows, "LARGEST_DOCUMENT", 200)
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n' + line + '\n{"text": "three"}\n')
    with pytest.raises(UserError, match=what):
        lines_of(tmp_path / "a.jsonl")


def test_a_line_that_is_not_utf8_follows_the_policy(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "caf\xe9"}\n{"text": "three"}\n')
    omissions = Omissions()
    assert [name for name, _ in lines_of(path, "skip", omissions)] == ["a.jsonl:1", "a.jsonl:3"]
    assert omissions.report == {"not_utf8": {"count": 1, "first": "a.jsonl:2"}}
    assert lines_of(path, "replace")[1] == ("a.jsonl:2", {"text": "caf\ufffd"})
    with pytest.raises(UserError, match=r"a\.jsonl:2 is not UTF-8"):
        lines_of(path, "refuse")


def test_a_large_file_is_read_line_by_line(tmp_path: Path) -> None:
    with zstandard.open(tmp_path / "a.jsonl.zst", "wb") as stream:
        for i in range(100):
            stream.write(json.dumps({"text": f"{i}" + " " * 1_000_000}).encode() + b"\n")
    code = """
import resource, sys
from pathlib import Path
from ncamix.rows import *
file = CorpusFile(Path(sys.argv[1]), "a.jsonl.zst")
import pyarrow
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(1 for _ in json_rows(file, Format("jsonl", "zstd"), "skip", Omissions()))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40_000)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.jsonl.zst")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "100 True\n", done.stderr


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int8(), pa.string())],
    ids=str,
)
def test_parquet_gives_what_is_wanted(tmp_path: Path, kind: Any) -> None:
    texts = ["one", "tw\u00f6", None, "four", "five"]
    table = pa.table(
        {"id": [1, 2, 3, 4, 5], "text": pa.array(texts).cast(kind), "repo": ["a", "b"] * 2 + [None]}
    )
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    found = columns_of(tmp_path / "a.parquet", "text", welcome=("repo", "other"))
    assert [name for name, _ in found] == [f"a.parquet:{i}" for i in range(1, 6)]
    assert [values["text"] for _, values in found] == [t and t.encode() for t in texts]
    assert [values["repo"] for _, values in found] == [b"a", b"b", b"a", b"b", None]
    assert all(set(values) == {"text", "repo"} for _, values in found)
    with pytest.raises(UserError, match="a.parquet has no column 'body'\n.*id, text, repo"):
        columns_of(tmp_path / "a.parquet", "text", "body")


def test_a_broken_parquet_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": [f"row {i * i}" for i in range(9999)]}), path)
    whole = path.read_bytes()
    for data in (b"", b"plain text", whole[:5000], whole[:100] + bytes(5000) + whole[5100:]):
        path.write_bytes(data)
        with pytest.raises(UserError, match=rf"cannot read {path}: "):
            columns_of(path, "text")


def test_rows_of_a_data_set_come_in_order(tmp_path: Path) -> None:
    for part in range(2):
        texts = [{"text": f"row {10 * part + i}"} for i in range(10)]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, texts)))
    data_set = {"hub": str(tmp_path), "config": None, "split": "train", "revision": None}
    found = list(hub_rows(data_set))
    assert [(row.name, row.values) for row in found] == [
        (str(i), {"text": f"row {i}"}) for i in range(20)
    ]


def test_without_the_library_the_extra_is_named() -> None:
    code = """
import sys
sys.modules["datasets"] = None  # as if it were not installed
from ncamix.errors import UserError
from ncamix.rows import hub_rows
try:
    list(hub_rows({"hub": "a/b", "config": None, "split": "train", "revision": None}))
except UserError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == (
        "the data set a/b needs the library `datasets`, which is not installed\n"
        "    pip install 'ncamix[hub]'\n"
    )
