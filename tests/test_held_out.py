"""Differences over held-out documents: of each metric, and where there are none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_statistics import document_interval

from ncamix.held_out import Documents, document_differences, documents_of

Arm = list[Documents | None]


def arm(mean: float, num: int = 50, seeds: int = 3, size: float = 100.0) -> Arm:
    """Runs that cost `mean` nats a unit on the same documents, about."""
    rng = np.random.default_rng(int(100 * mean))
    units = size + np.arange(num) % 7
    return [Documents(units * rng.normal(mean, 0.1, num), units) for _ in range(seeds)]


def nats(runs: Arm) -> np.ndarray:
    return np.stack([run.nats for run in runs if run is not None])


def units(runs: Arm) -> np.ndarray:
    assert runs[0] is not None
    return runs[0].units


def test_a_loss_and_bits_per_byte_are_those_of_the_interval_over_documents() -> None:
    a, b, c = arm(2.0), arm(1.9), arm(1.8, seeds=2)
    for metric, scale in (("loss/code", 1.0), ("bits_per_byte/code", math.log(2))):
        found, remarks = document_differences([(a, b), (c, b[:2])], metric, 0.9)
        assert remarks == []
        for one, (first, second) in zip(found, [(a, b), (c, b[:2])], strict=True):
            value, interval = document_interval(
                nats(first) / scale, nats(second) / scale, units(a), 0, 0.9
            )
            assert one is not None
            assert one[0] == pytest.approx(value)
            assert (one[1].low, one[1].high) == pytest.approx((interval.low, interval.high))
            assert one[1].confidence == 0.9


def test_perplexity_is_of_the_mean_nats_of_each_run() -> None:
    a, b = arm(2.0), arm(1.9)
    ((value, interval),), _ = document_differences([(a, b)], "perplexity/code", 0.95)  # type: ignore
    runs = [np.exp(nats(x).sum(1) / units(x).sum()).mean() for x in (a, b)]
    assert value == pytest.approx(runs[0] - runs[1])
    assert interval.low < value < interval.high


def test_a_study_is_drawn_as_its_pairs_are() -> None:
    a, b, c = arm(2.0), arm(1.9), arm(1.8)
    together, _ = document_differences([(a, b), (c, b), (a, c)], "loss/code", 0.95)
    for one, pair in zip(together, [(a, b), (c, b), (a, c)], strict=True):
        (alone,), _ = document_differences([pair], "loss/code", 0.95)
        assert one is not None and alone is not None
        assert [one[0], one[1].low, one[1].high] == pytest.approx(
            [alone[0], alone[1].low, alone[1].high]
        )


def test_without_the_same_sound_documents_there_is_nothing() -> None:
    a, b = arm(2.0), arm(1.9)
    broken: Arm = [Documents(nats(b)[0] * math.nan, units(b)), *b[1:]]
    others, lone = arm(1.9, size=90.0), arm(2.0, num=1)
    pairs = [(a, [None, *b[1:]]), (a, broken), (a, others), (lone, lone), ([], []), (a, b)]
    found, remarks = document_differences(pairs, "loss/code", 0.95)
    assert [one is None for one in found] == [True] * 5 + [False]
    assert remarks == ["arms that were not measured on the same documents are not compared by them"]


def test_few_documents_are_remarked_on() -> None:
    found, remarks = document_differences([(arm(2.0, 12), arm(1.9, 12))], "loss/code", 0.95)
    assert found[0] is not None
    assert remarks == ["over 12 held-out documents, intervals are too narrow"]


def test_documents_come_in_the_units_of_their_metric() -> None:
    written = {"nats": [3.0, 4.0], "num_tokens": [1, 2], "num_bytes": [5, 6]}
    for metric, expected in (("loss/code", [1, 2]), ("bits_per_byte/code", [5, 6])):
        found = documents_of(written, metric)
        assert found is not None
        assert found.units.tolist() == expected and found.nats.tolist() == [3, 4]
    assert documents_of({**written, "num_bytes": None}, "bits_per_byte/code") is None
    assert documents_of(None, "loss/code") is None
