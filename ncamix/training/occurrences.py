"""Occurrences: how often each id is a target of a source's held-out samples, by rank.

    sets of held-out samples -> counts of ids -> [count, how many ids have it], the largest first

That is a rank-frequency curve in a few numbers, for plots beside Zipf's law. Which ids they are is
not said: ranks are all that such a curve knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ncamix.sources.base import MASKED
from ncamix.training.evaluation import EvaluationSet


def occurrences(sets: Sequence[EvaluationSet]) -> dict[str, Any]:
    """Of sets of one source, at least one: its range of ids, `first_id` and `num_ids`;
    `num_tokens`, the targets of all sets; and `counts`, pairs of how often an id occurs, once or
    more, and how many ids occur so often."""
    source = sets[0].source
    counts = np.zeros(source.num_ids, np.int64)
    for held in sets:
        targets = held.labels(slice(None))
        own = targets[targets != MASKED] - source.first_id
        counts += np.bincount(own, minlength=source.num_ids)
    found, ids = np.unique(counts[counts > 0], return_counts=True)
    return {
        "first_id": source.first_id,
        "num_ids": source.num_ids,
        "num_tokens": int(counts.sum()),
        "counts": np.stack([found, ids], axis=1)[::-1].tolist(),
    }
