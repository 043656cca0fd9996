"""Copies are dropped before documents are split: within a text, and of texts declared before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ncamix.curation import split_documents
from ncamix.errors import UserError
from ncamix.plan import Plan
from ncamix.planning import make_plan
from ncamix.splits import SPLITS
from ncamix.text_compilation import prepare_text

Planner = Callable[..., Plan]


def prose(number: int, num_words: int = 120) -> list[str]:
    return [f"w{number * 7919 * (i + 1) % 1009}" for i in range(num_words)]


def edited(words: list[str], place: int) -> str:
    return " ".join([*words[:place], "edited", *words[place + 1 :]])


def write(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def curriculum(used: str = "{a: 1, b: 1}", **sources: str) -> str:
    lines = "".join(
        f"  {name}: {{kind: text, repeat: free, files: ['{name}/*.txt']{more}}}\n"
        for name, more in sources.items()
    )
    return (
        f"tokenizer: bytes\nsources:\n{lines}"
        f"stages:\n  - {{name: one, duration: 100%, mixture: {used}}}\n"
    )


def names(plan: Plan, source: str) -> list[str]:
    return [document.name for document, _ in split_documents(plan.sources[source])]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """a and b: each 10 documents of its own; b also has a copy and a near copy of one of a."""
    for i in range(10):
        write(tmp_path, {f"a/{i}.txt": " ".join(prose(i + 1))})
        write(tmp_path, {f"b/{i}.txt": " ".join(prose(i + 100))})
    write(tmp_path, {"b/copy.txt": " ".join(prose(3)), "b/near.txt": edited(prose(4), 60)})
    return tmp_path


@pytest.mark.parametrize(
    ("duplicates", "gone"),
    [("keep", set()), ("drop", {"copy.txt"}), ("near", {"copy.txt", "near.txt"})],
)
def test_copies_of_earlier_texts_are_dropped(
    texts: Path, plan_of: Planner, duplicates: str, gone: set[str]
) -> None:
    plan = plan_of(curriculum(a=", duplicates: keep", b=f", duplicates: {duplicates}"))
    assert len(names(plan, "a")) == 10
    assert {p.name for p in (texts / "b").iterdir()} - set(names(plan, "b")) == gone
    report: dict[str, Any] = {}
    list(split_documents(plan.sources["b"], report))
    assert report == {"exact_copies": len(gone & {"copy.txt"}), "near_copies": "near.txt" in gone}


def test_what_an_earlier_text_drops_counts_all_the_same(texts: Path, plan_of: Planner) -> None:
    write(texts, {"a/twin.txt": edited(prose(4), 20)})  # which a itself drops as near 3.txt
    plan = plan_of(curriculum(a=", duplicates: near", b=", duplicates: near"))
    assert "twin.txt" not in names(plan, "a")
    write(texts, {"b/late.txt": edited(prose(4), 20)})
    assert "late.txt" not in names(plan_of(curriculum(a="", b=", duplicates: drop")), "b")


def test_copies_within_a_text_are_dropped_unless_kept(texts: Path, plan_of: Planner) -> None:
    copy = (texts / "a/5.txt").read_text()
    write(texts, {"a/0copy.txt": copy, "a/zcopy.txt": copy})
    dropped = list(split_documents(plan_of(curriculum("{a: 1}", a="")).sources["a"]))
    assert len(dropped) == 10
    assert [d.name for d, _ in dropped if d.text == copy] == ["0copy.txt"]  # the first one stays
    body = curriculum("{a: 1}", a=", duplicates: keep, holdout: {share: 0.5}")
    kept = list(split_documents(plan_of(body).sources["a"]))
    assert len(kept) == 12
    assert len({split for d, split in kept if d.text == copy}) == 1  # never on both sides


def test_the_order_of_declaration_decides_and_not_the_stages(texts: Path, plan_of: Planner) -> None:
    both = plan_of(curriculum(a="", b="")).sources["b"]
    alone = plan_of(curriculum("{b: 1}", a="", b="")).sources["b"]
    assert alone.fingerprint == both.fingerprint and alone.text == both.text
    turned = plan_of(curriculum(b="", a=""))
    assert "copy.txt" in names(turned, "b") and "2.txt" not in names(turned, "a")


def test_which_documents_came_before_is_part_of_the_meaning(texts: Path, plan_of: Planner) -> None:
    def fingerprint(**sources: str) -> str:
        return plan_of(curriculum("{b: 1}", **sources)).sources["b"].fingerprint

    alone, after = fingerprint(b=""), fingerprint(a="", b="")
    assert fingerprint(b="", a="") == alone != after
    assert fingerprint(a=", duplicates: keep, holdout: {share: 0.1}", b="") == after
    keep = ", duplicates: keep"
    assert fingerprint(b=keep) == fingerprint(a="", b=keep)
    write(texts, {"a/new.txt": "another document"})
    assert fingerprint(b="") == alone and fingerprint(a="", b="") != after


def test_a_lone_text_means_what_it_meant(texts: Path, plan_of: Planner) -> None:
    meaning = plan_of(curriculum("{a: 1}", a="")).sources["a"].meaning
    assert set(meaning) == {
        "kind", "version", "holdout", "duplicates", "documents", "tokenizer", "sequence_length",
        "columns", "not_utf8", "packing"
    }  # fmt: skip


def test_the_same_text_in_another_guise_is_no_copy(texts: Path, plan_of: Planner) -> None:
    body = curriculum(a="", b=", transform: shuffle_tokens").replace("'b/", "'a/")
    plan = plan_of(body)
    assert names(plan, "a") == names(plan, "b") and plan.sources["b"].text is not None
    assert not plan.sources["b"].text.before and "before" not in plan.sources["b"].meaning


def test_a_text_whose_documents_others_hold_is_told(texts: Path, plan_of: Planner) -> None:
    write(texts, {"c/x.txt": " ".join(prose(1)), "c/y.txt": " ".join(prose(100))})
    plan = plan_of(curriculum("{c: 1}", a="", b="", c=""))
    with pytest.raises(UserError, match="all 2 documents of 'c' are copies of what '[ab]' and"):
        prepare_text(plan)


def test_a_tokenizer_is_trained_on_what_is_left(texts: Path, plan_of: Planner) -> None:
    def meaning(body: str) -> dict[str, Any]:
        text = plan_of(body.replace("bytes", "{bpe: 300, train_on: [b]}")).sources["b"].text
        assert text is not None
        (documents,) = text.tokenizer["train_on"]
        return documents

    assert "before" in meaning(curriculum(a="", b=""))
    assert "before" not in meaning(curriculum(b="", a=""))


def test_rows_of_the_hub_come_after_files_but_never_before(texts: Path, plan_of: Planner) -> None:
    rows = [{"text": " ".join(prose(number))} for number in (1, 500, 500, 100)]
    write(texts, {"rows/a.jsonl": "\n".join(map(json.dumps, rows))})
    hub = f"  web: {{kind: text, hub: '{texts}/rows', repeat: free}}\n"
    body = curriculum("{web: 1, b: 1}", a="", b="")
    plan = plan_of(body.replace("  b:", hub + "  b:"))
    assert names(plan, "web") == ["1", "3"]  # 100 is in b, which is declared later
    assert plan.sources["b"].text is not None
    assert [text.name for text in plan.sources["b"].text.before] == ["a"]


def test_no_near_copy_of_a_held_out_document_is_trained_on(
    tmp_path: Path, plan_of: Planner
) -> None:
    for i in range(60):
        for j in range(3):
            write(tmp_path, {f"a/{j}-{i}.txt": edited(prose(i + 1, 400), 90 * (j + 1))})
    plan = plan_of(curriculum("{a: 1}", a=", duplicates: near, holdout: {share: 0.5}"))
    split = {name: {d.name[2:] for d, s in split_documents(plan.sources["a"]) if s == name}
             for name in SPLITS}  # fmt: skip
    assert all(len(group) > 5 for group in split.values())
    assert sum(map(len, split.values())) == 60 == len(set.union(*split.values()))
    kept = plan_of(curriculum("{a: 1}", a=", duplicates: drop, holdout: {share: 0.5}"))
    sides = {(d.name[2:], s) for d, s in split_documents(kept.sources["a"])}
    assert len(sides) > 80  # without it, they were on both sides


def test_a_compiled_text_says_what_was_dropped(
    texts: Path, plan_of: Planner, own_cache: Path
) -> None:
    plan = prepare_text(plan_of(curriculum(a="", b=", duplicates: near")))
    info = json.loads((own_cache / plan.sources["b"].fingerprint / "source.json").read_text())
    assert info["report"] == {"exact_copies": 1, "near_copies": 1}
    assert info["num_documents"] == 10
    assert make_plan(plan.curriculum, plan.trainer).sources["b"].num_samples == info["num_samples"]


def test_files_of_an_earlier_text_must_be_there(texts: Path, plan_of: Planner) -> None:
    body = curriculum("{b: 1}", gone="", b="")
    with pytest.raises(UserError, match=r"sources\.gone\.files: no file matches"):
        plan_of(body)
    plan_of(body.replace("repeat: free, files: ['b", "duplicates: keep, repeat: free, files: ['b"))
