"""Folders that remote data sets are kept in: what a user has there is never lost."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import Planner
from test_stored import LENGTH, NUM, read, stored_plan, write

from ncamix import keeping
from ncamix.errors import UserError
from ncamix.files import DATA_LOCK
from ncamix.keeping import KEPT_HASHES, begin_keeping
from ncamix.shards import INDEX
from ncamix.sources.mds import read_mds_index
from ncamix.stored import stored_sizes

HASHES = [None, ["sha1"], ["xxh64"]]


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


def offline(folder: Path) -> None:
    """Only the index can be had any more."""
    for shard in folder.glob("shard.*"):
        shard.unlink()


@pytest.mark.parametrize(
    ("local", "remote"),
    [("a", "a"), ("a", "link"), ("a/b", "a"), ("a", "a/b"), ("a", "other/../a")],
)
def test_a_data_set_is_not_kept_where_it_lies(
    local: str, remote: str, tmp_path: Path, plan_of: Planner
) -> None:
    for folder in ("a", "a/b"):
        write(tmp_path / folder)
    (tmp_path / "link").symlink_to("a")
    before = files(tmp_path / "a/b")
    with pytest.raises(UserError) as told:
        stored_plan(plan_of, f"local: {local}, remote: {remote}")
    (problem,) = told.value.problems
    assert (problem.path, problem.line) == ("sources.mine.local", 5)
    assert "`local` is where a copy of `remote` is kept" in problem.what
    assert "remove `remote`" in problem.remedy and files(tmp_path / "a/b") == before


@pytest.mark.parametrize("hashes", HASHES)
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_copy_of_the_users_is_read(
    hashes: list[str] | None,
    compression: str | None,
    tmp_path: Path,
    plan_of: Planner,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ids = write(tmp_path / "remote", hashes=hashes, compression=compression)
    shutil.copytree(tmp_path / "remote", tmp_path / "mine")
    before = files(tmp_path / "mine")
    plan = stored_plan(plan_of, "local: mine, remote: remote")
    offline(tmp_path / "remote")
    for stage in ("one", "two"):
        for _, sample, found, _ in read(plan, tmp_path / stage):
            assert found == ids[sample].tolist()
    assert before.items() <= files(tmp_path / "mine").items()
    assert "fetched again" not in capsys.readouterr().err


@pytest.mark.parametrize("hashes", HASHES)
def test_what_is_damaged_stays_until_it_is_replaced(
    hashes: list[str] | None, tmp_path: Path, plan_of: Planner, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = write(tmp_path / "remote", hashes=hashes)
    shutil.copytree(tmp_path / "remote", tmp_path / "away")
    shutil.copytree(tmp_path / "remote", tmp_path / "mine")
    shard = min((tmp_path / "mine").glob("shard.*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-9])
    plan = stored_plan(plan_of, "local: mine, remote: remote")
    offline(tmp_path / "remote")
    before = files(tmp_path / "mine")
    with pytest.raises(UserError, match=f"remote/{shard.name} cannot be read: No such file"):
        read(plan, tmp_path / "one")
    assert files(tmp_path / "mine") == before
    shutil.copytree(tmp_path / "away", tmp_path / "remote", dirs_exist_ok=True)
    for _, sample, found, _ in read(plan, tmp_path / "two"):
        assert found == ids[sample].tolist()
    assert shard.read_bytes() == whole
    assert capsys.readouterr().err.count(f"{shard} was left by an earlier run: it has ") == 2


@pytest.mark.parametrize("hashes", HASHES)
@pytest.mark.parametrize("compression", [None, "gz"])
def test_nothing_is_fetched_twice_but_what_is_damaged(
    hashes: list[str] | None, compression: str | None, tmp_path: Path, plan_of: Planner
) -> None:
    ids = write(tmp_path / "remote", hashes=hashes, compression=compression)
    plan = stored_plan(plan_of, "local: kept, remote: remote")

    def nodes(stage: str) -> list[int]:
        for _, sample, found, _ in read(plan, tmp_path / stage):
            assert found == ids[sample].tolist()
        return [p.stat().st_ino for p in sorted((tmp_path / "kept").glob("shard.*.mds"))]

    first = nodes("one")
    assert len(first) > 1 and nodes("two") == first
    shard = min((tmp_path / "kept").glob("shard.*.mds"))
    data = bytearray(shard.read_bytes())
    data[-3] ^= 1
    shard.write_bytes(data)
    (tmp_path / "kept" / f".{shard.name}.7-ab.tmp").write_bytes(b"left by a killed run")
    again = nodes("three")
    assert again[0] != first[0] and again[1:] == first[1:]
    assert not list((tmp_path / "kept").glob(".*.tmp"))


def test_a_remote_that_is_written_anew_is_fetched_anew(tmp_path: Path, plan_of: Planner) -> None:
    """Of the same sizes, without hashes."""
    for seed in (1, 2):
        shutil.rmtree(tmp_path / "remote", ignore_errors=True)
        ids = np.random.default_rng(seed).integers(0, 257, (NUM, LENGTH + 1))
        write(tmp_path / "remote", ids=ids)
        plan = stored_plan(plan_of, "local: kept, remote: remote")
        for _, sample, found, _ in read(plan, tmp_path / f"stage{seed}"):
            assert found == ids[sample].tolist()
    assert len(list((tmp_path / "kept").glob(f"{KEPT_HASHES}*"))) == 1


def test_a_folder_with_something_else_is_refused(tmp_path: Path, plan_of: Planner) -> None:
    write(tmp_path / "remote")
    write(tmp_path / "mine", ids=np.ones((40, LENGTH + 1), np.int64))
    plan = stored_plan(plan_of, "local: mine, remote: remote")
    before = files(tmp_path / "mine")
    with pytest.raises(UserError, match="holds a file index.json, and is no copy of") as told:
        stored_sizes(plan)
    assert told.value.problems[0].path == "sources.mine.local"
    (tmp_path / "mine" / INDEX).unlink()
    with pytest.raises(UserError, match="holds a file shard.00000.mds, and is no copy of"):
        read(plan, tmp_path / "stage")
    assert files(tmp_path / "mine") == {k: v for k, v in before.items() if k != INDEX}
    assert not (tmp_path / "mine" / DATA_LOCK).exists()


def test_nothing_is_kept_where_another_source_is_read(tmp_path: Path, plan_of: Planner) -> None:
    write(tmp_path / "data")
    write(tmp_path / "remote")
    plan = stored_plan(plan_of, "local: data", "local: data/here, remote: remote")
    with pytest.raises(UserError, match="mine2.local: the source 'mine' is read in .*/data, and"):
        stored_sizes(plan)


def test_a_folder_that_cannot_be(tmp_path: Path, plan_of: Planner) -> None:
    write(tmp_path / "remote")
    (tmp_path / "file").write_text("in the way")
    plan = stored_plan(plan_of, "local: file/below, remote: remote")
    with pytest.raises(UserError, match="file/below cannot be written.*Not a directory") as told:
        read(plan, tmp_path / "stage")
    assert "name another folder with `local`" in told.value.problems[0].remedy


def test_only_the_first_rank_of_a_machine_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "remote")
    index, data = (
        read_mds_index(tmp_path / "remote", "remote", LENGTH),
        (tmp_path / "remote" / INDEX).read_bytes(),
    )
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / INDEX).write_bytes(b"of another run, which holds the folder")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(keeping, "_WAIT_SECONDS", 0.2)
    with (kept / DATA_LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="first process on this machine did not write"):
            begin_keeping(kept, index, data, "the data set")
    assert (kept / INDEX).read_bytes() == b"of another run, which holds the folder"
    monkeypatch.setattr(keeping, "_WAIT_SECONDS", 60.0)
    waiting = threading.Thread(target=begin_keeping, args=(kept, index, data, "x"), daemon=True)
    waiting.start()
    (tmp_path / "new").write_bytes(data)
    os.replace(tmp_path / "new", kept / INDEX)
    waiting.join(60)
    assert not waiting.is_alive()
