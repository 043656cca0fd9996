"""How often ids occur, against a count by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ncamix.collation import Rows
from ncamix.training.evaluation import EvaluationSet
from ncamix.training.occurrences import occurrences


def held(samples: list[list[int]], mask: list[list[int]] | None = None, start: int = 1) -> Any:
    source: Any = SimpleNamespace(first_id=10, num_ids=6)
    masks = None if mask is None else np.array(mask, np.bool_)
    return EvaluationSet(source, Rows(start), np.array(samples, np.uint32), masks, None)


def test_targets_are_counted_by_rank() -> None:
    found = occurrences([held([[10, 11, 11, 15], [15, 15, 12, 11]]), held([[12, 11, 13, 13]])])
    # 11 four times, 15 and 13 twice, 12 once; first ids are no targets
    assert found == {
        "first_id": 10,
        "num_ids": 6,
        "num_tokens": 9,
        "counts": [[4, 1], [2, 2], [1, 1]],
    }


@pytest.mark.parametrize("masked", [True, False])
def test_only_what_has_a_loss_counts(masked: bool) -> None:
    samples = [[10, 14, 11, 11], [10, 14, 12, 11]]
    mask = [[0, 0, 1, 1], [0, 0, 0, 0]]
    found = occurrences([held(samples, mask) if masked else held(samples, start=3)])
    assert found["counts"] == [[2, 1]] and found["num_tokens"] == 2
    assert occurrences([held(samples, [[0] * 4] * 2)])["counts"] == []
