"""Documents and pairs: their order, what they belong to, and what is left out."""

from __future__ import annotations

import gzip
import io
import json
import random
import tarfile
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from plan_files import SOURCES, curriculum, plan_of, stage
from pyarrow import parquet

from ncamix import cache
from ncamix.documents import (
    BATCH_CHARACTERS,
    BATCH_DOCUMENTS,
    Document,
    Pair,
    batches,
    read_documents,
    read_pairs,
)
from ncamix.errors import UserError
from ncamix.sources import PairsSource, TextSource
from ncamix.sources.corpus import corpus_files, hashed
from ncamix.splits import split_of
from ncamix.text_compilation import prepare_text


def text_source(**keys: Any) -> TextSource:
    return TextSource.model_validate({"kind": "text", "files": "**/*", **keys})


def read(folder: Path, report: dict[str, Any] | None = None, **keys: Any) -> list[Document]:
    spec = text_source(**keys)
    assert spec.files is not None
    return list(read_documents(corpus_files(spec.files, folder), spec, report))


def pairs(folder: Path, report: dict[str, Any] | None = None, **keys: Any) -> list[Pair]:
    written = {"kind": "pairs", "files": "**/*", "prompt": "p", "response": "r", **keys}
    spec = PairsSource.model_validate(written)
    assert spec.files is not None
    return list(read_pairs(corpus_files(spec.files, folder), spec, report))


def by_repository(column: str | None = None) -> dict[str, Any]:
    return {"share": Decimal("0.1"), "by": "repository", "column": column}


def mixed(folder: Path) -> None:
    """A corpus of every format."""
    (folder / "p").mkdir(parents=True)
    (folder / "p/a.py").write_text("text a")
    (folder / "p/b.txt.gz").write_bytes(gzip.compress(b"text b"))
    (folder / "c.jsonl").write_text('{"text": "text c1"}\n{"text": "text c2", "repo": "r"}\n')
    (folder / "p/d.jsonl.zst").write_bytes(zstandard.compress(b'{"text": "text d"}'))
    parquet.write_table(pa.table({"text": ["text e"], "n": [1]}), folder / "e.parquet")
    with zipfile.ZipFile(folder / "f.whl", "w") as made:
        made.writestr("z.py", "text fz")
        made.writestr("a/b.py", "text fab")
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as tar:
        info = tarfile.TarInfo("h.py")
        info.size = 6
        tar.addfile(info, io.BytesIO(b"text h"))
    (folder / "p/g.tgz").write_bytes(data.getvalue())


def test_a_corpus_of_every_format(tmp_path: Path) -> None:
    mixed(tmp_path)
    report: dict[str, Any] = {}
    assert read(tmp_path, report) == [
        Document("c.jsonl:1", "c.jsonl:1", "text c1"),
        Document("c.jsonl:2", "r", "text c2", "r"),
        Document("e.parquet:1", "e.parquet:1", "text e"),
        Document("f.whl/a/b.py", "f.whl", "text fab", "f.whl"),
        Document("f.whl/z.py", "f.whl", "text fz", "f.whl"),
        Document("p/a.py", "p", "text a"),
        Document("p/b.txt.gz", "p", "text b"),
        Document("p/d.jsonl.zst:1", "p", "text d"),
        Document("p/g.tgz/h.py", "p/g.tgz", "text h", "p/g.tgz"),
    ]
    assert report == {}


