"""Paths of settings: relative ones start at a folder; what is no path stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from ncamix.composition import parse_setting
from ncamix.globs import matching
from ncamix.paths import anchored


@pytest.mark.parametrize(
    ("written", "made"),
    [
        ("sources.a.files=[x.txt, 'y/**/*.py', /z.txt, ~/w.txt]",
         "sources.a.files=[/at/x.txt, /at/y/**/*.py, /z.txt, \"~/w.txt\"]"),
        ("sources.a.files=x.txt", "sources.a.files=/at/x.txt"),
        ("sources.a.files=[python-stdlib]", "sources.a.files=[python-stdlib]"),
        ("sources.a={kind: text, files: [x.txt]}", "sources.a={kind: text, files: [/at/x.txt]}"),
        ("sources={a: {kind: text, files: [x]}}", "sources={a: {kind: text, files: [/at/x]}}"),
        ("sources.a.local=data", "sources.a.local=/at/data"),
        ("sources.a.remote=s3://bucket/data", "sources.a.remote=\"s3://bucket/data\""),
        ("sources.a.remote=../data", "sources.a.remote=/at/../data"),
        ("evaluate.benchmarks=[b.jsonl]", "evaluate.benchmarks=[/at/b.jsonl]"),
        ("stages.text.enter.from=runs/x/text", "stages.text.enter.from=/at/runs/x/text"),
        ("stages.text={duration: 5%, enter: {from: r/x}}",
         "stages.text={duration: 5%, enter: {from: /at/r/x}}"),
        ("stages=[{name: a, enter: {from: r/x}}]", "stages=[{name: a, enter: {from: /at/r/x}}]"),
        ("tokenizer.pretrained=gpt2", "tokenizer.pretrained=gpt2"),
        ("trainer.model.config=org/model", "trainer.model.config=org/model"),
        ("sources.files.alphabet=8", "sources.files.alphabet=8"),
        ("sources.a.kind=text", "sources.a.kind=text"),
        ("stages.one=null", "stages.one=null"),
    ],
)  # fmt: skip
def test_relative_paths_start_at_the_folder(written: str, made: str) -> None:
    assert str(anchored(parse_setting(written), Path("/at"))) == made


def test_what_may_be_a_name_is_a_path_where_the_file_exists(tmp_path: Path) -> None:
    (tmp_path / "gpt2").mkdir()
    for key in ("tokenizer.pretrained", "trainer.model.path", "trainer.model.config"):
        assert str(anchored(parse_setting(f"{key}=gpt2"), tmp_path)) == f"{key}={tmp_path}/gpt2"
    whole = anchored(parse_setting("trainer.model={kind: huggingface, path: gpt2}"), tmp_path)
    assert whole.value.plain() == {"kind": "huggingface", "path": f"{tmp_path}/gpt2"}


def test_a_folder_that_looks_like_a_pattern_is_taken_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "[ab]"
    folder.mkdir()
    (folder / "x.txt").write_text("x")
    made = anchored(parse_setting("sources.a.files=['*.txt']"), folder)
    (pattern,) = made.value.plain()
    assert list(matching(pattern, Path("/"))) == [str(folder / "x.txt")]
