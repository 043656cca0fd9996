"""Runs to begin with: found, held against this one, and refused where they do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from other_runs import finish
from plan_files import SOURCES, TRAINER, curriculum, plan_of, problem, stage

from ncamix.errors import Problem
from ncamix.parting import find_parting
from ncamix.plan import Plan
from ncamix.run_folder import WEIGHTS

BYTES = "tokenizer: bytes\n"
TWO = stage("{hiss: 1}", "50%") + stage("{rich: 1}", name="two")


def first_run(folder: Path, text: str = "", trainer: str = TRAINER, done: str = "two") -> Plan:
    """Another run, in runs/first, that has finished a stage."""
    plan = plan_of(folder, text or curriculum(TWO), trainer)
    finish(folder / "runs/first", plan, done)
    return plan


def begun(
    stages: str = "{hiss: 1, rich: 1}", more: str = "", rest: str = "", name: str = ""
) -> str:
    """A curriculum that begins with that run."""
    enter = f", enter: {{from: runs/first/{name or 'two'}{more}}}"
    return curriculum(stage(stages, name="one", more=enter), rest=rest)


def refused(folder: Path, text: str, trainer: str = TRAINER) -> Problem:
    found = problem(plan_of, folder, text, trainer)
    assert found.path == "stages.one.enter.from" and found.line
    return found


def test_the_same_vocabulary_is_taken_whole(tmp_path: Path) -> None:
    rows = first_run(tmp_path).vocabulary.rows
    (found,) = plan_of(tmp_path, begun()).stages
    assert found.origin is not None and found.origin.rows == ((0, 0, rows),)
    assert found.origin.file == tmp_path / "runs/first/checkpoints/1-two" / WEIGHTS
    assert found.origin.told == (f"rows 0 to {rows - 1:,}",)


def test_rows_of_another_vocabulary_by_name_and_text_by_position(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words " * 20_000)
    sources = SOURCES + "  code: {kind: text, files: [a.txt]}\n"
    both = stage("{hiss: 1, binary: 1, code: 1}", "50%") + stage("{rich: 1}", name="two")
    there = first_run(tmp_path, curriculum(both, sources, BYTES)).vocabulary
    here = plan_of(tmp_path, begun("{hiss: 1, simple: 1}"))
    (found,) = here.stages
    assert found.origin is not None
    ranges = here.vocabulary.ranges
    assert set(found.origin.rows) == {
        (ranges[name][0], there.ranges[name][0], ranges[name][1]) for name in ranges
    }
    text = begun("{code: 1, hiss: 1}", rest="tokenizer: {bpe: 300, train_on: [code]}\n")
    more = plan_of(
        tmp_path, text.replace("stages:", "  code: {kind: text, files: [a.txt]}\nstages:")
    )
    assert more.stages[0].origin is not None
    assert (0, 0, 257) in more.stages[0].origin.rows, "the text that both have"
    assert any("another tokenizer" in remark for remark in more.warnings)
    new = more.vocabulary.rows - 257 - 100
    assert more.stages[0].origin.told[-1] == f"{new:,} rows as in a fresh model"


def test_rows_do_not_matter_where_all_are_drawn_anew(tmp_path: Path) -> None:
    other = curriculum(TWO, rest="vocabulary: {layout: overlay}\n")
    first_run(tmp_path, other)
    assert "is overlay, this one's disjoint" in refused(tmp_path, begun()).what
    (found,) = plan_of(tmp_path, begun(more=", reinitialize: embeddings")).stages
    assert found.origin is not None and found.origin.rows == found.origin.told == ()
    refused(tmp_path, begun(more=", reinitialize: embeddings, spare: [noise]"))
    refused(tmp_path, begun(more=", reinitialize: head"))


def test_weights_are_known_by_their_content(tmp_path: Path) -> None:
    plan = first_run(tmp_path)
    here = plan_of(tmp_path, begun())
    shutil.copytree(tmp_path / "runs/first", tmp_path / "elsewhere")
    moved = plan_of(tmp_path, begun().replace("runs/first", "elsewhere"))
    assert moved.fingerprint == here.fingerprint and find_parting((moved, here)) is None
    finish(tmp_path / "runs/first", plan, "two", value=2.0)
    other = plan_of(tmp_path, begun())
    assert other.fingerprint != here.fingerprint
    parting = find_parting((other, here))
    assert parting is not None and "another run to start from" in parting.why


def test_what_is_missing(tmp_path: Path) -> None:
    found = refused(tmp_path, begun())
    assert "no run in" in found.what and "relative to" in found.remedy
    first_run(tmp_path)
    assert "it has one, two" in refused(tmp_path, begun(name="three")).remedy
    found = refused(tmp_path, begun(name="one"))
    assert "has not finished its stage 'one'" in found.what and "ncamix run" in found.remedy
    whole = begun().replace("runs/first/two", "runs/first")
    assert refused(tmp_path, whole).remedy == "write RUN/STAGE, of one, two"
    (tmp_path / "runs/first/plan.json").write_text('{"stages": 1}')
    assert "damaged" in refused(tmp_path, begun()).what


def test_a_stage_that_was_lengthened_is_finished_at_its_new_end(tmp_path: Path) -> None:
    """Until then its weights are those of its end before."""
    first = first_run(tmp_path)
    home = tmp_path / "runs/first/checkpoints/1-two"
    (home / "ba000002.pt").touch()
    assert "has not finished its stage 'two'" in refused(tmp_path, begun()).what
    decided = {"two": {"num_batches": 2}}
    (tmp_path / "runs/first/decisions.json").write_text(json.dumps(decided))
    plan_of(tmp_path, begun())
    (tmp_path / "runs/first/decisions.json").unlink()
    (home / f"ba{first.stages[1].num_batches:06}").mkdir()
    plan_of(tmp_path, begun())


@pytest.mark.parametrize("damage", [b"", b"\xff" * 9, b"\x02" + bytes(7) + b"[]"])
def test_what_is_damaged(tmp_path: Path, damage: bytes) -> None:
    first_run(tmp_path)
    (tmp_path / "runs/first/checkpoints/1-two" / WEIGHTS).write_bytes(damage)
    assert "no safetensors file" in refused(tmp_path, begun()).what


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("layers: 2, heads: 2, width: 8", "layers 1 there, 2 here"),
        ("layers: 1, heads: 4, width: 8", "heads 2 there, 4 here, kv_heads 2 there, 4 here"),
        ("layers: 1, heads: 2, width: 8, mlp_width: 16", "mlp_width 32 there, 16 here"),
        ("layers: 1, heads: 2, width: 8, tie_embeddings: true", "tie_embeddings False there"),
    ],
)
def test_other_models(tmp_path: Path, key: str, words: str) -> None:
    first_run(tmp_path)
    found = refused(tmp_path, begun(), TRAINER.replace("layers: 1, heads: 2, width: 8", key))
    assert words in found.what and "trainer that the run was trained with" in found.remedy


def test_sizes_written_out_are_the_same_model(tmp_path: Path) -> None:
    first_run(tmp_path)
    same = TRAINER.replace("width: 8", "width: 8, mlp_width: 32, kv_heads: 2")
    assert plan_of(tmp_path, begun(), same).stages[0].origin is not None


def test_fewer_parameters_than_the_plan_says(tmp_path: Path) -> None:
    first_run(tmp_path)
    known = json.loads((tmp_path / "runs/first/plan.json").read_text())
    known["vocabulary"]["rows"] += 1
    (tmp_path / "runs/first/plan.json").write_text(json.dumps(known))
    assert "parameters, and this trainer's model has" in refused(tmp_path, begun()).what


def test_the_state_of_an_optimizer_does_not_come_along(tmp_path: Path) -> None:
    first_run(tmp_path)
    found = problem(plan_of, tmp_path, begun(more=", optimizer_state: keep"))
    assert found.path == "stages.one.enter.optimizer_state"
    assert "is not read" in found.what and "fresh" in found.remedy
