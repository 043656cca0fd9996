"""The results of a study: values of the test split alone, verdicts on planted effects, words."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished_studies import STUDY, Figures, always_finished, write_study

from ncamix.statistics import mean_interval, paired_test
from ncamix.study_edits import declared_in
from ncamix.study_files import COLUMNS, as_csv, as_json, as_markdown, facts_of
from ncamix.study_record import read_study
from ncamix.study_results import (
    StudyResults,
    answer,
    design_remarks,
    edit_remarks,
    missing_words,
    results_of,
)
from ncamix.study_runs import StudyRun
from ncamix.verdicts import with_interval

PLANTED = {"scratch_natural": 0.05, "scratch_natural_plain": 0.05, "shuffled": 0.03}
SPEEDUP = STUDY.replace(
    "smallest_effect: 0.01}",
    "smallest_effect: 0.01, speedup: {to: scratch_natural, of: [up], lengths: [0.5x, 1x]}}",
)


def results(folder: Path, text: str = STUDY, state=always_finished) -> StudyResults:  # type: ignore[no-untyped-def]
    home = write_study(folder, text, figures=Figures(PLANTED), state=state)
    return results_of(read_study(home))


def unfinished(run: StudyRun) -> str:
    if run.tuning or run.arm == "up":
        return "finished"
    if run.arm == "shuffled":
        return "untested" if run.seed < 3 else "finished"
    if run.arm == "down":
        return "diverged" if run.seed == 1 else "begun"
    return "finished" if run.seed < 4 else "missing"


def test_the_table_holds_what_runs_came_to_on_the_test_split(tmp_path: Path) -> None:
    found = results(tmp_path)
    home = found.record.runs[0].path.parents[3]
    values = {
        arm: {
            seed: json.loads((home / f"{arm}/{seed}/test.json").read_text())["sources"]["code"][
                "bits_per_byte"
            ]
            for seed in (1, 2, 3, 4, 5)
        }
        for arm in found.record.arms
    }
    assert found.reference == "scratch_natural"
    for row in found.rows:
        own = values[row.arm.name]
        assert row.summary.values == own
        assert (row.summary.mean, row.summary.interval) == mean_interval(list(own.values()))
    first, second = answer(found)
    assert first == found.findings.primary.words  # type: ignore[union-attr]
    assert second.startswith("up is better than scratch_natural")


def test_variants_are_held_against_one_arm_and_an_arm_against_its_controls(tmp_path: Path) -> None:
    found = results(tmp_path)
    assert found.reference == "scratch_natural"
    primary, *others = found.comparisons
    assert (primary.arm, primary.other, primary.p_adjusted) == ("up", "even", None)
    controls = [name for name, arm in found.record.arms.items() if arm.beside == "up"]
    assert len(controls) > 3
    variants = [("down", "scratch_natural"), ("even", "scratch_natural")]
    assert {(one.arm, one.other) for one in others} == {*variants, *(("up", c) for c in controls)}
    for one in others:
        first, second = (
            next(row.summary.values for row in found.rows if row.arm.name == name)
            for name in (one.arm, one.other)
        )
        assert one.test == paired_test([first[seed] - second[seed] for seed in first])
        assert one.test is not None and one.p_adjusted is not None
        assert one.test.p <= one.p_adjusted
    verdicts = {(one.arm, one.other): one.verdict for one in others}
    assert verdicts["up", "shuffled"] == verdicts["down", "scratch_natural"] == "better"
    assert verdicts["up", "shuffled_plain"] != "better", "nothing is planted there"


def test_what_was_not_tested_has_no_value_and_nothing_in_its_place(tmp_path: Path) -> None:
    found = results(tmp_path, state=unfinished)
    row = next(row for row in found.rows if row.arm.name == "shuffled")
    assert row.untested == (1, 2) and sorted(row.summary.values) == [3, 4, 5]
    assert {run.run.name for run in found.untested} == {"shuffled, seed 1", "shuffled, seed 2"}
    assert facts_of(found)["untested"] == ["shuffled/1", "shuffled/2"]
    assert "Without a figure on the test split: 2 runs." in as_markdown(found)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    found = results(tmp_path, state=unfinished)
    said = missing_words(found.record)
    assert "down: seeds 2, 3, 4, 5 under way or interrupted" in said
    assert "even: seeds 4, 5 not begun" in said
    assert not any(line.startswith("up") for line in said)
    facts = json.loads(as_json(found))
    assert not facts["finished"] and facts["missing"] == said
    down = next(arm for arm in facts["arms"] if arm["arm"] == "down")
    assert down["failed"] == {"1": "the loss is not finite in batch 7"}
    assert down["mean"] is None
    held = [one["verdict"] for one in facts["comparisons"] if one["arm"] == "down"]
    assert held == ["not measured"]
    assert any("down, seed 1: failed" in remark for remark in facts["remarks"])


def test_a_study_that_has_not_begun_has_an_answer(tmp_path: Path) -> None:
    found = results(tmp_path, state=lambda run: "missing")
    assert "not measured" in answer(found)[0]
    assert json.loads(as_json(found))["arms"][0]["mean"] is None
    assert len(missing_words(found.record)) == len(found.rows) + 1, "and the tuning"


def test_no_mean_without_its_interval(tmp_path: Path) -> None:
    facts = json.loads(as_json(results(tmp_path)))
    for arm in facts["arms"]:
        assert arm["low"] < arm["mean"] < arm["high"] and arm["confidence"] == 0.95
    for row in facts["epiplexity"]:
        assert row["num_seeds"] == 5 and row["low"] < row["bits"] < row["high"]
    for row in facts["zipf"]:
        assert row["low"] is not None and row["low"] <= row["exponent"] <= row["high"]


def test_one_seed_has_values_and_no_test(tmp_path: Path) -> None:
    found = results(tmp_path, STUDY.replace("seeds: [1, 2, 3, 4, 5]", "seeds: [7]"))
    assert all(row.summary.mean is not None for row in found.rows)
    assert all(row.summary.interval is None for row in found.rows)
    assert all(one.verdict == "not measured" for one in found.comparisons)
    assert all(arm["low"] is None for arm in json.loads(as_json(found))["arms"])


def test_json_holds_no_number_that_is_none(tmp_path: Path) -> None:
    def diverging(run: StudyRun) -> str:
        return "diverged" if run.tuning and run.point == "peak=2x" else "finished"

    found = results(tmp_path, state=diverging)
    assert all(dict(tuned.points)["peak=2x"] == [math.inf] for tuned in found.tuned)
    facts = json.loads(as_json(found), parse_constant=lambda name: pytest.fail(name))
    assert facts["tuning"][0]["points"]["peak=2x"] == [None]
    assert facts["tuning"][0]["chosen"] == "peak=1x"


def test_csv_has_a_row_for_each_arm_and_each_run(tmp_path: Path) -> None:
    found = results(tmp_path)
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert tuple(rows[0]) == COLUMNS
    kinds = [row["row"] for row in rows]
    assert kinds[:2] == ["primary", "comparison"] and kinds.count("comparison") == 6
    assert (rows[0]["arm"], rows[0]["against"], rows[0]["p_adjusted"]) == ("up", "even", "")
    assert float(rows[0]["low"]) < float(rows[0]["value"]) < float(rows[0]["high"])
    assert kinds.count("arm") == 7 and kinds.count("run") == 35 and kinds.count("tuning") == 21
    mean = next(row for row in rows if (row["row"], row["arm"]) == ("arm", "down"))
    values = [float(row["value"]) for row in rows if (row["row"], row["arm"]) == ("run", "down")]
    assert float(mean["value"]) == pytest.approx(sum(values) / 5)
    assert float(mean["low"]) < float(mean["value"]) < float(mean["high"])
    runs = [row for row in rows if row["row"] == "run"]
    assert all(row["command"].startswith("ncamix run ") and row["fingerprint"] for row in runs)


def test_markdown_is_a_table_with_intervals(tmp_path: Path) -> None:
    text = as_markdown(results(tmp_path))
    table = [line for line in text.splitlines() if line.startswith("|")]
    compared, arms = table[: 2 + 7], table[2 + 7 :]
    assert compared[2].startswith("| up − even | ") and "*" in compared[2]
    assert len(arms) == 2 + 7
    for lines in (compared, arms):
        assert len({line.count("|") for line in lines}) == 1
        assert all(" to " in line for line in lines[2:])


def test_what_a_design_leaves_open_is_said(tmp_path: Path) -> None:
    assert design_remarks(results(tmp_path / "whole").record) == []
    plain = "\n".join(line for line in STUDY.splitlines() if not line.startswith("tune:"))
    plain = plain.replace("[scratch_natural, shuffled]", "[shuffled]")
    tuning, alone = design_remarks(results(tmp_path / "plain", plain).record)
    assert tuning.startswith("nothing is tuned") and alone.startswith("no arm trains on natural")


def test_what_was_declared_otherwise_while_runs_finished_is_said(tmp_path: Path) -> None:
    record = results(tmp_path).record
    assert edit_remarks(record) == []
    before = {**record.facts["compare"], "smallest_effect": 0.05}
    rows = [
        {"compare": None, "seeds": [1, 2, 3, 4, 5], "num_finished": 0, "when": "2026-01-01T01:00"},
        {"compare": before, "seeds": [1, 2], "num_finished": 7, "when": "2026-01-02T01:00"},
    ]
    edited = replace(record, facts={**record.facts, "edits": rows})
    assert edit_remarks(edited) == [
        "declared anew on 2026-01-02, with 7 runs finished: was seeds [1, 2], smallest_effect 0.05"
    ]
    rows[0]["num_finished"] = 1
    was = "declared anew on 2026-01-01, with 1 run finished: was seeds [1, 2, 3, 4, 5], nothing"
    assert edit_remarks(edited)[0].startswith(was)


def test_arms_and_tuning_that_were_others_are_said(tmp_path: Path) -> None:
    record = results(tmp_path).record
    tuning = {"seeds": [9], "points": ["lr=0.1x"]}
    own = {name: arm["fingerprint"] for name, arm in record.facts["arms"].items()}
    row = {**declared_in(record.facts), "num_finished": 3, "when": "2026-01-01T01:00"}

    def said(**before: Any) -> str:
        facts = {**record.facts, "edits": [{**row, **before}]}
        (remark,) = edit_remarks(replace(record, facts=facts))
        return remark.partition("finished: was ")[2]

    assert said(arms={**own, "up": "another"}) == "up planned otherwise"
    assert (
        said(arms=dict.fromkeys(own, "others"))
        == f"{len(own)} of {len(own)} arms planned otherwise"
    )
    assert said(tuning=tuning) == "tuned over lr=0.1x with seeds [9]"
    assert said(tuning=None) == "not tuned"


def test_a_cut_log_changes_no_speedup_and_a_damaged_figure_is_none(tmp_path: Path) -> None:
    """Tokens of finished runs are those of their plans."""
    home = write_study(tmp_path, SPEEDUP, figures=Figures(PLANTED), state=always_finished)
    before = results_of(read_study(home)).findings.speedups
    (home / "up/1/metrics.jsonl").write_text("")
    log = home / "up/2/metrics.jsonl"
    log.write_text(log.read_text()[: log.stat().st_size // 2])
    (home / "up/3/metrics.jsonl").unlink()
    assert results_of(read_study(home)).findings.speedups == before
    test = json.loads((home / "up/4/test.json").read_text())
    test["sources"]["code"]["bits_per_byte"] = "none"
    (home / "up/4/test.json").write_text(json.dumps(test))
    found = results_of(read_study(home))
    up = next(row for row in found.rows if row.arm.name == "up")
    assert up.untested == (4,) and sorted(up.summary.values) == [1, 2, 3, 5]


def test_speedups_are_told_and_lengths_are_not_compared(tmp_path: Path) -> None:
    found = results(tmp_path, SPEEDUP)
    lengths = {"up,length=0.5x"}
    assert lengths == {name for name, arm in found.record.arms.items() if arm.lengthened}
    assert not lengths & {finding.arm for finding in found.findings.others}
    summaries = {row.arm.name: row.summary for row in found.rows}
    assert all(summaries[name].interval is not None for name in lengths)
    assert {speedup.clock for speedup in found.findings.speedups} == {
        "natural tokens",
        "all tokens",
    }
    by_clock = {speedup.clock: speedup for speedup in found.findings.speedups}
    # The planted control is worse than even the shortest run of half the natural tokens.
    assert "at least 2.00x" in by_clock["natural tokens"].words
    assert all(length not in as_markdown(found).split("Speed-up")[0] for length in lengths)


def test_numbers_have_the_digits_that_their_interval_gives() -> None:
    mean, interval = mean_interval([2.01, 2.02, 2.03])
    assert with_interval(mean, interval) == "2.020 (1.995 to 2.045)"
    assert with_interval(-mean, None, True) == "−2.02"
    assert with_interval(0.5, None, signed=True) == "+0.5"
    assert with_interval(None, None) == "–"
