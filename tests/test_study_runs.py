"""The runs of a study: their states by their folders, their commands, which point is chosen."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

from ncamix.run_folder import DIVERGED
from ncamix.study_runs import (
    FAILED,
    StudyRun,
    best_point,
    command,
    final_value,
    from_json,
    shared_tokens,
    state_of,
)

RUN = StudyRun(
    "up",
    3,
    "peak=2x",
    "up/3",
    ("trainer.budget=1Mtok", "sources.rich={kind: nca, band: {gzip: [0.5, 1]}}", "seed=3"),
    "abc",
    (("warm", 10), ("main", 90)),
    (100, 900),
    ("begun",),
)


def write(file: Path, facts: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(facts if isinstance(facts, str) else json.dumps(facts))


def test_a_run_comes_back_from_json() -> None:
    assert from_json(json.loads(json.dumps(RUN.as_json()))) == RUN
    assert RUN.num_tokens == 1000
    assert RUN.name == "up, seed 3"


def test_its_command_is_a_line_for_a_shell() -> None:
    words = shlex.split(command(RUN, "base.yaml", "cpu", "runs/x/up/3"))
    assert words[:5] == ["ncamix", "run", "base.yaml", "--trainer", "cpu"]
    assert words[5:7] == ["--set", "trainer.budget=1Mtok"] and words[-2:] == [
        "--out",
        "runs/x/up/3",
    ]
    assert "sources.rich={kind: nca, band: {gzip: [0.5, 1]}}" in words


def test_the_state_of_a_run_is_that_of_its_own_plan(tmp_path: Path) -> None:
    folder, own, other = tmp_path / "up/3", {"fingerprint": "abc"}, {"fingerprint": "another"}
    assert state_of(RUN, tmp_path) == "missing"
    write(folder / "plan.json", other)
    assert state_of(RUN, tmp_path) == "missing"
    write(folder / "plan.json", own)
    assert state_of(RUN, tmp_path) == "begun"
    write(folder / FAILED, other)
    assert state_of(RUN, tmp_path) == "begun"
    write(folder / FAILED, own)
    assert state_of(RUN, tmp_path) == "failed"
    write(folder / DIVERGED, own)
    assert state_of(RUN, tmp_path) == "diverged"
    write(folder / "summary.json", "{torn")
    assert state_of(RUN, tmp_path) == "diverged"
    write(folder / "summary.json", {"plan_fingerprint": "abc"})
    assert state_of(RUN, tmp_path) == "finished"


def test_the_final_value_is_that_of_the_last_stage(tmp_path: Path) -> None:
    assert final_value(tmp_path, "loss", "code") == math.inf
    stages = [{"evaluation": {"code": {"after": {"loss": x}}}} for x in (3.0, 2.0)]
    write(tmp_path / "summary.json", {"stages": stages})
    assert final_value(tmp_path, "loss", "code") == 2.0
    assert final_value(tmp_path, "bits_per_byte", "code") == math.inf


def test_the_best_point_has_the_lowest_mean_and_is_no_diverged_one() -> None:
    assert best_point({"a": [2.0, 4.0], "b": [2.5, 3.0]}) == "b"
    assert best_point({"a": [2.0, math.inf], "b": [9.0, 9.0]}) == "b"
    assert best_point({"a": [2.0], "b": [2.0]}) == "a"
    assert best_point({"a": [math.inf]}) is None
    assert best_point({}) is None


def test_what_begins_alike_is_counted_once() -> None:
    def run(name: str, *keys: str) -> StudyRun:
        stages = tuple((str(n), 1) for n in range(len(keys) + 1))
        return StudyRun(name, 1, None, name, (), name, stages, (10,) * len(stages), keys)

    assert shared_tokens([run("a", "x"), run("b", "x"), run("c", "y")]) == (60, 50)
    assert shared_tokens([run("a", "x", "y"), run("b", "x", "y"), run("b", "x", "y")]) == (60, 40)
    assert shared_tokens([]) == (0, 0)
