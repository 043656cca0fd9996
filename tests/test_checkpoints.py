"""Which checkpoint of a stage is the newest, and that a run's folder is nobody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from ncamix.errors import UserError
from ncamix.files import DATA_LOCK, RUN_LOCK, leave_nothing, make_folder
from ncamix.training.checkpoints import checkpoint_path, checkpoints, latest_checkpoint


def test_checkpoints_stand_in_the_order_of_batches(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for batch in (1_000_000, 999_500, 50):
        checkpoint_path(tmp_path, batch).touch()
    (tmp_path / ".saving-1000500.pt").touch()
    (tmp_path / "ba000070.pt.old").touch()
    assert [batch for batch, _ in checkpoints(tmp_path)] == [50, 999_500, 1_000_000]
    assert latest_checkpoint(tmp_path) == (tmp_path / "ba1000000.pt", 1_000_000)


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
