"""What is planned but not trained yet: refused in one place, all of it at once, and located."""

from __future__ import annotations

from pathlib import Path

from plan_files import SOURCES, curriculum, plan_of, problems, stage

from ncamix.limits import refuse_untrained
from ncamix.plan import Plan

BYTES = "tokenizer: bytes\n"


def text_plan(folder: Path, more: str) -> Plan:
    (folder / "a.txt").write_text("words " * 20_000)
    sources = SOURCES + f"  code: {{kind: text, files: [a.txt]{more}}}\n"
    return plan_of(folder, curriculum(stage("{code: 1, hiss: 1}"), sources, BYTES))


def test_samples_that_exist_already_are_not_transformed(tmp_path: Path) -> None:
    sources = SOURCES + "  new: {kind: mds, remote: s3://b/a, transform: shuffle_tokens}\n"
    plan = plan_of(tmp_path, curriculum(stage("{new: 1, hiss: 1}"), sources, BYTES))
    (found,) = problems(refuse_untrained, plan)
    assert found.path == "sources.new.transform" and "that exist already" in found.what


def test_what_is_trained_passes(tmp_path: Path) -> None:
    more = ", attention: document, duplicates: keep, loss_weight: 0.5, max_share: 100%"
    refuse_untrained(text_plan(tmp_path, more + ", transform: shuffle_tokens"))
    unused = SOURCES + "  more: {kind: mds, local: nowhere}\n"
    refuse_untrained(plan_of(tmp_path, curriculum(stage("{hiss: 1}"), unused, BYTES)))
