"""Differences over held-out documents: how much the same runs would differ on other ones.

    nats and units of each document, by run -> documents drawn anew for all runs together
    -> the difference of each pair of arms, with a percentile interval

This says nothing of other seeds: it is shown beside the test between seeds, never in its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ncamix.statistics import Floats, Interval, document_difference, resampled_ratios

FEW_DOCUMENTS = 30
_DRAWN_BY = 0  # the seed of the draws, the same for all studies


@dataclass(frozen=True)
class Documents:
    """Held-out documents of one run: float64 [documents] each, in one order for all runs. units:
    tokens, or bytes for bits per byte."""

    nats: Floats
    units: Floats


def documents_of(written: Mapping[str, Any] | None, metric: str) -> Documents | None:
    """The documents of a source, as in `test.json`, in the units of a metric; None without them."""
    unit = "num_bytes" if metric.startswith("bits_per_byte") else "num_tokens"
    if not written or written.get(unit) is None:
        return None
    return Documents(np.array(written["nats"], float), np.array(written[unit], float))


def document_differences(
    pairs: Sequence[tuple[Sequence[Documents | None], Sequence[Documents | None]]],
    metric: str,
    confidence: float,
) -> tuple[list[tuple[float, Interval] | None], list[str]]:
    """The difference of each pair of arms over their runs, seed by seed, with its interval; and
    what to keep in mind.

    None where a run has no documents, where they are fewer than two or not the same for all, or
    where their nats are no finite numbers. The value is the mean over seeds of the metric over all
    documents, the first arm's less the second's; see `statistics.document_difference`. All runs on
    the same documents are drawn together, so a study costs no more than a pair.
    """
    remarks, keys = [], [_same(*pair) for pair in pairs]
    if any(key == b"" for key in keys):
        remarks.append("arms that were not measured on the same documents are not compared by them")
    out: list[tuple[float, Interval] | None] = [None] * len(pairs)
    for key in {key for key in keys if key}:
        of_key = [i for i, other in enumerate(keys) if other == key]
        runs = {id(run): run for i in of_key for arm in pairs[i] for run in arm if run is not None}
        units = next(iter(runs.values())).units
        count = int(np.count_nonzero(units > 0))
        if count < 2:
            continue
        if count < FEW_DOCUMENTS:
            remarks.append(f"over {count} held-out documents, intervals are too narrow")
        nats = np.stack([run.nats for run in runs.values()])
        value, drawn = (_as(metric, x) for x in resampled_ratios(nats, units, _DRAWN_BY))
        place = {run: row for row, run in enumerate(runs)}
        for i in of_key:
            a, b = ([place[id(run)] for run in arm] for arm in pairs[i])
            out[i] = document_difference(value, drawn, a, b, confidence)
    return out, remarks


def _same(*arms: Sequence[Documents | None]) -> bytes | None:
    """What all runs' documents are known by; empty where they differ, None where there are none."""
    runs = [run for arm in arms for run in arm]
    if not all(arms) or any(run is None or not np.isfinite(run.nats).all() for run in runs):
        return None
    keys = {run.units.tobytes() for run in runs if run is not None}
    return keys.pop() if len(keys) == 1 else b""


def _as(metric: str, nats: Floats) -> Floats:
    """Nats per unit as a metric."""
    name = metric.partition("/")[0]
    if name == "perplexity":
        return np.exp(nats)
    return nats / math.log(2) if name == "bits_per_byte" else nats
