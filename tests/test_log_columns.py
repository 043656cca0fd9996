"""Logs as columns: what a plain reader of JSON lines finds, whatever is missing or damaged."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncamix import log_columns
from ncamix.log_columns import read_columns

STAGES, KEYS = ("warm", "late"), ("loss/a", "count/a")


def plain(rows: list[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """The same by dicts: the last row of every batch, in the order of batches."""
    out = {}
    for stage in STAGES:
        last = {row["batch"]: row for row in rows if row["stage"] == stage}
        out[stage] = {
            key: [
                v if (v := last[b].get(key)) is not None and math.isfinite(v) else math.nan
                for b in sorted(last)
            ]
            for key in ("batch", "tokens", *KEYS)
        }
    return out


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def assert_same(path: Path, rows: list[dict[str, Any]]) -> None:
    found = read_columns(path, STAGES, KEYS)
    for stage, columns in plain(rows).items():
        assert list(found[stage]) == list(columns)
        for key, values in columns.items():
            np.testing.assert_array_equal(found[stage][key], values, err_msg=f"{stage} {key}")


value = st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(math.nan), st.just(-math.inf))
row = st.fixed_dictionaries(
    {
        "stage": st.sampled_from((*STAGES, "other: NaN}")),
        "batch": st.integers(0, 9),
        "tokens": st.integers(0, 10**12),
    },
    optional={"loss/a": value, "count/a": st.integers(0, 10**9), "digest": st.just(2**64 - 1)},
)


@given(st.lists(row, max_size=30))
def test_as_a_plain_reader_finds_it(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert_same(write(Path(folder) / "log.jsonl", rows), rows)


def test_blocks_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"stage": STAGES[i // 60], "batch": i % 60, "tokens": 8 * i, "loss/a": i / 7}
        for i in range(120)
    ]
    path = write(tmp_path / "log.jsonl", rows)
    for size in (1, 7, 64, 1000):
        monkeypatch.setattr(log_columns, "BLOCK", size)
        assert_same(path, rows)


def test_damaged_lines_are_named_and_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_columns, "BLOCK", 200)  # some blocks with damage, some without
    rows = [{"stage": "warm", "batch": i, "tokens": i, "loss/a": 1.0} for i in range(40)]
    lines = write(tmp_path / "whole.jsonl", rows).read_text().splitlines(keepends=True)
    lines[20] = lines[20][:9] + "\n"
    lines[30] = '["no row"]\n'
    lines[31] = '{"stage": 3, "batch": 31, "tokens": 0}\n'
    lines[32] = '{"stage": "warm", "batch": "32", "tokens": 0}\n'
    path = tmp_path / "log.jsonl"
    path.write_text("".join(lines) + lines[0][:25])
    remarks: list[str] = []
    found = read_columns(path, STAGES, KEYS, remarks)["warm"]
    assert found["batch"].tolist() == [i for i in range(40) if i not in (20, 30, 31, 32)]
    assert remarks == ["log.jsonl, line 21 is not readable and was left out."]


def test_a_file_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    found = read_columns(tmp_path / "none.jsonl", STAGES, KEYS)
    assert [len(found[stage][key]) for stage in STAGES for key in KEYS] == [0] * 4
