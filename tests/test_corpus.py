"""Corpora: which files they hold, under which names, in which repository; what does not fit."""

from __future__ import annotations

import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from plan_files import SOURCES, curriculum, plan_of, problem, problems, stage

from ncamix.errors import UserError
from ncamix.loading import load_curriculum
from ncamix.plan import Plan
from ncamix.sources import TextSource
from ncamix.sources.corpus import CorpusFile, corpus_files, corpus_hash, hashed


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """40 files in 8 packages."""
    for i in range(40):
        path = tmp_path / "corpus" / f"p{i % 8}" / f"{i:02}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"file {i}\n")
    return tmp_path / "corpus"


def names(folder: Path, *files: str) -> list[str]:
    return [file.name for file in corpus_files(files, folder)]


def test_the_standard_library_is_found_sorted_and_without_its_tests() -> None:
    files = corpus_files(("python-stdlib",), Path("/nowhere"))
    found = [f.name for f in files]
    assert len(found) > 400 and {"json/decoder.py", "ast.py"} <= set(found)
    assert found == sorted(found) and len(set(found)) == len(found)
    folders = {part for name in found for part in name.split("/")[:-1]}
    assert not folders & {"test", "tests", "idle_test", "site-packages", "__pycache__"}
    assert all(f.path.is_file() and f.path.suffix == ".py" for f in files)


def test_files_are_named_below_the_first_wildcard_and_come_once(corpus: Path) -> None:
    folder = corpus.parent
    files = corpus_files(("corpus/**/*.txt", "corpus/p0/*.txt", "corpus/p0/00.txt"), folder)
    assert len(files) == 40
    assert files[0] == CorpusFile(corpus / "p0/00.txt", "p0/00.txt")
    assert corpus_files((str(corpus / "p0/00.txt"),), Path("/"))[0].name == "00.txt"
    with pytest.raises(UserError, match="no file matches 'none/"):
        corpus_files(("none/*.txt",), folder)
    with pytest.raises(UserError, match="is a folder"):
        corpus_files(("corpus",), folder)


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    odd = tmp_path / "a [b] * 'c' ü"
    odd.mkdir()
    (odd / "x.txt").write_text("x")
    assert names(odd, "*.txt") == ["x.txt"]


def test_brackets_of_names_are_told_how_to_be_written(tmp_path: Path) -> None:
    (tmp_path / "run[1]").mkdir()
    (tmp_path / "run[1]" / "a.txt").write_text("x")
    for written, way_out in (
        ("run[1]/*.txt", "write 'run[[]1]/*.txt'"),
        ("run[1]/a.txt", "write 'run[[]1]/a.txt'"),
        ("run[2]/*.txt", "as in 'run[[]2]/*.txt'"),
        ("run[1]", "write 'run[[]1]/**/*.txt'"),
    ):
        with pytest.raises(UserError) as caught:
            corpus_files((written,), tmp_path)
        assert caught.value.problems[0].remedy.endswith(way_out), written
    assert names(tmp_path, "run[[]1]/*.txt") == ["run[1]/a.txt"]
    assert names(tmp_path, "run[[]1]/**/*.txt") == ["run[1]/a.txt"]
    with pytest.raises(UserError, match="check the path"):
        corpus_files(("run]/*.txt",), tmp_path)


def test_names_that_are_not_utf8_are_spelled_out(tmp_path: Path) -> None:
    for name in (b"caf\xe9.txt", "caf\u00e9.txt".encode()):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_text("x")
    files = corpus_files(("*.txt",), tmp_path)
    assert [f.name for f in files] == ["caf\\udce9.txt", "caf\u00e9.txt"]
    assert all(f.path.read_text() == "x" for f in files)
    assert len(corpus_hash(hashed(files))) == 32


def test_the_corpus_hash_knows_names_and_contents(corpus: Path) -> None:
    def now() -> str:
        return corpus_hash(hashed(corpus_files(("**/*.txt",), corpus)))

    first = now()
    (corpus / "p0/00.txt").rename(corpus / "p0/000.txt")
    renamed = now()
    (corpus / "p0/000.txt").write_text("other")
    assert len({first, renamed, now()}) == 3


def test_a_repository_is_the_nearest_folder_with_git_below_the_root(tmp_path: Path) -> None:
    for folder in ("a/.git", "a/src/deep", "a/vendored/src", "b/c", "b/d/e"):
        (tmp_path / "r" / folder).mkdir(parents=True)
    (tmp_path / "r/a/vendored/.git").write_text("gitdir: elsewhere")  # as submodules have it
    (tmp_path / "r/b/d/.git").mkdir()
    for file in ("a/x.py", "a/src/deep/y.py", "a/vendored/src/z.py", "b/c/u.py", "b/d/e/v.py"):
        (tmp_path / "r" / file).write_text("pass")
    found = {f.name: f.repository for f in corpus_files(("r/**/*.py",), tmp_path)}
    assert found == {
        "a/x.py": "a",
        "a/src/deep/y.py": "a",
        "a/vendored/src/z.py": "a/vendored",
        "b/c/u.py": None,
        "b/d/e/v.py": "b/d",
    }
    assert corpus_files(("r/a/*.py",), tmp_path)[0].repository == "a"  # the root itself
    assert corpus_files(("r/a/src/**/*.py",), tmp_path)[0].repository is None


