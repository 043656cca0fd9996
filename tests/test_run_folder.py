"""The run folder: one owner, and nothing of a dead one left behind, nor of a living one removed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from streaming.base import constant

from ncamix import run_folder
from ncamix.errors import UserError
from ncamix.processes import boot_id
from ncamix.run_folder import RunFolder, cut_rows, read_rows

SHARED = Path("/dev/shm")

# An owner with a live dataset, which waits to be killed.
OWNER = """
import sys, time, tempfile
from pathlib import Path
import numpy as np
from streaming import StreamingDataset
from ncamix.run_folder import RunFolder
from plain_data import write_dataset
from ncamix.shards import ShardFormat
path = Path(sys.argv[1])
while not (path.parent / f"{path.name}.go").exists():
    time.sleep(0.01)
folder = RunFolder(path)
with folder.hold():
    (path / "data").mkdir()
    write_dataset(path / "data", ShardFormat(4, "uint16"), [np.zeros((8, 4), np.uint32)])
    dataset = StreamingDataset(local=str(path / "data"), batch_size=2)
    folder.add_prefix(dataset._shm_prefix_int)
    dataset.load_state_dict(dataset.state_dict(0, True))
    print(dataset._shm_prefix_int, tempfile.gettempdir(), flush=True)
    time.sleep(100)
"""


class Owner:
    """A process that owns a run folder and its shared memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(folder)],
            stdout=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip

    def go(self) -> None:
        """Let it open its dataset, once it is ready."""
        (self.folder.parent / f"{self.folder.name}.go").touch()
        assert self.process.stdout is not None
        prefix, temporary = self.process.stdout.readline().split()
        self.prefix, self.temporary = f"{int(prefix):06}_", Path(temporary)

    def segments(self) -> dict[str, int]:
        found = SHARED.glob(f"{self.prefix}*")
        return {path.name: path.stat().st_ino for path in found}

    def kill(self) -> None:
        """Kill the whole group, so that nobody cleans up."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def owners(tmp_path: Path) -> Iterator[tuple[Owner, Owner]]:
    made = Owner(tmp_path / "a"), Owner(tmp_path / "b")
    for owner in made:  # the second maps the first one's segments, in passing
        owner.go()
    mine = [owner.segments() for owner in made]
    yield made
    for owner, segments in zip(made, mine, strict=True):
        owner.kill()
        shutil.rmtree(owner.temporary, ignore_errors=True)
        for name, inode in segments.items():
            path = SHARED / name
            if path.exists() and path.stat().st_ino == inode:
                path.unlink()


def test_names_of_segments_are_those_of_streaming() -> None:
    names = {
        constant.LOCALS, constant.BARRIER, constant.NEXT_EPOCH, constant.CACHE_USAGE,
        constant.SHARD_STATES, constant.SHARD_ACCESS_TIMES, constant.RESUME,
        constant.EPOCH_SHAPE, constant.EPOCH_DATA,
    }  # fmt: skip
    assert set(run_folder._SEGMENTS) == names


def test_exactly_what_a_killed_owner_left_is_removed(owners: tuple[Owner, Owner]) -> None:
    dead, living = owners
    dead.kill()
    left, others = dead.segments(), living.segments()
    assert len(left) == len(others) == 7 and dead.temporary.is_dir()
    assert dead.temporary != living.temporary
    (dead.temporary / "000000_cache_filelock").touch()
    lock = dead.folder / ".lock"
    record = json.loads(lock.read_text().splitlines()[0])
    assert record["temporary"] == str(dead.temporary)

    # Another machine, or another boot: nothing is touched.
    lock.write_text(json.dumps({**record, "boot": "another"}))
    with RunFolder(dead.folder).hold():
        assert dead.segments() == left and dead.temporary.is_dir()

    # A prefix that was ours and is now another's: not touched.
    stale = {living.prefix[:6]: record["prefixes"][dead.prefix[:6]]}
    lock.write_text(json.dumps({**record, "prefixes": {**record["prefixes"], **stale}}))
    lasting = subprocess.Popen(
        ["sleep", "1"], env={**os.environ, "TMPDIR": str(dead.temporary)}
    )  # such as a worker of the dead owner
    while Path(f"/proc/{lasting.pid}/comm").read_text() != "sleep\n":
        time.sleep(0.001)
    with RunFolder(dead.folder).hold():
        assert lasting.poll() == 0  # it was waited for
        assert not dead.segments().items() & left.items()
        assert not dead.temporary.exists()
        assert living.segments() == others and living.temporary.is_dir()
        assert living.process.poll() is None
        with (
            pytest.raises(UserError, match="another process is working in"),
            RunFolder(living.folder).hold(),
        ):
            pass


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path is short."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        yield Path(made)


def test_the_owner_has_a_temporary_directory_of_its_own(
    tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in (str(short_path), None):
        if given is None:
            monkeypatch.delenv("TMPDIR", raising=False)
        else:
            monkeypatch.setenv("TMPDIR", given)
        tempfile.tempdir = None
        before = tempfile.gettempdir()
        folder = RunFolder(tmp_path / "run")
        with pytest.raises(KeyError), folder.hold():
            own = Path(tempfile.gettempdir())
            assert own.name.startswith("ncamix-") and own.parent == Path(before)
            assert os.environ["TMPDIR"] == str(own)
            raise KeyError
        assert os.environ.get("TMPDIR") == given
        assert tempfile.gettempdir() == before and not own.exists()
        assert not folder.path.exists()  # nothing came of it


def test_sockets_find_room_in_the_temporary_directory(
    tmp_path: Path, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of worker processes, where the path of TMPDIR is longer than their addresses."""
    for parent in (short_path, tmp_path / ("scratch" * 12)):
        parent.mkdir(exist_ok=True)
        monkeypatch.setenv("TMPDIR", str(parent))
        tempfile.tempdir = None
        with RunFolder(tmp_path / "run").hold():
            own = Path(tempfile.gettempdir())
            assert (own.parent == parent) == (parent == short_path)
            (own / "pymp-01234567").mkdir()
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(own / "pymp-01234567/listener-01234567"))
        assert not own.exists() and not any(parent.iterdir())


