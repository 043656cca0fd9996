"""Sizes: what containers tell of the text in them, and a bound that holds."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_files import SOURCES, curriculum, plan_of, stage
from pyarrow import parquet

from ncamix import sizes
from ncamix.documents import read_documents
from ncamix.errors import UserError
from ncamix.sizes import EXPANSION, corpus_size
from ncamix.sources import TextSource
from ncamix.sources.corpus import corpus_files

TEXT = "".join(f"line {i} of a text\n" for i in range(5000))


def size_of(folder: Path, files: str = "*", *columns: str) -> tuple[int, int | None]:
    return corpus_size(corpus_files((files,), folder), columns or ("text",))


def test_plain_files_are_as_large_as_their_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n')
    assert size_of(tmp_path) == (len(TEXT) + 14,) * 2


def test_containers_tell(tmp_path: Path) -> None:
    data = TEXT.encode()
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(data))
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(data))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.txt", data)
    for name in ("a.txt.gz", "a.txt.zst", "a.zip"):
        assert size_of(tmp_path, name) == (len(TEXT), None)
    rows = pa.table({"text": TEXT.split("\n"), "other": [TEXT[:300]] * 5001})
    parquet.write_table(rows, tmp_path / "a.parquet")
    about, most = size_of(tmp_path, "a.parquet")
    assert 0.9 * len(TEXT) < about < 1.5 * len(TEXT) and most is None
    (tmp_path / "b.txt").write_text(TEXT)
    assert size_of(tmp_path, "*.[tg]*")[1] is None


def test_what_is_not_told_is_guessed(tmp_path: Path) -> None:
    made = io.BytesIO()
    with zstandard.ZstdCompressor(write_content_size=False).stream_writer(made, closefd=False) as z:
        z.write(TEXT.encode())
    (tmp_path / "a.txt.zst").write_bytes(made.getvalue())
    (tmp_path / "b.txt.zst").write_bytes(b"no zstd at all" * 9)
    for name in ("a", "b"):
        size = (tmp_path / f"{name}.txt.zst").stat().st_size
        assert size_of(tmp_path, f"{name}.txt.zst") == (EXPANSION * size, None)
    cut = gzip.compress(b"text and text\n" * 1000)[:-9]
    (tmp_path / "d.txt.gz").write_bytes(cut)
    assert int.from_bytes(cut[-4:], "little") > 1000 * EXPANSION * len(cut)
    assert size_of(tmp_path, "d.txt.gz") == (EXPANSION * len(cut), None)
    wrapped = gzip.compress(TEXT.encode())[:-4] + bytes(4)  # a multiple of 4 GiB
    (tmp_path / "c.txt.gz").write_bytes(wrapped)
    assert size_of(tmp_path, "c.txt.gz") == (EXPANSION * len(wrapped), None)


def test_of_many_some_speak_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "NUM_OPENED", 3)
    for i in range(10):
        (tmp_path / f"{i}.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    (tmp_path / "9.zip").write_text("broken, but nobody looks")
    about, _ = size_of(tmp_path, "*.gz")
    assert about == 10 * len(TEXT)
    assert size_of(tmp_path)[0] > about


def test_a_document_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "LARGEST_DOCUMENT", 1000)
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n' * 500)
    size_of(tmp_path)
    (tmp_path / "a.txt").write_text(TEXT)
    with pytest.raises(UserError, match=r"a\.txt is one document of .*at most.*\n.*split it"):
        size_of(tmp_path)


@settings(max_examples=25)
@given(st.lists(st.text(max_size=20)), st.booleans())
def test_the_bound_holds_for_any_text(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], escape: bool
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    lines = (json.dumps({"text": t}, ensure_ascii=escape) for t in texts)
    (folder / "a.jsonl").write_text("".join(f"{line}\n" for line in lines))
    with tarfile.open(folder / "a.tar", "w") as tar:
        for i, text in enumerate(texts):
            info = tarfile.TarInfo(f"{i}")
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
    spec = TextSource.model_validate({"kind": "text", "files": "*", "not_utf8": "replace"})
    files = corpus_files(("*",), folder)
    documents = list(read_documents(files, spec))
    most = corpus_size(files, ("text",))[1]
    assert most is not None
    ids = sum(len(d.text.encode()) + 1 for d in documents)
    assert ids <= 3 * most + len(files)


def test_a_plan_refuses_by_a_bound_and_never_by_a_guess(tmp_path: Path) -> None:
    def plan(file: str) -> None:
        sources = SOURCES + f"  new: {{kind: text, files: {file}, repeat: refuse}}\n"
        plan_of(tmp_path, curriculum(stage("{new: 1}"), sources, "tokenizer: bytes\n"))

    (tmp_path / "a.jsonl").write_text('{"text": "too little"}\n')
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "too little"}\n'))
    with pytest.raises(UserError, match="the text is too small for its share.*at most"):
        plan("a.jsonl")
    plan("a.jsonl.gz")
