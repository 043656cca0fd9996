"""States of training: what ranks share is made by one of them while no other looks."""

from __future__ import annotations

from typing import Any

import pytest
from composer.utils import dist

from ncamix.training.states import resume_data


@pytest.mark.parametrize(
    ("rank", "order"),
    [
        (0, ["look", "meet", "make", "meet"]),
        (1, ["look", "meet", "meet", "make"]),
    ],
)
def test_ranks_of_a_node_resume_their_data_one_after_the_other(
    rank: int, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []
    made: list[dict[str, Any]] = []

    class Dataset:
        def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:
            found.append("look")
            return {"epoch": -1, "sample_in_epoch": num_samples, "shuffle_seed": 9}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            found.append("make")
            made.append(state)

    monkeypatch.setattr(dist, "get_local_rank", lambda: rank)
    monkeypatch.setattr(dist, "barrier", lambda: found.append("meet"))
    resume_data(Dataset(), 48)
    assert found == order
    assert made == [{"epoch": 0, "sample_in_epoch": 48, "shuffle_seed": 9}]
