"""What is planned but not trained yet: refused in one place, all of it at once, and located."""

from __future__ import annotations

from pathlib import Path

import pytest
from plan_files import SOURCES, curriculum, plan_of, problems, stage

from ncamix.limits import refuse_untrained
from ncamix.plan import Plan

BYTES = "tokenizer: bytes\n"


def text_plan(folder: Path, more: str) -> Plan:
    (folder / "a.txt").write_text("words " * 20_000)
    sources = SOURCES + f"  code: {{kind: text, files: [a.txt]{more}}}\n"
    return plan_of(folder, curriculum(stage("{code: 1, hiss: 1}"), sources, BYTES))


@pytest.mark.parametrize(
    ("more", "path", "value"),
    [
        (", loss_weight: 2", "loss_weight", "2"),
        (", loss_weight: 0", "loss_weight", "0"),
    ],
)
def test_keys_of_text(tmp_path: Path, more: str, path: str, value: str) -> None:
    (found,) = problems(refuse_untrained, text_plan(tmp_path, more))
    assert (found.path, found.value) == (f"sources.code.{path}", value)
    assert "cannot train or compile it yet" in found.what and found.remedy and found.line == 9


def test_all_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    sources = SOURCES.replace("symbols: 100", "symbols: 100, loss_weight: 2")
    text = "  code: {kind: text, files: [a.txt], loss_weight: 3}\n"
    (tmp_path / "a.txt").write_text("words " * 20_000)
    plan = plan_of(tmp_path, curriculum(stage("{code: 1, hiss: 1}"), sources + text, BYTES))
    found = problems(refuse_untrained, plan)
    assert [p.path for p in found] == [
        "sources.hiss.loss_weight",
        "sources.code.loss_weight",
    ]


def test_a_source_is_refused_once_however_many_lengths_it_has(tmp_path: Path) -> None:
    sources = SOURCES.replace("symbols: 100", "symbols: 100, loss_weight: 2")
    stages = stage("{hiss: 1}", "50%") + stage("{hiss: 1}", name="b", more=", sequence_length: 32")
    plan = plan_of(tmp_path, curriculum(stages, sources))
    assert len(plan.sources) == 2
    assert len(problems(refuse_untrained, plan)) == 1


def test_what_is_trained_passes(tmp_path: Path) -> None:
    more = ", attention: document, duplicates: keep, loss_weight: 1.0, max_share: 100%"
    refuse_untrained(text_plan(tmp_path, more + ", transform: shuffle_tokens"))
    unused = SOURCES + "  more: {kind: mds, local: nowhere}\n"
    refuse_untrained(plan_of(tmp_path, curriculum(stage("{hiss: 1}"), unused, BYTES)))
