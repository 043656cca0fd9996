"""Sources: samples are pure functions of meaning and number; ids stay in their range."""

from __future__ import annotations

import multiprocessing
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meanings import LENGTH, meaning

from ncamix.keys import fingerprint
from ncamix.sources import GENERATORS, KINDS, open_generator
from ncamix.sources.base import plain
from ncamix.sources.nca import NcaGenerator, NcaSource
from ncamix.sources.noise import NoiseSource


def nca(low: float = 0, high: float = 1, **keys: Any) -> dict[str, Any]:
    from decimal import Decimal

    defaults = {"alphabet": 2, "grid": 6, "burn_in": 2}
    band = {"gzip": [Decimal(str(low)), Decimal(str(high))]}
    return meaning("nca", **{**defaults, "band": band, **keys})


ALL = [
    nca(),
    nca(rules=3),
    nca(alphabet=3, grid=[6, 8]),
    meaning("noise", symbols=50),
    meaning("noise", symbols=50, distribution="zipf"),
    meaning("dyck", style="nested"),
    meaning("dyck", style="shuffle", symbols=20, depth=4),
]
NOISE, NESTED, SHUFFLE = ALL[3], ALL[5], ALL[6]


LIVELY = nca(
    0.3, 1, alphabet=4, grid=12
)  # two states on a small grid often die out, and look alike


@pytest.mark.parametrize("full", ALL)
def test_any_split_of_a_range_gives_the_same_rows(full: dict[str, Any]) -> None:
    generator = open_generator(full)
    whole = generator.samples(0, 40)
    assert whole.shape == (40, LENGTH + 1) and whole.dtype == np.uint32

    @given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(0, 10))
    @settings(deadline=None, max_examples=8)
    def check(sizes: list[int], start: int) -> None:
        for size in sizes:
            size = min(size, 40 - start)
            if size:
                rows = open_generator(full).samples(start, size, num_threads=1 + size % 2)
                assert np.array_equal(rows, whole[start : start + size])
            start += size

    check()
    far = open_generator(full).samples(2**33, 2)  # numbers beyond 32 bits
    assert np.array_equal(far[1], open_generator(full).samples(2**33 + 1, 1)[0])
    assert not np.array_equal(far[0], whole[0])


@pytest.mark.parametrize("full", ALL)
@pytest.mark.parametrize("first_id", [0, 70_000])
def test_ids_lie_in_their_range(full: dict[str, Any], first_id: int) -> None:
    if full["kind"] == "nca":
        size = {2: 18, 3: 83}[full["alphabet"]]
    else:
        size = full["symbols"] * (2 if full["kind"] == "dyck" else 1)
    keys = {"first_id": first_id}
    rows = open_generator({**full, **keys}).samples(0, 200)
    assert rows.min() >= first_id and rows.max() < first_id + size
    assert len(np.unique(rows)) > 10


@pytest.mark.parametrize("full", [LIVELY, NOISE, NESTED, SHUFFLE])
def test_every_part_of_the_meaning_matters(full: dict[str, Any]) -> None:
    rows = [open_generator(full).samples(0, 8)]
    for change in ({"seed": 1}, {"seed": "evaluation"}, {"seed": "0"}):
        rows.append(open_generator({**full, **change}).samples(0, 8))
    for i, a in enumerate(rows):
        for b in rows[:i]:
            assert not np.array_equal(a, b)
            assert not (a == b).all(axis=1).any()


def test_evaluation_is_not_what_is_trained_on() -> None:
    trained = {row.tobytes() for row in open_generator(LIVELY).samples(0, 500)}
    held = open_generator({**LIVELY, "seed": "evaluation"}).samples(0, 64)
    assert len(trained) == 500
    assert not {row.tobytes() for row in held} & trained


def test_bands_of_one_automaton_share_rules_and_their_scores() -> None:
    low, high, wide = (NcaGenerator(nca(*band)) for band in ((0, 0.2), (0.2, 1), (0, 1)))
    assert low.rules_key() == high.rules_key() == wide.rules_key()
    assert len({g.grid_key() for g in (low, high, wide)}) == 3
    automaton, slots = wide.automaton(), np.arange(20)
    first = automaton.find_rules(wide.rules_key(), wide.band(), slots)
    assert (first[0] == 0).all()  # any rule lies in [0, 1)
    for generator in (low, high):
        band = generator.band()
        attempts, scores = automaton.find_rules(generator.rules_key(), band, slots)
        inside = (first[1] >= band.low) & (first[1] < band.high)
        assert np.array_equal(attempts == 0, inside)
        assert np.array_equal(scores[inside], first[1][inside])
        assert ((band.low <= scores) & (scores < band.high)).all()
    for other in (nca(seed=1), nca(burn_in=3), nca(grid=8), nca(stride=2), nca(alphabet=3)):
        assert NcaGenerator(other).rules_key() != wide.rules_key()
    assert NcaGenerator(nca(first_id=9, rules=5)).rules_key() == wide.rules_key()


def test_a_sample_is_frames_with_their_delimiters() -> None:
    source = NcaSource(kind="nca", alphabet=2, grid=6, band={"gzip": [0, 1]})  # type: ignore
    assert (source.num_ids(), source.automaton.tokens_per_frame) == (18, 11)
    assert source.loss_start() == 11
    rows = open_generator(nca(first_id=100)).samples(0, 30) - 100
    assert (rows[:, ::11] == 16).all() and (rows[:, 10::11] == 17).all()
    inner = np.delete(rows, np.r_[0:33:11, 10:33:11], axis=1)
    assert inner.max() < 16


def test_a_pool_of_rules_meets_ever_new_grids() -> None:
    pooled = open_generator({**LIVELY, "rules": 3}).samples(0, 9)
    fresh = open_generator(LIVELY).samples(0, 9)
    assert len({row.tobytes() for row in pooled}) == 9
    assert not (pooled == fresh).all(axis=1).any()


def test_pictured_frames_are_those_of_the_samples() -> None:
    generator = NcaGenerator(nca(first_id=5))
    frames, scores = generator.frames(3, 4)
    assert frames.shape == (3, 4, 6, 6) and ((scores >= 0) & (scores < 1)).all()
    tokens = generator.automaton().tokens(frames, LENGTH + 1) + 5
    assert np.array_equal(tokens, generator.samples(0, 3))


def rows_into(connection: Any, full: dict[str, Any]) -> None:
    connection.send(open_generator(full).samples(0, 100, num_threads=2))


@pytest.mark.parametrize("full", [NOISE, NESTED, SHUFFLE])
def test_a_forked_child_makes_the_same(full: dict[str, Any]) -> None:
    here, there = multiprocessing.Pipe()
    own = open_generator(full).samples(0, 100, num_threads=2)
    child = multiprocessing.get_context("fork").Process(target=rows_into, args=(there, full))
    child.start()
    assert np.array_equal(here.recv(), own)
    child.join(60)
    assert child.exitcode == 0


def test_nca_bytes_stay_what_they_are() -> None:
    rows = open_generator(nca(low=0.1, high=0.4)).samples(3, 2)
    assert fingerprint({"rows": rows.tolist()}) == "7b40e18e773fbf9c357d1999c7d46783"


def test_every_endless_kind_has_a_generator() -> None:
    endless = {n for n, k in KINDS.items() if not k.finite and n != "blend"}
    assert endless == set(GENERATORS)


def test_plain_keeps_numbers_exact() -> None:
    source = NoiseSource(kind="noise", distribution="zipf", symbols=9)
    assert plain({"a": (1, None, source)})["a"][2]["symbols"] == 9
    assert source.meaning()["exponent"] == "1" and source.num_ids() == 9
