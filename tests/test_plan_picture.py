"""The picture of a plan: shares over tokens at the picture's resolution, for any length."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from plan_files import curriculum, plan_of, stage

from ncamix import plan_picture
from ncamix.errors import UserError
from ncamix.plan import Plan
from ncamix.plan_picture import stage_record, write_plan_picture

WAVE = "{0%: {hiss: 1}, 50%: {simple: 1}, 100%: {hiss: 1}}"
NAMES = ["hiss", "simple"]


def wave(folder: Path, cycle: str, duration: str = "1200ba", mixture: str = WAVE) -> Plan:
    return plan_of(folder, curriculum(stage(mixture, duration, more=f", cycle: {cycle}")))


@pytest.mark.parametrize("exact", [True, False])
def test_shares_are_the_means_of_their_bins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    if not exact:
        monkeypatch.setattr(plan_picture, "EXACT", 0)
    (planned,) = wave(tmp_path, "300ba").stages
    record = stage_record(planned, NAMES, 100)
    progress, share = record.mixture_progress, record.mixture["simple"]
    assert len(progress) == 102 and (progress[0], progress[-1]) == (0, 1)
    assert np.allclose(record.mixture["hiss"] + share, 1)
    column = planned.apportionment.counts[:, planned.sources.index("simple")]
    bins = column.reshape(100, 12).mean(axis=1) / 4
    assert np.abs(share[1:-1] - bins).max() < (1 / 24 if exact else 1e-12)
    assert share.max() > 0.95 and share.min() < 0.05  # four whole waves
    assert np.count_nonzero(np.diff(np.sign(share - 0.5))) == 8


def test_cycles_too_short_to_see_are_averaged(tmp_path: Path) -> None:
    (planned,) = wave(tmp_path, "7ba").stages
    assert np.ptp(stage_record(planned, NAMES, 100).mixture["simple"][1:-2]) < 0.05
    assert np.ptp(stage_record(planned, NAMES, 1200).mixture["simple"]) > 0.8


def test_jumps_are_drawn_as_jumps(tmp_path: Path) -> None:
    jump = "[{at: 0%, mix: {hiss: 1}, ease: step}, {at: 30%, mix: {simple: 1}}]"
    (planned,) = plan_of(tmp_path, curriculum(stage(jump, "10ba"))).stages
    record = stage_record(planned, NAMES, 500)
    assert set(record.mixture["simple"]) == {0, 1}
    last = record.mixture_progress[record.mixture["simple"] == 0].max()
    first = record.mixture_progress[record.mixture["simple"] == 1].min()
    assert last == first == 0.3


def test_a_long_stage_has_no_more_points_than_pixels(tmp_path: Path) -> None:
    text = curriculum(stage("{hiss: 1}", "60000ba"))
    (planned,) = plan_of(tmp_path, text).stages
    record = stage_record(planned, NAMES, 700)
    assert len(record.mixture_progress) <= 702 and len(record.rate) <= 710
    assert (record.mixture["hiss"] == 1).all() and "simple" not in record.mixture


def test_the_picture_is_a_png_and_always_the_same(tmp_path: Path) -> None:
    short = stage("{rich: 1}", "1ba", "a_stage_too_short_for_its_name")
    plan = plan_of(
        tmp_path, curriculum(stage(WAVE, "50ba") + short + stage("{binary: 1}", name="x"))
    )
    file = tmp_path / "new" / "plan.png"
    write_plan_picture(plan, file)
    first = file.read_bytes()
    width, height = struct.unpack(">II", first[16:24])
    assert first.startswith(b"\x89PNG") and width == 1600 and 700 < height < 1100
    write_plan_picture(plan, file)
    assert file.read_bytes() == first
    other = replace(plan, stages=plan.stages[:1])
    write_plan_picture(other, file)
    assert file.read_bytes() != first


@pytest.mark.parametrize("name", [".", "file/below.png"])
def test_a_picture_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    plan = plan_of(tmp_path, curriculum(stage("{hiss: 1}")))
    with pytest.raises(UserError, match="cannot be written"):
        write_plan_picture(plan, tmp_path / name)