def test_what_is_no_text_is_left_out_and_counted(tmp_path: Path) -> None:
    files = {
        "latin.py": b"caf\xe9",
        "latin2.py": b"\xff\xfeplain",
        "image.png": b"\x89PNG\0\0",
        "late.bin": b"x" * 8192 + b"\0",  # git would call it text, too
        "bom.txt": b"\xef\xbb\xbfmarked\r\n",
        "blank.txt": b" \n\t",
        "rows.jsonl": b'{"text": ""}\n{"text": null}\n{"text": "half \\ud800"}\n{"text": "row"}\n',
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as made:
        for name, data in files.items():
            made.writestr(name, data)
    report: dict[str, Any] = {}
    kept = read(tmp_path, report)
    late = "x" * 8192 + "\0"
    assert [(d.name, d.text) for d in kept] == [
        ("bom.txt", "marked\r\n"),
        ("late.bin", late),
        ("rows.jsonl:4", "row"),
        ("z.zip/bom.txt", "marked\r\n"),
        ("z.zip/late.bin", late),
        ("z.zip/rows.jsonl", files["rows.jsonl"].decode()),  # members are documents
    ]
    assert report == {
        "empty": {"count": 4, "first": "blank.txt"},
        "binary": {"count": 2, "first": "image.png"},
        "not_utf8": {"count": 5, "first": "latin.py"},
    }
    report = {}
    replaced = {d.name: d.text for d in read(tmp_path, report, not_utf8="replace")}
    assert replaced["latin.py"] == "caf\ufffd" == replaced["z.zip/latin.py"]
    assert report["replaced"] == {"count": 5, "first": "latin.py"}
    with pytest.raises(UserError, match=r"/latin\.py is not UTF-8"):
        read(tmp_path, not_utf8="refuse")
    with pytest.raises(UserError, match=r"^latin\.py in .*z\.zip is not UTF-8"):
        read(tmp_path, files="*.zip", not_utf8="refuse")


def test_columns_are_named_and_hold_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"code": "one", "n": 1}\n{"code": "two", "n": 2}\n')
    parquet.write_table(pa.table({"code": ["three"], "n": [3]}), tmp_path / "b.parquet")
    assert [d.text for d in read(tmp_path, column="code")] == ["one", "two", "three"]
    with pytest.raises(UserError, match=r"a\.jsonl:1 has no column 'text'\n.*code, n"):
        read(tmp_path)
    with pytest.raises(UserError, match=r"b\.parquet has no column 'text'\n.*code, n"):
        read(tmp_path, files="*.parquet")
    with pytest.raises(UserError, match=r"a\.jsonl:1 has no text in the column 'n', but '1'"):
        read(tmp_path, column="n")
    with pytest.raises(UserError, match=r"row 1 of .*b\.parquet has no text in the column 'n'"):
        read(tmp_path, files="*.parquet", column="n")


