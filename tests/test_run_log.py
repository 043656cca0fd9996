"""The log of a run: every row once, in the order of tokens, whatever kills and resumes it."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ncamix.run_log import RECORDS, RunLog, metrics_of


def row(batch: int, **values: object) -> dict:
    return {"stage": "one", "batch": batch, "tokens": 10 * (batch + 1), **values}


def write(folder: Path, name: str, rows: list[dict], torn: str = "") -> None:
    """The record anew, as a resumed run cuts it: another file by its name."""
    fresh = folder / "fresh"
    fresh.write_text("".join(json.dumps(r) + "\n" for r in rows) + torn)
    fresh.replace(folder / name)


def test_values_have_the_names_that_loggers_know() -> None:
    metrics = row(0, loss=2.0, **{"loss/a": 1.0, "grad_norm/mlp": None, "digest": 7, "lr": 0.1})
    assert metrics_of("metrics.jsonl", metrics) == {"loss": 2.0, "loss/a": 1.0, "lr": 0.1}
    assert metrics_of("speed.jsonl", row(0, data_wait=0.5)) == {"speed/data_wait": 0.5}
    evaluation = row(0, when="every", source="a", loss=3.0, bits_per_byte=None)
    evaluation |= {"frames_seen": [1, 2], "cell_accuracy": [0.25, 0.75]}
    assert metrics_of("evaluations.jsonl", evaluation) == {
        "evaluate/loss/a": 3.0,
        "evaluate/cell_accuracy/a": 0.5,
    }
    raw = metrics_of("evaluations.jsonl", {**evaluation, "when": "raw"})
    assert raw["evaluate/raw/loss/a"] == 3.0
    induction = row(0, when="end", loss_drop=0.5, prefix_matching_head=[0, 1])
    assert metrics_of("induction.jsonl", induction) == {"induction/loss_drop": 0.5}


def test_evaluations_wait_for_the_metrics_before_them(tmp_path: Path) -> None:
    log = RunLog(tmp_path, {})
    assert list(log.new()) == []
    write(tmp_path, "metrics.jsonl", [row(0, loss=1.0)], torn='{"stage": "one", "ba')
    write(tmp_path, "evaluations.jsonl", [row(1, when="end", source="a", loss=2.0)])
    assert list(log.new()) == [(10, {"loss": 1.0})]
    assert log.told["evaluations.jsonl"] == 0
    write(tmp_path, "metrics.jsonl", [row(0, loss=1.0), row(1, loss=0.5)])
    assert list(log.new()) == [(20, {"loss": 0.5}), (20, {"evaluate/loss/a": 2.0})]
    write(tmp_path, "induction.jsonl", [row(5, when="end", loss_drop=1.0)])
    assert list(log.new()) == []
    assert list(log.new(all_of_it=True)) == [(60, {"induction/loss_drop": 1.0})]


def test_a_record_that_was_cut_and_has_grown_again_between_two_looks(tmp_path: Path) -> None:
    """In place, as a resumed run cuts it; times are not what they were."""
    file = tmp_path / "speed.jsonl"
    file.write_text("".join(json.dumps(row(i, seconds=0.5)) + "\n" for i in range(4)))
    log = RunLog(tmp_path, {})
    assert len(list(log.new(all_of_it=True))) == 4
    with file.open("r+") as record:
        record.write("".join(json.dumps(row(i, seconds=0.0625)) + "\n" for i in range(6)))
    assert [tokens for tokens, _ in log.new(all_of_it=True)] == [50, 60]


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.integers(0, 3)), max_size=12))
def test_every_row_is_told_once_in_order(
    tmp_path_factory, moves: list[tuple[int, bool, int]]
) -> None:
    """Runs that die and resume from some batch, and readers that die with them."""
    folder = tmp_path_factory.mktemp("run")
    log, heard, done = RunLog(folder, {}), [], 0
    for end, dies, back in [*moves, (12, False, 0)]:
        done = max(0, done - back) if dies else max(done, end)
        for name in RECORDS:
            rows = [row(i, loss=float(i), source="a", when="every") for i in range(done)]
            write(folder, name, rows)
        if dies:
            log = RunLog(folder, dict(log.told))
        heard += [(tokens, *values) for tokens, values in log.new()]
    for name in ("loss", "speed/loss", "evaluate/loss/a", "induction/loss"):
        assert [t for t, *names in heard if name in names] == [10 * (i + 1) for i in range(12)]
    steps = [tokens for tokens, *_ in heard]
    assert steps == sorted(steps) and len(heard) == 4 * 12
