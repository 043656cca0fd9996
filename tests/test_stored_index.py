"""Indexes of data sets that exist already: found, fetched once, and what they lack learned."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Planner
from faulty_store import FaultyStore, faulty_store
from stored_data import ENCODINGS, LENGTH, NUM, foreign, read, sent, some_ids, stored_plan, write

from ncamix import hashing, stored_index
from ncamix.errors import UserError
from ncamix.stored_index import known_index
from ncamix.text_compilation import prepare_text


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    with faulty_store(monkeypatch) as store:
        yield store


@pytest.mark.parametrize(
    ("url", "said"),
    [("s3://bucket/nowhere", "no index.json"), ("nonesuch://bucket/x", "not among the stores")],
)
def test_a_remote_that_cannot_be_had(
    url: str, said: str, plan_of: Planner, store: FaultyStore
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        prepare_text(stored_plan(plan_of, f"remote: '{url}'"))
    (problem,) = caught.value.problems
    assert (problem.path, problem.line > 0) == ("sources.mine.remote", True)
    assert url in problem.what and problem.remedy


def test_a_remote_of_another_length(tmp_path: Path, plan_of: Planner, store: FaultyStore) -> None:
    foreign(tmp_path / "data", "ndarray:uint16", some_ids(8), "uint16")
    url = sent(store, tmp_path / "data")
    with pytest.raises(UserError, match="hold 8 ids, and sequences of 32 tokens need 33, or 32"):
        prepare_text(stored_plan(plan_of, f"remote: '{url}'"))


@pytest.mark.parametrize("compression", [None, "gz:6", "bz2", "zstd", "br:5", "snappy"])
def test_the_first_sample_says_the_length(
    compression: str | None, tmp_path: Path, plan_of: Planner
) -> None:
    for encoding in ENCODINGS:
        data = tmp_path / encoding.replace(":", "-")
        foreign(data, encoding, some_ids(40), "uint16", compression=compression)
        dtype = ", dtype: uint16" if encoding == "bytes" else ""
        with pytest.raises(UserError, match="hold 40 ids, and sequences of 32 .* need 33") as told:
            stored_plan(plan_of, f"local: {data.name}{dtype}")
        assert "write sequence_length: 39 or 40" in str(told.value)


def test_a_first_shard_that_is_broken(tmp_path: Path, plan_of: Planner) -> None:
    for compression in (None, "zstd", "gz", "br"):
        for folder, cut in (("short", 20), ("empty", 0)):
            foreign(tmp_path / folder, "ndarray", some_ids(33), "uint16", compression=compression)
            shard = min((tmp_path / folder).glob("shard.*"))
            shard.write_bytes(shard.read_bytes()[:cut])
            with pytest.raises(UserError, match=r"sources.mine: .*shard.00000") as caught:
                stored_plan(plan_of, f"local: {folder}")
            assert caught.value.problems[0].remedy
            shutil.rmtree(tmp_path / folder)


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_contents_enter_where_the_index_has_no_hashes(
    compression: str | None, tmp_path: Path, plan_of: Planner
) -> None:
    def fingerprint(ids: np.ndarray, hashes: list[str] | None, key: str) -> str:
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        write(tmp_path / "data", compression=compression, ids=ids, hashes=hashes)
        return stored_plan(plan_of, f"{key}: data").sources["mine"].fingerprint

    ids = np.random.default_rng(1).integers(1, 257, (NUM, LENGTH + 1))
    other = ids.copy()
    other[[0, 1]] = other[[1, 0]]  # of the same sizes, unpacked
    for key in ("local", "remote"):
        first = fingerprint(ids, None, key)
        assert fingerprint(ids, None, key) == first != fingerprint(other, None, key)
        assert fingerprint(ids, ["sha1"], key) != fingerprint(other, ["sha1"], key)


def test_hashes_in_the_index_spare_reading(
    tmp_path: Path, plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    stock = hashing.file_hashes
    monkeypatch.setattr(
        stored_index, "file_hashes", lambda p, say: asked.extend(p) or stock(p, say)
    )
    write(tmp_path / "hashed", hashes=["xxh64"])
    stored_plan(plan_of, "local: hashed")
    assert not asked
    write(tmp_path / "other", hashes=["sha1"])  # which nobody checks
    stored_plan(plan_of, "local: other")
    assert asked == sorted((tmp_path / "other").glob("shard.*.mds"))
    asked.clear()
    write(tmp_path / "bare", compression="gz")
    stored_plan(plan_of, "local: bare")
    assert asked == sorted((tmp_path / "bare").glob("shard.*.gz"))


def test_what_a_remote_lacks_is_learned_once(
    tmp_path: Path, plan_of: Planner, store: FaultyStore
) -> None:
    """From an object store: the index, and the first shard for the length."""
    ids = some_ids(LENGTH)
    foreign(tmp_path / "data", "bytes", ids, "int64", compression="zstd")
    url = sent(store, tmp_path / "data")
    plan = stored_plan(plan_of, f"remote: '{url}'")
    source = plan.sources["mine"]
    assert (source.num_samples, source.masked, known_index(source)) == (None, True, None)
    store.requests.clear()
    plan = prepare_text(plan)
    got = [path.rpartition("/")[2] for method, path in store.requests if method == "GET"]
    assert got == ["index.json", "shard.00000.mds.zstd"]
    store.requests.clear()
    for known in (plan, stored_plan(plan_of, f"remote: '{url}'")):
        source = known.sources["mine"]
        assert (source.num_samples, source.short, source.masked) == (NUM, True, False)
        assert source.loss_tokens == LENGTH - 1
    assert not store.requests, "the cache has it"
    for _, sample, found, mask in read(plan, tmp_path / "stage"):
        assert found == [*ids[sample].tolist(), 0] and mask is not None
