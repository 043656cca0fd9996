"""Disks that fill: told with their folder and what is free there."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from conftest import Planner
from faulty_store import faulty_store
from small_disks import mounted_disk
from test_stored import read, sent, stored_plan, write

from ncamix.disk import free_bytes, told_if_full
from ncamix.errors import UserError
from ncamix.library import shipped
from ncamix.stored_samples import StoredSamples
from ncamix.stores import Store
from ncamix.text_compilation import prepare_text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk", "100k") as disk:
        yield disk


def test_the_full_one_of_several_folders_is_named(tmp_path: Path, small_disk: Path) -> None:
    ways_out = {tmp_path / "roomy": "go there", small_disk / "not/yet": "use --out"}
    with pytest.raises(UserError) as raised, told_if_full(ways_out):
        (small_disk / "large").write_bytes(bytes(1 << 20))
    assert free_bytes(small_disk / "not/yet") == shutil.disk_usage(small_disk).free == 0
    assert f"no room left in {small_disk}/not/yet" in str(raised.value)
    assert "0 bytes are free" in str(raised.value) and "or use --out" in str(raised.value)


def test_a_name_in_the_error_tells_the_folder(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "b/file"))
    with (
        pytest.raises(UserError, match=f"no room left in {tmp_path}/b"),
        told_if_full({tmp_path / "a": "x", tmp_path / "b": "y"}),
    ):
        raise full
    other = OSError(errno.EIO, "Input/output error")
    with pytest.raises(OSError, match="Input/output"), told_if_full({tmp_path: "x"}):
        raise other


def test_a_run_on_a_full_disk_says_which(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "ncamix: 1\nname: c\nsources:\n  a: {kind: nca, band: {gzip: [0.3, 0.6]}}\n"
        "stages:\n  - {name: first, duration: 100%, mixture: {a: 1}}\n"
    )
    command = [sys.executable, "-m", "ncamix", "run", "c.yaml", "--out", str(small_disk / "run")]
    command += [
        "--trainer",
        str(shipped("trainers") / "cpu.yaml"),
        "--set",
        "trainer.budget=40ktok",
    ]
    env = {**os.environ, "NCAMIX_CACHE": str(tmp_path / "cache")}
    full = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200
    )
    assert full.returncode == 2 and "Traceback" not in full.stderr, full.stderr
    assert f"there is no room left in {small_disk}/run" in full.stderr
    assert "are free" in full.stderr and "--out" in full.stderr
    assert not list(small_disk.rglob("*.tmp"))


def test_a_disk_that_fills_while_a_file_is_fetched_is_not_the_stores_fault(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty_store(monkeypatch) as store:
        (tmp_path / "data").mkdir()
        (tmp_path / "data/large").write_bytes(bytes(1 << 20))
        url = sent(store, tmp_path / "data")
        store.requests.clear()
        with pytest.raises(UserError, match=f"no room left in {small_disk}/a for {url}") as told:
            Store(url, small_disk).fetch("large", small_disk / "a" / "large")
        assert len(store.requests) <= 2, "one try"
        assert "make room there" in told.value.problems[0].remedy
        assert not any((small_disk / "a").iterdir())
        (small_disk / "file").write_text("in the way")
        with pytest.raises(UserError, match="file cannot be written, .*File exists"):
            Store(url, small_disk).fetch("large", small_disk / "file" / "large")


def test_a_full_disk_is_told_by_whoever_reads_stored_samples(
    tmp_path: Path,
    small_disk: Path,
    plan_of: Planner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = np.random.default_rng(1).integers(0, 257, (4000, 33))
    write(tmp_path / "data", ids=ids, compression="zstd")
    with faulty_store(monkeypatch) as store:
        url = sent(store, tmp_path / "data")
        places = (f"remote: '{url}', local: disk/kept", "local: data")
        plan = prepare_text(stored_plan(plan_of, *places))
        with pytest.raises(UserError, match=f"no room left in {small_disk}/kept for s3:"):
            read(plan, tmp_path / "stage")
    shutil.rmtree(small_disk / "kept")
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    samples = StoredSamples(plan.sources["mine2"])
    samples.range(0, 1)  # half of the room is taken to be its own
    with suppress(OSError):
        (small_disk / "another").write_bytes(bytes(1 << 20))
    with pytest.raises(UserError, match=f"mine2.*no room left in {small_disk}/ncamix") as told:
        samples.range(0, 4000)
    assert "or set TMPDIR to another folder" in told.value.problems[0].remedy