def test_a_second_owner_is_refused_and_the_first_keeps_its_own(tmp_path: Path) -> None:
    with RunFolder(tmp_path).hold():
        record, own = (tmp_path / ".lock").read_text(), tempfile.gettempdir()
        for _ in range(2):
            with (
                pytest.raises(UserError, match="another process is working in"),
                RunFolder(tmp_path).hold(),
            ):
                pass
        assert (tmp_path / ".lock").read_text() == record
        assert tempfile.gettempdir() == own and Path(own).is_dir()
    with RunFolder(tmp_path).hold():
        pass


def test_a_lock_that_its_owner_removed_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = os.open

    def late(path: Any, *arguments: Any) -> int:
        descriptor = stock(path, *arguments)
        if Path(path).name == ".lock":  # the owner that made the folder leaves nothing
            Path(path).unlink()
        return descriptor

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(UserError, match="another process"), RunFolder(tmp_path).hold():
        pass


def test_prefixes_are_recorded_by_the_owner_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.add_prefix(3)  # another rank: not its business
    assert not (tmp_path / ".lock").exists()
    with folder.hold():
        for prefix in (999_998, 999_999, 999_998):
            folder.add_prefix(prefix)
        record = json.loads((tmp_path / ".lock").read_text())
        assert record["prefixes"] == {"999998": "", "999999": ""}
        assert record["temporary"] == tempfile.gettempdir()


@pytest.mark.parametrize("torn", ["", "{", '{"boot": "x"', "[]", "3", '{}\n{"boot": 3}', "\0\0"])
def test_a_torn_record_stops_nobody(tmp_path: Path, torn: str) -> None:
    (tmp_path / ".lock").write_text(torn)
    with RunFolder(tmp_path).hold():
        assert json.loads((tmp_path / ".lock").read_text())["prefixes"] == {}


def test_a_record_shrinks_without_leftovers(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.hold():
        for prefix in range(999_000, 999_050):
            folder.add_prefix(prefix)
        folder.file("something").touch()
    assert (tmp_path / ".lock").read_text() == "{}\n"


def test_a_temporary_directory_that_is_not_ours_stays(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    record = {"boot": boot_id(), "temporary": str(precious), "prefixes": []}
    (tmp_path / ".lock").write_text(json.dumps(record))
    with RunFolder(tmp_path).hold():
        pass
    assert precious.is_dir()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"cannot be written.*\n.*--out"),
        RunFolder(tmp_path / "file" / "run").hold(),
    ):
        pass


def test_move_aside_keeps_everything_but_the_lock(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    with folder.hold():
        assert folder.move_aside() is None
        went = []
        for content in ("one", "two"):
            folder.checkpoints(0, "first").mkdir(parents=True)
            folder.file("plan.json").write_text(content)
            went.append(folder.move_aside())
            assert [p.name for p in folder.path.iterdir()] == [".lock"]
    assert [(w / "plan.json").read_text() for w in went if w] == ["one", "two"]
    assert all(w and (w / "checkpoints" / "0-first").is_dir() for w in went)


def written(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_rows_that_are_no_objects_are_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"batch": 1}\n[]\n3\nnull\n\0\0\n{"batch": 2}\n')
    assert read_rows(path) == [{"batch": 1}, {"batch": 2}]


@pytest.mark.parametrize("torn", ["", '{"batch": 5, "lo', '{"batch": 5}', "\n"])
@pytest.mark.parametrize("kept", [0, 3, 5])
def test_rows_are_cut_and_a_torn_last_one_is_dropped(tmp_path: Path, torn: str, kept: int) -> None:
    path = tmp_path / "metrics.jsonl"
    cut_rows(path, lambda row: True)
    assert not path.exists() and read_rows(path) == []
    rows = [{"batch": i, "loss": 0.1 * i, "name": "ü\u2028"} for i in range(5)]
    path.write_text(written(rows) + torn)
    assert read_rows(path) == rows + [{"batch": 5}] * torn.endswith("}")
    cut_rows(path, lambda row: row["batch"] < kept)
    assert path.read_text() == written(rows[:kept])
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_last_row_that_lacks_its_end_of_line_gets_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(written([{"batch": 0}]) + '{"batch": 1}')
    cut_rows(path, lambda row: True)
    assert path.read_text() == written([{"batch": 0}, {"batch": 1}])


@hypothesis.given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 200), st.integers(0, 60))
def test_what_stays_is_not_read(length: int, cut: int, block: int, torn: int) -> None:
    cut = min(cut, length)
    rows = [{"batch": i, "x": "y" * (i * 7 % 50)} for i in range(length)]
    asked: list[int] = []

    def keep(row: dict[str, Any]) -> bool:
        asked.append(row["batch"])
        return bool(row["batch"] < cut)

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "_BLOCK", block)
        path = Path(folder) / "metrics.jsonl"
        path.write_text(written(rows) + json.dumps({"batch": length, "x": "z" * 60})[: torn + 1])
        cut_rows(path, keep)
        assert path.read_text() == written(rows[:cut])
    assert asked == list(range(length - 1, max(cut - 2, -1), -1))
