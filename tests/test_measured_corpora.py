"""Corpora as the command line names them, and the order in which their documents come."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from ncamix.errors import UserError
from ncamix.measure.corpora import find_corpora

CURRICULUM = """\
ncamix: 1
name: few
tokenizer: bytes
sources:
  words: {kind: text, files: ['texts/*.txt']}
  web: {kind: text, hub: owner/name, split: test, column: body}
  asks: {kind: pairs, files: [asks.jsonl], prompt: q, response: a}
  static: {kind: noise, symbols: 8}
stages: [{name: one, duration: 100%, mixture: {words: 1}}]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with texts and a curriculum, and the process in it."""
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    for i in range(12):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"text {i}")
    (tmp_path / "texts" / "deep" / "notes.md").write_text("a note")
    (tmp_path / "texts" / "blank.txt").write_text(" \n")
    (tmp_path / "asks.jsonl").write_text('{"q": "two and two", "a": "four"}\n')
    (tmp_path / "few.yaml").write_text(CURRICULUM)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def texts(argument: str) -> list[str]:
    (corpus,) = find_corpora([argument])
    return [text for text, _ in corpus.texts()]


def test_paths_folders_and_globs() -> None:
    assert texts("texts/3.txt") == ["text 3"]
    assert sorted(texts("texts/*.txt")) == sorted(f"text {i}" for i in range(12))
    assert sorted(texts("texts")) == sorted([*texts("texts/*.txt"), "a note"])
    assert sorted(texts("few.yaml:words")) == sorted(texts("texts/*.txt"))
    (corpus,) = find_corpora(["texts/deep"])
    assert (corpus.name, corpus.num_bytes) == ("texts/deep", 6)


def test_the_order_is_drawn_from_names_alone(here: Path) -> None:
    found = texts("texts/*.txt")
    assert found != sorted(found)
    (here / "other").mkdir()
    for i in reversed(range(12)):  # written in another order, into another folder
        (here / "other" / f"{i}.txt").write_text(f"text {i}")
    assert texts("other") == found
    (here / "other" / "3.txt").unlink()
    assert texts("other") == [text for text in found if text != "text 3"]


def test_pairs_and_rows_are_read_as_their_source_says(here: Path) -> None:
    assert texts("few.yaml:asks") == ["two and two\nfour"]
    (here / "rows.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
    assert texts("rows.jsonl") == ["one", "two"]


def test_what_is_no_text_is_left_out_and_told(here: Path) -> None:
    (here / "texts" / "image.bin").write_bytes(b"\x00\x01")
    (corpus,) = find_corpora(["texts"])
    report: dict[str, Any] = {}
    assert len(list(corpus.texts(report))) == 13
    assert report["binary"] == {"count": 1, "first": "image.bin"}
    assert report["empty"]["count"] == 1


BROKEN = {
    "cut.txt.gz": gzip.compress(b"some text " * 99)[:-9],
    "no.zip": b"no zip",
    "no.parquet": b"PAR1",
    "late.jsonl": b'{"text": "one"}\n' * 20 + b'{"text": tw',
    "other.jsonl": b'{"body": "no such column"}\n',
}


def test_broken_files_of_a_folder_are_left_out_whole_and_told(here: Path) -> None:
    sound = sorted(texts("texts"))
    for name, data in BROKEN.items():
        (here / "texts" / name).write_bytes(data)
    for argument in ("texts", "texts/**/*"):
        (corpus,) = find_corpora([argument])
        for _ in range(2):  # as a measure reads it, again and again
            report: dict[str, Any] = {}
            assert sorted(text for text, _ in corpus.texts(report)) == sound
            found = report["unreadable"]
            assert found["count"] == 5 and str(here / "texts" / found["first"]) in found["why"]
    for name in BROKEN:
        with pytest.raises(UserError, match=name):
            texts(f"texts/{name}")
    (here / "few.yaml").write_text(CURRICULUM.replace("texts/*.txt", "texts/*"))
    with pytest.raises(UserError, match=r"cannot read|no column|not JSON"):
        texts("few.yaml:words")


def test_what_is_beyond_the_limit_need_not_be_whole(here: Path) -> None:
    folder = here / "rows"
    folder.mkdir()
    (folder / "late.jsonl").write_bytes(BROKEN["late.jsonl"])
    (corpus,) = find_corpora(["rows"])
    report: dict[str, Any] = {}
    first = [text for _, (text, _) in zip(range(4), corpus.texts(report, 10), strict=False)]
    assert first == ["one"] * 4 and not report


def test_bytes_of_the_files_begun() -> None:
    (corpus,) = find_corpora(["texts/?.txt"])
    assert [begun for _, begun in corpus.texts()] == [6 * k for k in range(1, 11)]
    assert corpus.num_bytes == 60


def test_sources_on_the_hub() -> None:
    (corpus,) = find_corpora(["few.yaml:web"])
    assert corpus.files is None and corpus.spec is not None
    assert corpus.spec.data_set()["split"] == "test"
    with pytest.raises(UserError, match="owner/name"):
        next(corpus.texts())


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("nowhere", "no such path: 'nowhere'"),
        ("nowhere/*.txt", "no file matches"),
        ("few.yaml:word", "did you mean 'words'"),
        ("few.yaml:static", "'static' is of kind noise, and only text and pairs are measured"),
        ("nothing.yaml:code", "no such curriculum"),
        ("code_target", "CURRICULUM:SOURCE"),
        ("", "no such path: ''"),
    ],
)
def test_what_names_no_corpus(argument: str, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("*", r"\*")):
        find_corpora([argument])


def test_an_empty_folder(here: Path) -> None:
    (here / "empty").mkdir()
    with pytest.raises(UserError, match="the folder empty holds no file"):
        find_corpora(["empty"])


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(UserError) as refused:
        find_corpora(["texts", "nowhere", "nothing", "nowhere"])
    assert len(refused.value.problems) == 2
