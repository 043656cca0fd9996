"""Samples of stored data sets by number, in any order: each shard is read or fetched once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import Planner
from faulty_store import FaultyStore, faulty_store
from plain_data import read_samples
from test_stored import NUM, sent, stored_plan, write

from ncamix import inventory, stored_samples, stores, supplies
from ncamix.compilation.datasets import Writing, compile_plan
from ncamix.errors import UserError
from ncamix.stored import stored_sizes
from ncamix.stored_samples import StoredSamples
from ncamix.waiting import quiet


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    monkeypatch.setattr(stores, "TRIES", 3)
    monkeypatch.setattr(stores, "FIRST_WAIT", 0.02)
    with faulty_store(monkeypatch) as store:
        yield store


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the files that were read as a whole."""
    sizes: list[int] = []
    stock = supplies.damage_in
    monkeypatch.setattr(supplies, "damage_in", lambda d, *a: sizes.append(len(d)) or stock(d, *a))
    return sizes


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_baking_reads_each_shard_once(
    compression: str | None,
    tmp_path: Path,
    plan_of: Planner,
    checked: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over all threads, baked shards and stages."""
    monkeypatch.setattr(inventory, "SHARD_TOKENS", 16 * 33)
    ids = np.random.default_rng(5).integers(0, 257, (1000, 33))
    write(tmp_path / "data", ids=ids, compression=compression)
    num_shards = len(list((tmp_path / "data").glob("shard.*")))
    plan = plan_of(
        "tokenizer: bytes\nsources: {mine: {kind: mds, local: data, repeat: free}}\nstages:\n"
        "  - {name: one, duration: 60ba, mixture: {mine: 1}}\n"
        "  - {name: two, duration: 60ba, mixture: {mine: 1}}\n"
    )
    plan = compile_plan(plan, tmp_path / "out", quiet, None, Writing(None, 2, True))
    assert num_shards > 12 and len(checked) == num_shards * (1 if compression is None else 2)
    known = {row.tobytes() for row in ids.astype(np.uint32)}
    for stage in ("0-one", "1-two"):
        baked = read_samples(tmp_path / "out" / stage).astype(np.uint32)
        assert len(baked) == 480 and all(row.tobytes() in known for row in baked)


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_remote_shard_is_fetched_once(
    compression: str | None, tmp_path: Path, plan_of: Planner, store: FaultyStore
) -> None:
    ids = write(tmp_path / "data", compression=compression)
    plan = stored_plan(plan_of, f"remote: '{sent(store, tmp_path / 'data')}'")
    stored_sizes(plan)
    store.requests.clear()
    samples = StoredSamples(plan.sources["mine"])
    draws = [np.random.default_rng(i).integers(0, NUM, 7) for i in range(20)]
    with ThreadPoolExecutor(4) as pool:
        for draw, (found, _) in zip(draws, pool.map(samples.chosen, draws), strict=True):
            assert np.array_equal(found, ids[draw])
    got = Counter(path for method, path in store.requests if method == "GET")
    assert len(got) > 1 and set(got.values()) == {1}


def test_what_does_not_fit_is_told_with_its_size(
    tmp_path: Path, plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = np.random.default_rng(5).integers(0, 257, (1000, 33))
    write(tmp_path / "data", ids=ids, compression="zstd")
    source = stored_plan(plan_of, "local: data").sources["mine"]
    whole = StoredSamples(source)
    assert np.array_equal(whole.range(0, 1000)[0], ids)
    monkeypatch.setattr(stored_samples, "free_bytes", lambda folder: 18_000)  # two shards, twice
    samples = StoredSamples(source)
    for first in range(0, 1000, 50):  # in order: any room does
        assert np.array_equal(samples.range(first, 50)[0], ids[first : first + 50])
        assert len(list(Path(samples._scratch.name).rglob("shard.*.mds"))) <= 2
    with pytest.raises(UserError, match="takes up to 81.2 kB .* where 9 kB were") as told:
        for draw in np.random.default_rng(1).permutation(1000).reshape(100, 10):
            assert np.array_equal(samples.chosen(draw)[0], ids[draw])
    assert "make room for 162 kB there, set TMPDIR" in told.value.problems[0].remedy


def test_a_store_that_is_gone_is_told(
    tmp_path: Path, plan_of: Planner, store: FaultyStore, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data")
    plan = stored_plan(plan_of, f"remote: '{sent(store, tmp_path / 'data')}'")
    stored_sizes(plan)
    store.faults = lambda method, path: "500"
    store.requests.clear()
    with pytest.raises(UserError, match="mine' cannot be read: .* does not give shard.00000.mds"):
        StoredSamples(plan.sources["mine"]).chosen(np.array([0]))
    assert len(store.requests) == 3
    assert capsys.readouterr().err.count("it is tried again for a while") == 1
