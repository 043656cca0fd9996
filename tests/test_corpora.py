"""Corpora: what columns they have, and which texts a text drops copies of, whatever their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from conftest import Planner
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from pydantic import TypeAdapter

from ncamix.corpora import earlier_texts
from ncamix.curriculum import Source
from ncamix.errors import UserError
from ncamix.sources import SourceSpec
from ncamix.sources.corpus import CorpusFile

READ: TypeAdapter[SourceSpec] = TypeAdapter(Source)
WRITTEN: dict[str, dict[str, Any]] = {
    "files": {"kind": "text", "files": ["*.txt"]},
    "near": {"kind": "text", "files": ["*.txt"], "duplicates": "near"},
    "keep": {"kind": "text", "files": ["*.txt"], "duplicates": "keep"},
    "hub": {"kind": "text", "hub": "a/b"},
    "pairs": {"kind": "pairs", "files": ["*.jsonl"], "prompt": "p", "response": "r"},
    "noise": {"kind": "noise"},
}
SPECS = {sort: READ.validate_python(written) for sort, written in WRITTEN.items()}
SORTS = st.lists(st.tuples(st.sampled_from(sorted(SPECS)), st.integers(0, 3)), min_size=1)


def found(sorts: list[tuple[str, int]]) -> list[tuple[str, Any]]:
    """What the last source comes after, of sources that read the corpora of these numbers."""
    specs = {f"s{i}": SPECS[sort] for i, (sort, _) in enumerate(sorts)}

    def read(name: str) -> tuple[tuple[CorpusFile, ...] | None, dict[str, Any]]:
        sort, number = sorts[int(name[1:])]
        meaning = {"kind": "text", "duplicates": sort, "holdout": name, "documents": number}
        return None if sort == "hub" else (CorpusFile(Path(f"{number}"), "x"),), meaning

    last = f"s{len(sorts) - 1}"
    return [(text.files[0].path.name, m) for text, m in earlier_texts(last, specs, read)]


@given(SORTS, st.randoms(use_true_random=False))
def test_they_are_the_other_texts_of_files_before_it(
    sorts: list[tuple[str, int]], rng: Any
) -> None:
    *before, (sort, own) = sorts
    expected = {n for other, n in before if other in ("files", "near", "keep") and n != own}
    if sort not in ("files", "near", "hub"):
        expected = set()
    assert found(sorts) == [
        (str(n), {"kind": "text", "documents": n}) for n in sorted(expected)
    ]  # neither names nor their own duplicates and holdout
    rng.shuffle(before)
    assert found([*before, (sort, own)]) == found(sorts)


def test_columns_that_are_not_there_are_told_by_the_plan(tmp_path: Path, plan_of: Planner) -> None:
    """All of them at once, each at its key."""
    (tmp_path / "a.jsonl").write_text('\n{"p": "one", "r": "two"}\n{"broken\n')
    parquet.write_table(pa.table({"text": ["three"], "n": [3]}), tmp_path / "b.parquet")
    (tmp_path / "c.txt").write_text("a text, which has no columns")
    (tmp_path / ".git").mkdir()
    with pytest.raises(UserError) as caught:
        plan_of(
            "tokenizer: bytes\n"
            "sources:\n"
            "  good: {kind: pairs, files: a.jsonl, prompt: p, response: r, repeat: free}\n"
            "  bad: {kind: pairs, files: a.jsonl, prompt: q, response: s, repeat: free}\n"
            "  rows: {kind: text, files: ['*.parquet', '*.txt'], column: code, repeat: free,\n"
            "         holdout: {share: 0.1, by: repository, column: org}}\n"
            "stages: [{name: one, duration: rest, mixture: {good: 1, bad: 1, rows: 1}}]\n"
        )
    told = {problem.path: (problem.what, problem.remedy) for problem in caught.value.problems}
    a, b = f"{tmp_path}/a.jsonl:2", f"{tmp_path}/b.parquet"
    assert told == {
        "sources.bad.prompt": (f"{a} has no column 'q'", "its columns: p, r"),
        "sources.bad.response": (f"{a} has no column 's'", "its columns: p, r"),
        "sources.rows.column": (f"{b} has no column 'code'", "its columns: text, n"),
        "sources.rows.holdout.column": (f"{b} has no column 'org'", "its columns: text, n"),
    }
