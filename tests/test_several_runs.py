"""Several runs read as a study: which are of one arm, what arms are called, their commands."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from finished_studies import STUDY, write_study
from plan_files import problem

from ncamix.several_runs import read_runs
from ncamix.study_results import results_of

SHORT = STUDY.replace("seeds: [1, 2, 3, 4, 5]", "seeds: [1, 2, 3]")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return write_study(tmp_path, SHORT)


def change(folder: Path, **facts: Any) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(plan | facts))


def test_runs_that_plan_alike_but_for_seeds_are_one_arm(home: Path) -> None:
    folders = [home / arm / str(seed) for seed in (1, 2, 3) for arm in ("up", "even")]
    record = read_runs(folders)
    assert list(record.arms) == ["up", "even"], "by their folders: curricula have one name"
    assert {arm: sorted(runs) for arm, runs in record.finals.items()} == {
        "up": [1, 2, 3],
        "even": [1, 2, 3],
    }
    assert record.compare is None and record.metric == "bits_per_byte/code"
    arm = record.arms["up"]
    assert arm.num_tokens == sum(arm.tokens.values())
    assert arm.natural_tokens == arm.tokens["code"]
    for summary in results_of(record).findings.arms:
        assert summary.interval is not None and len(summary.values) == 3


def test_a_curriculum_names_its_arm_where_no_other_has_its_name(home: Path) -> None:
    change(home / "even/1", name="levelled")
    record = read_runs([home / "up/1", home / "up/2", home / "even/1"])
    assert list(record.arms) == ["bands", "levelled"]
    assert record.seeds_of("levelled") == (1,), "no seed is missing that was never declared"


def test_what_runs_do_not_share_makes_other_arms(home: Path) -> None:
    plan = json.loads((home / "up/2/plan.json").read_text())
    change(home / "up/2", trainer=plan["trainer"] | {"precision": "bf16"})
    assert len(read_runs([home / "up/1", home / "up/2"]).arms) == 2
    change(home / "up/2", trainer=plan["trainer"] | {"file": "elsewhere.yaml"})
    assert len(read_runs([home / "up/1", home / "up/2"]).arms) == 1, "a place changes nothing"


def test_a_seed_that_comes_twice_counts_once(home: Path) -> None:
    change(home / "up/2", seeds=dict.fromkeys(("init", "order", "rules"), 1))
    record = read_runs([home / "up/1", home / "up/2"])
    assert list(record.finals["bands"]) == [1]
    assert any(f"{home / 'up/2'} is left out" in remark for remark in record.remarks)


def test_several_seeds_of_a_run_get_a_number(home: Path) -> None:
    change(home / "up/2", seeds={"init": 1, "order": 2, "rules": 3})
    record = read_runs([home / "up/1", home / "up/2"])
    assert list(record.finals["bands"]) == [1, 2]
    assert "2: init 1, order 2, rules 3" in record.remarks[0]


def test_the_command_says_what_was_laid_over(home: Path) -> None:
    folder = home / "up/1"
    text = (
        "# composed of bands.yaml\n# --set stages.code.mixture={code: 1}\nncamix: 1\n# --set no\n"
    )
    (folder / "curriculum.yaml").write_text(text)
    plan = json.loads((folder / "plan.json").read_text())
    (run,) = read_runs([folder]).runs
    assert shlex.split(run.command) == [
        *("ncamix", "run", plan["curriculum_file"], "--trainer", plan["trainer"]["file"]),
        *("--set", "stages.code.mixture={code: 1}", "--out", str(folder)),
    ]


def test_what_is_no_run_is_told(home: Path) -> None:
    assert "not the folder of a run" in problem(read_runs, [home / "up/1", home]).what
    (home / "up/2/plan.json").write_text("{}")
    assert "damaged" in problem(read_runs, [home / "up/2"]).what
