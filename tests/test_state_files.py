"""States as files and folders: what comes back, what is damaged, and that no code runs."""

from __future__ import annotations

import json
import os
import pickle
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed
from composer.utils import dist
from torch.distributed.checkpoint.metadata import BytesStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from ncamix.errors import UserError
from ncamix.training import checkpoints, state_files
from ncamix.training.checkpoints import Checkpointer
from ncamix.training.state_files import METADATA, STATE, Damaged, Tree, check, read

Write = Callable[[Path, Tree], None]
KINDS = ["whole", "folder"]


@pytest.fixture(autouse=True)
def one_rank() -> Iterator[None]:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(params=KINDS)
def write(request: pytest.FixtureRequest) -> Write:
    return state_files.write_file if request.param == "whole" else write_folder


def write_folder(path: Path, tree: Tree) -> None:
    state_files.complete_folder(path, state_files.write_shards(path, tree))


class Mine:
    """A pickle that creates a file when it is read."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def tree() -> Tree:
    return {
        "format": 1,
        "model": {
            "a.weight": torch.arange(6.0).view(3, 2),
            "b": torch.ones(2, dtype=torch.bfloat16),
        },
        "moments": {"a.weight": {"step": torch.tensor(3.0), "mean": torch.full((3, 2), 2.0)}},
        "callbacks": {"C": {"n": [1, 2], "a.weight": torch.zeros(3, 2), "none": None, "x": 0.1}},
        "random": {"0": {"cpu": torch.arange(9, dtype=torch.uint8)}},
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, torch.Tensor):
        other = other.full_tensor() if isinstance(other, DTensor) else other
        return one.dtype == other.dtype and torch.equal(one, other)
    return bool(one == other)


def parts() -> dict[str, torch.Tensor]:
    mesh = init_device_mesh("cpu", (1,))
    return {"a.weight": distribute_tensor(torch.zeros(3, 2), mesh, [Shard(0)])}


def test_a_tree_comes_back_whole_or_in_parts(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "state"
    write(path, tree())
    check(path)
    assert same(tree(), read(path, {}))
    shared = read(path, parts())
    assert same(tree(), shared)
    assert isinstance(shared["model"]["a.weight"], DTensor)
    assert isinstance(shared["moments"]["a.weight"]["mean"], DTensor)
    assert not isinstance(shared["moments"]["a.weight"]["step"], DTensor)
    assert not isinstance(shared["callbacks"]["C"]["a.weight"], DTensor)
    again = tmp_path / "again"
    if write is state_files.write_file:
        shared = state_files.gathered(shared)
    write(again, shared)
    assert same(tree(), read(again, {}))


def test_a_folder_that_cannot_be_completed_is_told_on_all_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the first of them, which alone writes what is not in shards; nothing of it stays."""

    def fail(path: Path) -> int:
        raise OSError(28, "No space left on device")

    never = checkpointer(tmp_path, lambda: None)
    monkeypatch.setattr(state_files, "_sum", fail)
    monkeypatch.setattr(checkpoints, "is_sharded", lambda model: True)
    monkeypatch.setattr(checkpoints, "state_of", lambda state, model: tree())
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.raises(UserError, match="cannot be written: .*No space left"):
        never.save(None, 5, last=False)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_the_rows_of_a_checkpoint_are_on_the_disk_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    saves = checkpointer(tmp_path, lambda: seen.append(sorted(os.listdir(tmp_path))))
    monkeypatch.setattr(checkpoints, "state_of", lambda state, model: tree())
    for batch in (5, 6):
        saves.save(None, batch, last=False)  # type: ignore[arg-type]
    assert seen == [[".saving-ba000005.pt"], [".saving-ba000006.pt", "ba000005.pt"]]


def checkpointer(folder: Path, settle: Any) -> Checkpointer:
    """One that saves after every batch."""
    model = torch.nn.Linear(1, 1)
    return Checkpointer(folder, 1, 2, lambda: None, lambda: None, settle, model, None)


def test_any_damage_is_found(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "state"
    write(path, tree())
    files = [path] if path.is_file() else sorted(path.iterdir())
    assert path.is_file() or {STATE, METADATA} < {file.name for file in files}
    dice = random.Random(1)
    for file in files:
        sound = file.read_bytes()
        flipped = bytearray(sound)
        flipped[dice.randrange(len(sound) // 2)] ^= 0x10
        for wrong in (b"", sound[: len(sound) // 2], sound[:-1], bytes(flipped)):
            file.write_bytes(wrong)
            if file.name == STATE and wrong == bytes(flipped):
                continue  # plain values, by the disk's own checks
            with pytest.raises(Damaged):
                check(path)
        file.unlink()
        with pytest.raises(Damaged):
            check(path)
        file.write_bytes(sound)
    check(path)


def test_what_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, path = tmp_path / "made", tmp_path / "ba000001.pt"
    torch.save({**tree(), "callbacks": {"C": Mine(made)}}, path)
    with pytest.raises(UserError, match=r"(?s)may run code: \w+\.mkdir.*--trust"):
        check(path)
    with pytest.raises(UserError, match=r"(?s)may run code: a pickled object.*--trust"):
        read(path, {})
    assert not made.exists()
    path.write_bytes(pickle.dumps(Mine(made)))
    with pytest.raises(Damaged):
        check(path)
    assert not made.exists()
    torch.save({**tree(), "callbacks": {"C": Mine(made)}}, path)
    monkeypatch.setenv("NCAMIX_TRUST", "1")
    check(path)
    read(path, {})
    assert made.exists()


def test_the_metadata_of_a_folder_run_no_code(tmp_path: Path) -> None:
    made, path = tmp_path / "made", tmp_path / "ba000001"
    write_folder(path, tree())
    metadata = pickle.loads((path / METADATA).read_bytes())
    metadata.planner_data = Mine(made)
    replace(path, metadata)
    with pytest.raises(UserError, match=r"(?s)may run code: \w+\.mkdir.*--trust"):
        check(path)
    metadata.planner_data = None
    metadata.state_dict_metadata["model/b"] = BytesStorageMetadata()  # read by any pickle
    replace(path, metadata)
    with pytest.raises(UserError, match="may run code: .*BytesStorageMetadata"):
        check(path)
    assert not made.exists()


def replace(folder: Path, metadata: Any) -> None:
    """Give a folder other metadata, as whoever made it could."""
    data = pickle.dumps(metadata)
    (folder / METADATA).write_bytes(data)
    state = json.loads((folder / STATE).read_text())
    state["files"][METADATA] = [len(data), state_files._sum(folder / METADATA)]
    (folder / STATE).write_text(json.dumps(state))