def test_repositories_of_rows(tmp_path: Path) -> None:
    rows = [{"text": "a", "repo": "x", "repo_name": "y", "org": 7}, {"text": "b", "repo": "x"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = pa.table({"text": ["c", "d"], "repository": ["u", None], "org": [8, 9]})
    parquet.write_table(table, tmp_path / "b.parquet")
    found = [(d.repository, d.package) for d in read(tmp_path)]
    assert found == [("y", "y"), ("x", "x"), ("u", "u"), (None, "b.parquet:2")]
    with pytest.raises(UserError, match=r"row 2 of .*b\.parquet belongs to no repository"):
        read(tmp_path, holdout=by_repository())
    with pytest.raises(UserError, match=r"a\.jsonl:2 has no column 'org'"):
        read(tmp_path, holdout=by_repository("org"))
    named = read(tmp_path, files="*.parquet", holdout=by_repository("org"))
    assert [d.repository for d in named] == ["8", "9"]


def test_repositories_of_files_and_archives(tmp_path: Path) -> None:
    mixed(tmp_path / "r/one")
    (tmp_path / "r/one/.git").mkdir()
    (tmp_path / "r/one/c.jsonl").unlink()
    (tmp_path / "r/one/e.parquet").unlink()
    (tmp_path / "r/one/p/d.jsonl.zst").unlink()
    found = read(tmp_path, files="r/**/*", holdout=by_repository())
    assert {d.name: d.repository for d in found} == {
        "one/f.whl/a/b.py": "one/f.whl",
        "one/f.whl/z.py": "one/f.whl",
        "one/p/a.py": "one",
        "one/p/b.txt.gz": "one",
        "one/p/g.tgz/h.py": "one/p/g.tgz",
    }
    (tmp_path / "r/stray.py").write_text("pass")
    with pytest.raises(UserError, match=r"stray\.py belongs to no repository .*\n.*\.git"):
        read(tmp_path, files="r/**/*", holdout=by_repository())


def test_a_holdout_by_repository_keeps_repositories_together() -> None:
    documents = [Document(f"d{i}", f"p{i % 7}", f"text {i}", f"r{i % 50}") for i in range(1000)]
    holdout = (by_repository()["share"] * 3, "repository")
    splits: dict[str | None, set[str]] = {}
    for document in documents:
        splits.setdefault(document.repository, set()).add(split_of(document, holdout))
    assert all(len(found) == 1 for found in splits.values())
    assert len(set.union(*splits.values())) > 1


def test_pairs_have_two_columns(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"p": "ask {response}", "r": "tell", "repo": "x"},
        {"p": "", "r": "alone"},
        {"p": "no answer", "r": " "},
        {"p": "null", "r": None},
        {"p": "half \ud800", "r": "left out"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    parquet.write_table(pa.table({"p": ["q"], "r": ["a"], "n": [1]}), tmp_path / "b.parquet")
    report: dict[str, Any] = {}
    assert pairs(tmp_path, report) == [
        Pair("a.jsonl:1", "x", "ask {response}\ntell", "x", "ask {response}", "tell"),
        Pair("a.jsonl:2", "a.jsonl:2", "\nalone", None, "", "alone"),
        Pair("b.parquet:1", "b.parquet:1", "q\na", None, "q", "a"),
    ]
    assert report == {
        "empty": {"count": 2, "first": "a.jsonl:3"},
        "not_utf8": {"count": 1, "first": "a.jsonl:5"},
    }
    with pytest.raises(UserError, match=r"a\.jsonl:1 has no column 'answer'"):
        pairs(tmp_path, response="answer")


def test_documents_and_pairs_of_a_data_set(tmp_path: Path) -> None:
    rows = [{"p": f"ask {i}", "r": f"tell {i}", "repo": f"x{i}"} for i in range(5)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    keys = {"hub": str(tmp_path)}
    spec = TextSource.model_validate({"kind": "text", "column": "r", **keys})
    found = list(read_documents(None, spec))
    assert found[3] == Document("3", "x3", "tell 3", "x3") and len(found) == 5
    asked = PairsSource.model_validate({"kind": "pairs", "prompt": "p", "response": "r", **keys})
    assert list(read_pairs(None, asked))[4] == Pair(
        "4", "x4", "ask 4\ntell 4", "x4", "ask 4", "tell 4"
    )


def test_the_order_is_that_of_names(tmp_path: Path) -> None:
    names = [f"{a}/{b}.py" for a in "cab" for b in "312"]
    random.Random(1).shuffle(names)
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as made:
        for name in names:
            made.writestr(name, name)
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(name)
    found = [d.name for d in read(tmp_path)]
    assert found == sorted([*names, *(f"m.zip/{name}" for name in names)])


# From the plan on


def planned(folder: Path, files: str, keys: str = "") -> Any:
    sources = SOURCES + f"  new: {{kind: text, repeat: free, files: {files}{keys}}}\n"
    return plan_of(folder, curriculum(stage("{new: 1}"), sources, "tokenizer: bytes\n"))


def test_a_corpus_of_every_format_is_compiled(tmp_path: Path) -> None:
    mixed(tmp_path / "m")
    (tmp_path / "m/long.txt").write_text("words and words " * 200)
    plan = prepare_text(planned(tmp_path, "'m/**/*'"))
    info = cache.entry_info(plan.sources["new"].fingerprint)
    assert info is not None and info["num_documents"] == 10


def test_what_is_broken_or_vanishes_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words " * 100)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"words " * 100)[:-9])
    plan = planned(tmp_path, "['*.txt', '*.gz']")
    with pytest.raises(UserError, match=r"cannot read .*b\.txt\.gz: Compressed file ended before"):
        prepare_text(plan)
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match=r"/a\.txt has vanished while"):
        prepare_text(plan)


# Read as they were hashed


def test_batches_hold_everything_in_order_and_are_bounded() -> None:
    sizes = [1, BATCH_CHARACTERS, 5, *([BATCH_CHARACTERS // 4] * 9), *([2] * 3 * BATCH_DOCUMENTS)]
    given = [Document(str(i), "", "x" * size) for i, size in enumerate(sizes)]
    made = list(batches(iter(given)))
    assert [document for batch in made for document in batch] == given
    for batch in made:
        assert 0 < len(batch) <= BATCH_DOCUMENTS
        assert sum(len(d.text) for d in batch[:-1]) < BATCH_CHARACTERS


def test_documents_of_a_file_that_changes_are_not_handed_on(tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"row {i}"}) + "\n" for i in range(4 * BATCH_DOCUMENTS)]
    (tmp_path / "a.jsonl").write_text("".join(rows))
    (tmp_path / "b.jsonl").write_text('{"text": "last"}')
    files = hashed(corpus_files(("*.jsonl",), tmp_path))
    names = [document.name for document in read_documents(files)]
    assert len(names) == len(rows) + 1
    found = read_documents(files)
    assert [next(found).name for _ in range(BATCH_DOCUMENTS)] == names[:BATCH_DOCUMENTS]
    (tmp_path / "a.jsonl").write_text("".join(rows).replace("row", "now"))
    with pytest.raises(UserError, match=r"a\.jsonl has changed while"):
        list(found)
    (tmp_path / "a.jsonl").write_text("".join(rows))
    found = read_documents(files)
    assert sum(1 for _, document in zip(rows, found, strict=False)) == len(rows)
    (tmp_path / "b.jsonl").write_text("no JSON")  # of a changed file, its own fault is no matter
    with pytest.raises(UserError, match=r"b\.jsonl has changed while"):
        next(found)
