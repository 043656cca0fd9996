"""Overlap with evaluation sets: counted as brute force counts, kept with its key, and refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_files import problem

from ncamix import overlap
from ncamix.curation import split_documents
from ncamix.errors import UserError
from ncamix.overlap import Evaluation, OverlapCounter, benchmark_documents
from ncamix.plan import Plan
from ncamix.planned_source import Benchmark
from ncamix.sources.corpus import CorpusFile
from ncamix.splits import HELD_OUT, split_of_group
from ncamix.text_compilation import compile_text, prepare_text

Planner = Callable[..., Plan]

CURRICULUM = """\
tokenizer: bytes
sources:
  words: {kind: text, files: ["corpus/*.txt"], holdout: {share: 0.4}, repeat: free}
stages:
  - {name: first, duration: 100%, mixture: {words: 1}}
"""
BENCHMARKS = "evaluate: {benchmarks: ['bench/*.jsonl', 'bench/*.txt']}\n"


def prose(number: int, num_words: int = 60) -> str:
    return " ".join(f"w{number}x{i}" for i in range(num_words))


# Two documents of the corpus below that are trained on.
ONE, TWO = [i for i in range(40) if split_of_group(prose(i), Fraction(2, 5)) == "train"][:2]


def runs(text: str) -> list[tuple[str, ...]]:
    words = re.findall("[0-9a-z]+", text.lower())
    return [tuple(words[i : i + 13]) for i in range(len(words) - 12)]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """40 documents that share nothing, and two benchmarks of them and of other words."""
    for folder in ("corpus", "bench"):
        (tmp_path / folder).mkdir()
    for i in range(40):
        (tmp_path / "corpus" / f"{i:02}.txt").write_text(prose(i))
    half = " ".join([*prose(1000).split()[:30], *prose(TWO).split()[:30]])
    lines = [
        {"question": prose(1001, 40), "choices": ["a", {"b": prose(ONE)}]},
        [half],
        "too short",
        7,
    ]
    (tmp_path / "bench" / "a.jsonl").write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    (tmp_path / "bench" / "b.txt").write_text(prose(1002))
    return tmp_path / "corpus"


def report_of(plan: Plan, own_cache: Path, source: str = "words") -> dict[str, Any]:
    (file,) = (own_cache / plan.sources[source].fingerprint).glob("overlap.*.json")
    return dict(json.loads(file.read_text()))


# Reports


@settings(max_examples=30)
@given(st.data())
def test_a_report_is_what_brute_force_counts(data: st.DataObject) -> None:
    words = st.lists(st.sampled_from(["p q r s", "t u v", "p q r s t u v w x y", "z"]), max_size=9)
    held = data.draw(st.lists(st.tuples(st.integers(0, 1), words), min_size=1, max_size=6))
    trained = [" ".join(text) for text in data.draw(st.lists(words, max_size=6))]
    documents = [(number, f"e{i}", " ".join(text)) for i, (number, text) in enumerate(held)]
    evaluation = object.__new__(Evaluation)
    evaluation.names = ["one", "two"]
    evaluation._documents = lambda: iter(documents)  # type: ignore[method-assign]
    counter = OverlapCounter(evaluation)
    for i, text in enumerate(trained):
        counter.add(f"t{i}", text)
    seen = {run for text in trained for run in runs(text)}
    for number, (name, found) in enumerate(counter.report().items()):
        mine = {n: runs(text) for k, n, text in documents if k == number and runs(text)}
        shared = {n: sum(run in seen for run in own) for n, own in mine.items()}
        assert name == evaluation.names[number]
        assert found["documents"] == len(mine)
        assert found["documents_met"] == sum(count > 0 for count in shared.values())
        assert found["mostly_met"] == sum(2 * shared[n] >= len(own) for n, own in mine.items())
        assert found["grams"] == sum(map(len, mine.values()))
        assert found["grams_met"] == sum(shared.values())
        own = {run for each in mine.values() for run in each}
        assert found["training_documents"] == sum(bool(own & set(runs(t))) for t in trained)
        shares = sorted((shared[n] / len(own) for n, own in mine.items()), reverse=True)
        worst = [each["share"] for each in found["worst"]]
        assert worst == [share for share in shares[:5] if share]
        for each in found["worst"]:
            text = trained[int(each["training_document"][1:])]
            assert set(runs(text)) & set(mine[each["document"]])


def test_what_is_shared_is_reported(corpus: Path, plan_of: Planner, own_cache: Path) -> None:
    plan = prepare_text(plan_of(CURRICULUM + BENCHMARKS))
    found = report_of(plan, own_cache)
    assert list(found) == [
        "words/validation", "words/test", "benchmarks/bench/*.jsonl", "benchmarks/bench/*.txt"
    ]  # fmt: skip
    for split in HELD_OUT:
        assert found[f"words/{split}"]["documents"] > 3
        assert found[f"words/{split}"]["documents_met"] == 0
    lines, text = (found[f"benchmarks/bench/*.{end}"] for end in ("jsonl", "txt"))
    assert (lines["documents"], lines["short"], text["documents"]) == (2, 2, 1)
    met = {"a.jsonl:1": f"{ONE:02}.txt", "a.jsonl:3": f"{TWO:02}.txt"}
    assert {w["document"]: w["training_document"] for w in lines["worst"]} == met
    assert lines["documents_met"] == lines["training_documents"] == 2
    assert (lines["grams"], lines["grams_met"]) == (101 - 12 + 48, 48 + 18)
    assert lines["share"] == lines["grams_met"] / lines["grams"] and text["grams_met"] == 0
    info = compile_text(plan, plan.sources["words"])
    assert info["report"]["overlap"] == found
    (remark,) = [text for text in plan.warnings if "13 words" in text]
    assert "1 of the 2 documents of benchmarks/bench/*.jsonl: of a.jsonl:1, " in remark
    assert f"most in {ONE:02}.txt" in remark


def test_other_sources_are_compared_too(corpus: Path, plan_of: Planner, own_cache: Path) -> None:
    plan = plan_of(CURRICULUM)
    held = next(d for d, s in split_documents(plan.sources["words"]) if s == "test")
    (corpus.parent / "more.txt").write_text(f"{held.text} and {prose(77, 300)}")
    more = "  more: {kind: text, files: [more.txt], repeat: free}\nstages:"
    body = CURRICULUM.replace("stages:", more).replace("{words: 1}", "{words: 1, more: 1}")
    plan = prepare_text(plan_of(body))
    found = report_of(plan, own_cache, "more")
    assert found["words/test"]["worst"] == [
        {"document": held.name, "share": 1.0, "training_document": "more.txt"}
    ]
    assert found["words/validation"]["grams_met"] == 0
    assert report_of(plan, own_cache, "words")["words/test"]["grams_met"] == 0


def test_a_report_follows_the_evaluation_sets(
    corpus: Path, plan_of: Planner, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare_text(plan_of(CURRICULUM + BENCHMARKS))
    source = first.sources["words"]
    entry = own_cache / source.fingerprint
    (old,) = entry.glob("overlap.*.json")
    (corpus.parent / "bench" / "b.txt").write_text(prose(ONE))
    changed = plan_of(CURRICULUM + BENCHMARKS)
    assert changed.sources["words"].fingerprint == source.fingerprint
    assert changed.fingerprint == first.fingerprint  # it decides nothing of what is trained on
    found = compile_text(changed, changed.sources["words"])["report"]["overlap"]
    assert found["benchmarks/bench/*.txt"]["documents_met"] == 1
    assert len(list(entry.glob("overlap.*.json"))) == 2

    def never(*_: object) -> Any:
        raise AssertionError("read again")

    monkeypatch.setattr(overlap, "split_documents", never)
    again = compile_text(changed, changed.sources["words"])["report"]["overlap"]
    assert again == found
    assert compile_text(first, source)["report"]["overlap"] == json.loads(old.read_text())


def test_counted_while_it_is_tokenized_or_read_again_for_it(
    corpus: Path, plan_of: Planner, own_cache: Path
) -> None:
    plan = prepare_text(plan_of(CURRICULUM + BENCHMARKS))
    counted = report_of(plan, own_cache)
    for file in own_cache.glob("*/overlap.*.json"):
        file.unlink()
    compile_text(plan, plan.sources["words"])
    assert report_of(plan, own_cache) == counted


def test_what_is_shared_is_refused_where_asked(
    corpus: Path, plan_of: Planner, own_cache: Path
) -> None:
    body = CURRICULUM.replace("repeat", "overlap: refuse, repeat")
    found = problem(prepare_text, plan_of(body + BENCHMARKS))
    assert found.path == "sources.words.overlap" and found.value == "refuse"
    assert "benchmarks/bench/*.jsonl: 2 of 2 documents" in found.what
    assert "a.jsonl:1 (" in found.what and f"in {ONE:02}.txt" in found.what
    assert "overlap: report" in found.remedy
    assert not list(own_cache.glob("*/index.json"))  # told before anything is tokenized
    prepare_text(plan_of(CURRICULUM + BENCHMARKS))
    prepare_text(plan_of(body))  # shares nothing with what it holds out
    found = problem(prepare_text, plan_of(body + BENCHMARKS))  # from the cache, too
    assert "a.jsonl:1 (" in found.what


def test_nobody_looks_where_it_is_ignored(corpus: Path, plan_of: Planner, own_cache: Path) -> None:
    body = CURRICULUM.replace("repeat", "overlap: ignore, repeat") + BENCHMARKS
    plan = prepare_text(plan_of(body))
    assert not list(own_cache.glob("*/overlap.*"))
    assert compile_text(plan, plan.sources["words"])["report"]["overlap"] == {}
    assert plan_of(CURRICULUM).sources["words"].fingerprint == plan.sources["words"].fingerprint


def test_rows_of_the_hub_are_compared_as_far_as_they_are_read(
    corpus: Path, plan_of: Planner, own_cache: Path, tmp_path: Path
) -> None:
    rows = [{"text": prose(5000 + i) if i % 50 else prose(ONE)} for i in range(4000)]
    (tmp_path / "rows").mkdir()  # a folder is a data set, too
    (tmp_path / "rows/a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    hub = (
        f"  web: {{kind: text, hub: '{tmp_path}/rows', holdout: {{share: 0.1}}, duplicates: keep}}"
    )
    hub += "\nstages:"
    body = CURRICULUM.replace("stages:", hub).replace("{words: 1}", "{web: 1}")
    plan = prepare_text(plan_of(body + BENCHMARKS))
    info = compile_text(plan, plan.sources["web"])
    found = info["report"]["overlap"]
    assert list(found) == ["benchmarks/bench/*.jsonl", "benchmarks/bench/*.txt"]
    assert 100 < info["num_documents"] <= 4000
    wanted = sum(d.text == prose(ONE) and s == "train" for d, s in list(
        split_documents(plan.sources["web"]))[: info["num_documents"]])  # fmt: skip
    assert found["benchmarks/bench/*.jsonl"]["training_documents"] == wanted > 1


# Benchmarks


def lines(file: Path, text: str) -> list[tuple[str, str]]:
    file.write_text(text)
    return list(benchmark_documents(Benchmark("b", (CorpusFile(file, "x/" + file.name),), "")))


def test_the_text_of_a_json_line_is_all_its_strings(tmp_path: Path) -> None:
    text = '{"q": "one\\ntwo", "n": 3, "more": [["three"], {"k": "four"}, null, true]}\n\n"five"'
    assert lines(tmp_path / "a.jsonl", text) == [
        ("x/a.jsonl:1", "one\ntwo\nthree\nfour"),
        ("x/a.jsonl:3", "five"),
    ]
    assert lines(tmp_path / "a.ndjson", '"\\ud800 ok"') == [("x/a.ndjson:1", "? ok")]
    assert lines(tmp_path / "a.txt", '{"q": "one"}') == [("x/a.txt", '{"q": "one"}')]


def test_a_line_that_is_not_json_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"line 2 of .*a\.jsonl is not JSON"):
        lines(tmp_path / "a.jsonl", '{"q": "one"}\n{"q": \n')
    with pytest.raises(UserError, match=r"line 1 of .*a\.jsonl is not JSON"):
        lines(tmp_path / "a.jsonl", "[" * 100_000)


def test_a_benchmark_that_is_not_there_is_told_by_the_plan(corpus: Path, plan_of: Planner) -> None:
    with pytest.raises(UserError, match=r"evaluate\.benchmarks.*no file matches 'gone/\*'"):
        plan_of(CURRICULUM + "evaluate: {benchmarks: ['bench/*.txt', 'gone/*']}\n")
    (found,) = plan_of(CURRICULUM + "evaluate: {benchmarks: bench/b.txt}\n").benchmarks
    assert found.name == "bench/b.txt"
    assert found.files == (CorpusFile(corpus.parent / "bench/b.txt", "b.txt"),)
