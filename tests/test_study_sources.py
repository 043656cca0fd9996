"""Epiplexity and Zipf's exponents of a study's sources, over seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from finished_studies import STUDY, write_study

from ncamix.frequencies import zipf_exponent
from ncamix.statistics import mean_interval
from ncamix.study_record import read_study
from ncamix.study_sources import frequencies, structures

SHORT = STUDY.replace("seeds: [1, 2, 3, 4, 5]", "seeds: [1, 2, 3]")


def test_each_source_of_each_stage_has_its_mean_and_interval(tmp_path: Path) -> None:
    record = read_study(write_study(tmp_path, SHORT))
    found = {(s.arm, s.stage, s.source): s for s in structures(record)}
    automata = [("automata", source) for source in ("simple", "rich", "binary")]
    assert {key[1:] for key in found if key[0] == "up"} == {*automata, ("code", "code")}
    assert {key[1:] for key in found if key[0] == "scratch_natural"} == {("code", "code")}
    one = found["up", "code", "code"]
    bits = [
        e.bits
        for result in record.shown("up").values()
        for e in result.epiplexity
        if e.source == "code"
    ]
    assert one.bits == mean_interval(bits, 0.95) and one.num_seeds == 3
    # Losses fall by 5 nats over 0.15 of the stage: that area, in bits, is what was planted.
    batches = one.num_tokens / 60 / 4
    planted = 5 * (0.15 * batches + 1) * 60 * 4 / np.log(2)
    assert one.bits[0] == pytest.approx(planted, rel=0.15)


def test_a_source_stands_once_for_each_thing_that_it_is(tmp_path: Path) -> None:
    record = read_study(write_study(tmp_path, SHORT))
    found = {one.label: one for one in frequencies(record)}
    plain = ["simple", "rich", "binary", "code"]
    assert [label for label in found if found[label].first] == plain
    assert {label for label in found if not found[label].first} == {
        f"{source} (shuffled)" for source in plain[:3]
    }
    code = found["code"]
    assert code.num_seeds == 3 and code.counts.counts.sum() > 0
    assert code.exponent[0] == pytest.approx(zipf_exponent(code.counts.counts))
    assert code.exponent[0] == pytest.approx(1.1, abs=0.02)


def test_runs_without_frequencies_have_none(tmp_path: Path) -> None:
    home = write_study(tmp_path, SHORT)
    for file in home.glob("*/*/frequencies.json"):
        file.unlink()
    assert frequencies(read_study(home)) == []
