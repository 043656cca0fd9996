"""Prompts and responses: their keys, what is refused, and what determines them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from plan_files import SOURCES, curriculum, plan_of, problem, problems, stage

from ncamix.loading import load_curriculum
from ncamix.sources import PairsSource

PAIRS = "kind: pairs, files: ['pairs/*.jsonl'], prompt: question, response: answer"


def load(folder: Path, keys: str) -> Any:
    text = curriculum(stage("{hiss: 1}"), SOURCES + f"  new: {{{keys}}}\n", "tokenizer: bytes\n")
    (folder / "c.yaml").write_text(text)
    return load_curriculum(folder / "c.yaml").curriculum.sources["new"]


def test_defaults(tmp_path: Path) -> None:
    source = load(tmp_path, PAIRS)
    assert isinstance(source, PairsSource)
    assert source.template == "{prompt}\n{response}"
    assert (source.pack, source.too_long, source.repeat) == ("isolated", "refuse", 4)
    assert (source.finite, source.holdout, source.range_name()) == (True, None, "text")
    assert source.summary() == "pairs, pairs/*.jsonl"


def test_every_key_that_changes_samples_is_part_of_the_meaning(tmp_path: Path) -> None:
    base = load(tmp_path, PAIRS).meaning()
    for more in (
        'template: "Q: {prompt}\\nA: {response}\\n"',
        "pack: padded",
        "too_long: truncate",
        "holdout: {share: 0.1}",
        "transform: shuffle_tokens",
    ):
        changed = load(tmp_path, f"{PAIRS}, {more}").meaning()
        assert changed != base and set(base) <= set(changed)
    assert load(tmp_path, PAIRS.replace("answer", "reply")).meaning() != base
    assert load(tmp_path, f"{PAIRS}, repeat: free, loss_weight: 0.5").meaning() == base


def test_rows_of_the_hub(tmp_path: Path) -> None:
    source = load(
        tmp_path,
        "kind: pairs, hub: a/b, config: main, split: test, revision: v1, prompt: q, response: r",
    )
    hub = {"hub": "a/b", "config": "main", "revision": "v1", "split": "test"}
    assert source.data_set() == hub
    assert source.summary() == "pairs, a/b"


@pytest.mark.parametrize(
    ("keys", "path", "what"),
    [
        ("kind: pairs, files: [a], response: r", ".prompt", "this key is missing"),
        ("kind: pairs, files: [a], prompt: p", ".response", "this key is missing"),
        ("kind: pairs, files: [a], prompt: p, response: p", ".response", "both prompt and resp"),
        ("kind: pairs, prompt: p, response: r", "", "needs either `files` or `hub`"),
        (f"{PAIRS}, hub: a/b", "", "needs either `files` or `hub`"),
        (f"{PAIRS}, split: test", ".split", "'split' belongs to `hub`"),
        (f"{PAIRS}, column: text", ".column", "unknown key 'column'"),
        (f"{PAIRS}, pack: tight", ".pack", "not one of the choices"),
        (f"{PAIRS}, too_long: drop", ".too_long", "not one of the choices"),
        (f"{PAIRS}, template: 5", ".template", "a template is text"),
        (f'{PAIRS}, template: "Q: {{prompt}}"', ".template", "does not hold {response} once"),
        (
            f'{PAIRS}, template: "{{prompt}}{{prompt}}{{response}}"',
            ".template",
            "does not hold {prompt} once",
        ),
        (f'{PAIRS}, template: "{{prompt}} {{x}} {{response}}"', ".template", "holds '{x}'; only"),
        (f'{PAIRS}, template: "{{ {{prompt}} {{response}}"', ".template", "holds '{'; only"),
    ],
)
def test_refused(tmp_path: Path, keys: str, path: str, what: str) -> None:
    found = problem(load, tmp_path, keys)
    assert found.path == "sources.new" + path
    assert what in found.what and found.remedy and found.line == 9


def test_all_keys_of_the_hub_are_refused_beside_files(tmp_path: Path) -> None:
    found = problems(load, tmp_path, f"{PAIRS}, split: test, config: x, revision: y")
    assert [p.path.rpartition(".")[2] for p in found] == ["split", "config", "revision"]


def test_a_plan_estimates_the_size(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"q": "one and one?", "a": "two"}\n' * 400)
    pairs = "  asked: {kind: pairs, files: p.jsonl, prompt: q, response: a, repeat: free}\n"
    text = curriculum(stage("{asked: 1}"), SOURCES + pairs, "tokenizer: bytes\n")
    source = plan_of(tmp_path, text).sources["asked"]
    assert source.num_samples is None
    assert source.estimated_samples == (tmp_path / "p.jsonl").stat().st_size // 64
    (tmp_path / "p.jsonl").write_text('{"q": "two and one?", "a": "three"}\n' * 400)
    assert plan_of(tmp_path, text).sources["asked"].fingerprint != source.fingerprint
