"""Edits of what a study declares: each leaves what was there before."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ncamix.study_edits import EDITS, edits_of

COMPARE = {
    "primary": ["up", "even"],
    "metric": "loss/hum",
    "smallest_effect": 0.01,
    "speedup": None,
}
RUN = {"arm": "up", "point": None, "settings": [], "stages": [], "tokens": [], "beginnings": []}


def declared(seeds: tuple[int, ...] = (1, 2), **changes: Any) -> dict[str, Any]:
    """A record of a study: a run for each seed, and one to tune with."""
    runs = [
        {**RUN, "seed": s, "folder": f"up/{s}", "fingerprint": f"run {s}", "tuning": s > 100}
        for s in (*seeds, 101)
    ]
    return {"compare": {**COMPARE, **changes}, "seeds": list(seeds), "runs": runs}


def finish(folder: Path, *seeds: int) -> None:
    for seed in seeds:
        file = folder / f"up/{seed}/summary.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"plan_fingerprint": f"run {seed}"}))


def test_every_edit_leaves_what_was_declared_before_it(tmp_path: Path) -> None:
    records = [
        declared(),
        declared(primary=["up", "down"]),
        declared(primary=["up", "down"], smallest_effect=0.002),
        declared((1, 2, 3), primary=["up", "down"], smallest_effect=0.002),
    ]
    assert edits_of(tmp_path, {}, records[0]) == []
    assert edits_of(tmp_path, records[0], records[0]) == [] and not (tmp_path / EDITS).exists()
    finish(tmp_path, 1, 101)  # a run to tune with is no result
    first = edits_of(tmp_path, records[0], records[1])
    finish(tmp_path, 2)
    edits_of(tmp_path, records[1], records[2])
    rows = edits_of(tmp_path, records[2], records[3])
    assert rows[:1] == first and [row["num_finished"] for row in rows] == [1, 2, 2]
    for row, record in zip(rows, records, strict=False):
        assert (row["compare"], row["seeds"]) == (record["compare"], record["seeds"])
        assert set(row) == {"compare", "seeds", "num_finished", "when"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", row["when"])
    assert rows == [json.loads(line) for line in (tmp_path / EDITS).read_text().splitlines()]
    assert edits_of(tmp_path, records[3], records[3]) == rows
    assert edits_of(tmp_path, {}, records[3]) == rows  # study.json was lost


def test_what_was_not_declared_and_is_then_is_an_edit(tmp_path: Path) -> None:
    (row,) = edits_of(tmp_path, {**declared(), "compare": None}, declared())
    assert row["compare"] is None


def test_an_edit_is_told_once(tmp_path: Path) -> None:
    """Though the command is killed before it writes study.json, or two write it at once."""
    told = [edits_of(tmp_path, declared(), declared((1,))) for _ in range(2)]
    assert told[0] == told[1] and len(told[0]) == 1
    assert len(edits_of(tmp_path, declared((1,)), declared())) == 2  # and back


def test_a_key_that_ncamix_did_not_know_before_is_no_edit(tmp_path: Path) -> None:
    assert edits_of(tmp_path, declared(), declared(another=3)) == []


def test_arms_and_tuning_are_declared_too(tmp_path: Path) -> None:
    def record(arms: dict[str, str], points: tuple[str, ...] = ("lr=1x",)) -> dict[str, Any]:
        tuning = {"seeds": [101], "metric": "loss/hum", "points": {name: [] for name in points}}
        facts = {name: {"fingerprint": of, "settings": []} for name, of in arms.items()}
        return {**declared(), "arms": facts, "tuning": tuning}

    first = record({"up": "a", "even": "b"})
    more = record({"up": "a", "even": "b", "down": "c"})
    assert edits_of(tmp_path, first, more) == [] == edits_of(tmp_path, more, first)
    other = record({"up": "z", "even": "b"})
    (row,) = edits_of(tmp_path, first, other)
    assert row["arms"] == {"up": "a", "even": "b"}
    wider = record({"up": "z", "even": "b"}, ("lr=1x", "lr=2x"))
    _, row = edits_of(tmp_path, other, wider)
    assert row["tuning"] == {"seeds": [101], "points": ["lr=1x"]}
    assert edits_of(tmp_path, wider, wider)[1:] == [row]
    assert len(edits_of(tmp_path, wider, {**wider, "tuning": None})) == 3
