"""A study's folder read back: states of runs, figures, curves; what is damaged or missing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from finished_studies import STUDY, Figures, write_study
from plan_files import problem

from ncamix.findings import Documents
from ncamix.study_record import read_study
from ncamix.study_runs import StudyRun

SHORT = STUDY.replace("seeds: [1, 2, 3, 4, 5]", "seeds: [1, 2, 3]")


def test_what_runs_came_to_is_read_from_their_folders(tmp_path: Path) -> None:
    home = write_study(tmp_path, SHORT)
    record = read_study(home)
    assert record.metric == "bits_per_byte/code" and record.seeds == (1, 2, 3)
    assert record.compare is not None and record.compare.other == "scratch_natural"
    for arm, runs in record.finals.items():
        assert sorted(runs) == [1, 2, 3], arm
        for seed, run in runs.items():
            told = json.loads((home / run.run.folder / "test.json").read_text())["sources"]["code"]
            assert run.state == "finished" and run.result is not None
            assert run.result.tested["code"]["bits_per_byte"] == told["bits_per_byte"]
            assert "documents" not in run.result.tested["code"]
            documents = run.result.documents
            assert isinstance(documents, Documents)
            bits = documents.nats.sum() / documents.units.sum() / math.log(2)
            assert bits == pytest.approx(told["bits_per_byte"]), (arm, seed)
    tuned = [run for run in record.runs if run.run.tuning]
    assert len(tuned) == 3 * len(record.arms) and all(run.result is None for run in tuned)
    assert all(run.value is not None and run.value < 3 for run in tuned)
    assert record.arms["up"].chosen == "peak=1x"


def test_tokens_are_counted_by_clock(tmp_path: Path) -> None:
    record = read_study(write_study(tmp_path, SHORT))
    for name, arm in record.arms.items():
        for result in record.shown(name).values():
            assert result.num_tokens == arm.num_tokens
            assert result.natural_tokens == arm.natural_tokens, "as planned, counted in the log"
            assert result.curve.tokens[-1] == arm.num_tokens
            assert result.curve.natural[-1] == arm.natural_tokens
            assert (np.diff(result.curve.natural) >= 0).all()
    assert record.arms["up"].natural_tokens < record.arms["up"].num_tokens
    curve = record.shown("up")[1].curve
    automata = record.arms["up"].num_tokens - record.arms["up"].natural_tokens
    assert (curve.natural == np.maximum(0, curve.tokens - automata)).all()
    boundary = curve.tokens == automata
    assert boundary.sum() == 2, "the end of one stage, and the next one's beginning"


def test_states_of_an_unfinished_study(tmp_path: Path) -> None:
    def state(run: StudyRun) -> str:
        if run.arm == "down" and not run.tuning:
            return ("failed", "diverged", "missing")[run.seed - 1]
        return "begun" if run.seed == 3 else "finished"

    record = read_study(write_study(tmp_path, SHORT, state=state))
    down = record.finals["down"]
    assert [down[seed].state for seed in (1, 2, 3)] == ["failed", "diverged", "missing"]
    assert down[1].why == "no room on the disk"
    assert down[2].why == "the loss is not finite in batch 7"
    assert down[1].result is None or not len(down[1].result.curve.values)
    assert record.finals["up"][3].state == "begun"
    assert list(record.shown("up")) == [1, 2], "an unfinished run is not among finished ones"
    half = record.finals["up"][3].result
    assert half is not None and half.num_tokens < record.arms["up"].num_tokens
    assert half.tested == {} and half.documents is None


def test_a_study_that_has_not_begun(tmp_path: Path) -> None:
    record = read_study(write_study(tmp_path, SHORT, state=lambda run: "missing"))
    assert all(record.shown(arm) == {} for arm in record.arms)
    assert all(not arm.plan for arm in record.arms.values())


def test_arms_that_plan_alike_share_their_runs(tmp_path: Path) -> None:
    twice = SHORT.replace("  up: {}\n", "  up: {}\n  again: {stages.automata.duration: 20%}\n")
    record = read_study(write_study(tmp_path, twice))
    assert record.arms["again"].same_as == "up"
    assert record.finals["again"][1].path == record.finals["up"][1].path


def test_without_a_comparison_the_first_text_is_shown(tmp_path: Path) -> None:
    lines = SHORT.splitlines(True)
    silent = "".join(line for line in lines if not line.startswith(("compare", "tune")))
    record = read_study(write_study(tmp_path, silent))
    assert record.compare is None and record.metric == "bits_per_byte/code"


@pytest.mark.parametrize("damage", ["{", "[]", '{"seeds": [1]}'])
def test_a_damaged_record_is_told(tmp_path: Path, damage: str) -> None:
    home = write_study(tmp_path, SHORT, figures=Figures(documents=0))
    (home / "study.json").write_text(damage)
    found = problem(read_study, home)
    assert found.file == str(home / "study.json") and "ncamix study" in found.remedy
