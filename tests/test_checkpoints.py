"""Which checkpoint of a stage is the newest, and that a run's folder is nobody else's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from ncamix.errors import UserError
from ncamix.files import DATA_LOCK, RUN_LOCK, leave_nothing, make_folder
from ncamix.models import Llama
from ncamix.run_folder import checkpoint_path, checkpoints_in
from ncamix.training.checkpoints import sound_checkpoint, write_weights
from ncamix.training.model import build_model
from ncamix.training.state_files import write_file


def test_checkpoints_stand_in_the_order_of_batches(tmp_path: Path) -> None:
    assert checkpoints_in(tmp_path) == []
    for batch in (1_000_000, 999_500, 50):
        checkpoint_path(tmp_path, batch).touch()
    (tmp_path / ".saving-1000500.pt").touch()
    (tmp_path / "ba000070.pt.old").touch()
    assert [batch for batch, _ in checkpoints_in(tmp_path)] == [50, 999_500, 1_000_000]
    assert checkpoints_in(tmp_path)[-1] == (1_000_000, tmp_path / "ba1000000.pt")
    (tmp_path / "ba1000500").mkdir()
    assert checkpoints_in(tmp_path)[-1] == (1_000_500, tmp_path / "ba1000500")
    assert checkpoint_path(tmp_path, 1_000_500) == tmp_path / "ba1000500"


def test_damaged_checkpoints_are_set_aside_for_the_one_before(tmp_path: Path) -> None:
    folder, told = tmp_path / "0-warm", list[str]()
    folder.mkdir()
    assert sound_checkpoint(folder, told.append) is None
    for batch in (10, 20, 30):
        write_file(folder / f"ba{batch:06}.pt", {"n": batch, "x": torch.ones(3)})
    os.truncate(folder / "ba000030.pt", 400)
    (folder / "ba000040").mkdir()  # without a file
    assert sound_checkpoint(folder, told.append) == folder / "ba000020.pt"
    assert [line.split(": it is now ")[1].split(",")[0] for line in told] == [
        "ba000040.damaged",
        "ba000030.pt.damaged",
    ]
    assert [batch for batch, _ in checkpoints_in(folder)] == [10, 20]
    for batch in (10, 20):
        (folder / f"ba{batch:06}.pt").write_bytes(b"no checkpoint")
    with pytest.raises(UserError, match=r"(?s)none before it.*stage 'warm' anew.*--fresh"):
        sound_checkpoint(folder, told.append)
    assert [batch for batch, _ in checkpoints_in(folder)] == [10]


def test_a_checkpoint_that_runs_code_is_no_damaged_one(tmp_path: Path) -> None:
    folder, made = tmp_path / "0-warm", tmp_path / "made"
    folder.mkdir()
    write_file(folder / "ba000010.pt", {"n": 1})
    torch.save({"n": Mine(made)}, folder / "ba000020.pt")
    with pytest.raises(UserError, match=r"(?s)may run code: \w+\.mkdir.*--trust"):
        sound_checkpoint(folder, print)
    assert not made.exists() and [batch for batch, _ in checkpoints_in(folder)] == [10, 20]


class Mine:
    """A pickle that creates a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_weights_stand_under_the_model_s_own_names(tmp_path: Path) -> None:
    spec = Llama(layers=1, heads=1, width=8, tie_embeddings=True)
    model = build_model(spec, 9, 8, 1)
    write_weights(model, tmp_path, {"stage": "warm"})
    with safe_open(tmp_path / "weights.safetensors", framework="pt") as file:
        assert file.metadata() == {"stage": "warm"}
        names = list(file.keys())
        found = {name: file.get_tensor(name) for name in names}
    known = dict(model.named_parameters())
    assert found.keys() == known.keys() and "lm_head.weight" not in found
    assert all(torch.equal(value, known[name]) for name, value in found.items())
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]


def test_a_folder_of_another_kind_or_owner_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RUN_LOCK).touch()
    for name, lock in (("mine", RUN_LOCK), ("mine", DATA_LOCK), ("run", DATA_LOCK)):
        with pytest.raises(UserError, match="holds other things"):
            make_folder(tmp_path / name, lock)
    assert make_folder(tmp_path / "run", RUN_LOCK) is None


def test_what_was_created_for_nothing_is_removed(tmp_path: Path) -> None:
    created = make_folder(tmp_path / "a" / "b", RUN_LOCK)
    assert created == tmp_path / "a"
    (tmp_path / "a" / "b" / RUN_LOCK).touch()
    leave_nothing(tmp_path / "a" / "b", created, RUN_LOCK)
    assert list(tmp_path.iterdir()) == []