# The keys


def plan(folder: Path, keys: str, kind: str = "text") -> Plan:
    sources = SOURCES + f"  new: {{kind: {kind}, repeat: free, {keys}}}\n"
    text = curriculum(stage("{new: 1}"), sources, "tokenizer: bytes\n")
    return plan_of(folder, text)


def meaning(folder: Path, keys: str, kind: str = "text") -> dict[str, Any]:
    return plan(folder, keys, kind).sources["new"].meaning


def test_what_decides_which_documents_come_is_part_of_the_meaning(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one", "code": "two", "origin": "x"}\n' * 50)
    held = "holdout: {share: 0.1, by: repository}"
    tried = [
        "files: a.jsonl",
        "files: a.jsonl, column: code",
        "files: a.jsonl, not_utf8: replace",
        f"files: a.jsonl, {held}",
        f"files: a.jsonl, {held.replace('y}', 'y, column: origin}')}",
    ]
    assert len({str(meaning(tmp_path, keys)) for keys in tried}) == len(tried)
    assert meaning(tmp_path, "files: a.jsonl, column: text") == meaning(tmp_path, tried[0])
    asked = "files: a.jsonl, prompt: text, response: code"
    pairs = [asked, f"{asked}, not_utf8: refuse", asked.replace("code", "origin")]
    assert len({str(meaning(tmp_path, keys, "pairs")) for keys in pairs}) == len(pairs)


def test_where_repositories_begin_is_part_of_the_meaning_that_asks_for_them(
    tmp_path: Path,
) -> None:
    for name in ("a", "b"):
        (tmp_path / f"r/{name}/.git").mkdir(parents=True)
        (tmp_path / f"r/{name}/x.py").write_text("pass\n" * 50)
    by = "files: ['r/**/*.py'], holdout: {share: 0.1, by: "
    first = [meaning(tmp_path, by + how) for how in ("repository}", "package}")]
    (tmp_path / "r/a/.git").rename(tmp_path / "r/.git")
    again = [meaning(tmp_path, by + how) for how in ("repository}", "package}")]
    assert first[0] != again[0] and first[1] == again[1]


@pytest.mark.parametrize(
    ("keys", "path", "what"),
    [
        ("files: a.txt, not_utf8: drop", "not_utf8", "not one of the choices"),
        ("files: a.txt, column: code", "column", "none of the files has columns"),
        (
            "files: a.jsonl, holdout: {share: 0.1, column: repo}",
            "holdout.column",
            "'column' names repositories",
        ),
        (
            "files: a.txt, holdout: {share: 0.1, by: repository}",
            "holdout.by",
            "the file 'a.txt' belongs to no repository",
        ),
        ("files: [a.txt, a.jsonl, none.txt]", "files", "no file matches 'none.txt'"),
        ("files: empty.txt", "files", "the text is empty"),
        ("files: broken.zip", "files", "cannot read .*broken.zip: File is not a zip file"),
        ("files: unreadable.txt", "files", "cannot read /proc/.*/mem: Input/output error"),
    ],
)
def test_refused(tmp_path: Path, keys: str, path: str, what: str) -> None:
    (tmp_path / "a.txt").write_text("words " * 500)
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n' * 50)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "broken.zip").write_text("no zip")
    (tmp_path / "unreadable.txt").symlink_to("/proc/self/mem")
    if "unreadable" in keys:  # a file of no length is read only among others
        keys = keys.replace("unreadable.txt", "[a.txt, unreadable.txt]")
    found = problem(plan, tmp_path, keys)
    assert found.path == f"sources.new.{path}" and found.line
    assert re.search(what, found.what)


def test_a_column_beside_columns_and_a_repository_beside_archives_fit(tmp_path: Path) -> None:
    files = [CorpusFile(tmp_path / n, n) for n in ("a.zip", "b.jsonl.zst", "c.tgz")]
    spec = TextSource.model_validate(
        {
            "kind": "text",
            "files": "*",
            "column": "code",
            "holdout": {"share": Decimal("0.1"), "by": "repository", "column": "origin"},
        }
    )
    assert list(spec.misfits(files)) == []
    found = list(spec.misfits([files[0], CorpusFile(tmp_path / "a.py", "a.py")]))
    assert [path for path, _, _ in found] == [("column",), ("holdout", "column"), ("holdout", "by")]


def test_pairs_are_rows(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    (tmp_path / "a.jsonl").write_text('{"p": "one", "r": "two"}\n' * 50)
    found = problems(plan, tmp_path, "files: [a.txt, a.jsonl], prompt: p, response: r", "pairs")
    assert [(p.path, p.what) for p in found] == [
        ("sources.new.files", "pairs are rows, and 'a.txt' has none, by its suffix")
    ]


def test_a_column_of_the_hub_needs_no_file(tmp_path: Path) -> None:
    sources = SOURCES + "  web: {kind: text, hub: a/b, column: c}\n"
    text = curriculum(stage("{web: 1}"), sources, "tokenizer: bytes\n")
    (tmp_path / "c.yaml").write_text(text)
    source = load_curriculum(tmp_path / "c.yaml").curriculum.sources["web"]
    assert isinstance(source, TextSource) and source.columns() == ("c",)
    assert source.data_set() == {"hub": "a/b", "config": None, "revision": None, "split": "train"}
