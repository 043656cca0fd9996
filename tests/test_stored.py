"""Data sets that exist already: found, fetched, read in place, unpacked, and their ids checked."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from conftest import Planner
from faulty_store import FaultyStore, faulty_store
from streaming import MDSWriter
from streaming.base.util import merge_index

from ncamix import cache, hashing, stored
from ncamix.errors import UserError
from ncamix.files import DATA_LOCK
from ncamix.plan import Plan
from ncamix.stored import (
    known_index,
    stored_rows,
    stored_sizes,
)
from ncamix.stored_samples import StoredSamples
from ncamix.streams import make_dataset
from ncamix.text_compilation import prepare_text, tokenizer_file

LENGTH = 32
NUM = 100  # samples of a data set


def write(
    folder: Path,
    dtype: str = "uint16",
    compression: str | None = None,
    masked: bool = False,
    ids: np.ndarray | None = None,
    hashes: list[str] | None = None,
) -> np.ndarray:
    """A data set as MosaicML's own writer makes it, in several shards; int64 [NUM, LENGTH + 1]."""
    if ids is None:
        ids = np.random.default_rng(5).integers(0, 257, (NUM, LENGTH + 1))
    columns = {"extra": "str", "tokens": f"ndarray:{dtype}:{LENGTH + 1}"}
    if masked:
        columns["loss_mask"] = f"ndarray:uint8:{LENGTH + 1}"
    with MDSWriter(
        out=str(folder), columns=columns, compression=compression, hashes=hashes, size_limit=1 << 12
    ) as writer:
        for i, row in enumerate(ids):
            sample: dict[str, Any] = {"tokens": row.astype(dtype), "extra": "x" * (i % 7)}
            if masked:
                sample["loss_mask"] = (row % 2).astype(np.uint8)
            writer.write(sample)
    return ids


def stored_plan(plan_of: Planner, *places: str) -> Plan:
    """A plan of `mine`, and `mine2`, ... for further places."""
    names = ["mine", *(f"mine{i}" for i in range(2, len(places) + 1))]
    lines = ["tokenizer: bytes", "sources:"]
    lines += [
        f"  {n}: {{kind: mds, {p}, repeat: free}}" for n, p in zip(names, places, strict=True)
    ]
    mixture = ", ".join(f"{name}: 1" for name in names)
    lines += ["stages:", f"  - {{name: one, duration: 20ba, mixture: {{{mixture}}}}}"]
    return plan_of("\n".join(lines) + "\n")


def read(plan: Plan, folder: Path) -> list[tuple[int, int, list[int], list[int] | None]]:
    """(source, sample, ids, mask) of all places of the stage's dataset."""
    folder.mkdir()
    dataset = make_dataset(plan, plan.stages[0], folder, None, 1)
    try:
        return [
            (
                s["source"],
                s["sample"],
                s["tokens"].astype(np.int64).tolist(),
                s["loss_mask"].tolist() if "loss_mask" in s else None,
            )
            for s in dataset
        ]
    finally:
        dataset.release()


@pytest.mark.parametrize(
    ("dtype", "compression", "masked", "key"),
    [
        ("uint16", None, True, "local"),
        ("int64", "zstd:3", True, "local"),
        ("int32", "gz", False, "remote"),
        ("uint32", None, False, "remote"),
    ],
)
def test_samples_are_those_of_the_data_set(
    dtype: str, compression: str | None, masked: bool, key: str, tmp_path: Path, plan_of: Planner
) -> None:
    ids = write(tmp_path / "data", dtype, compression, masked)
    before = {p.name: p.read_bytes() for p in (tmp_path / "data").iterdir()}
    plan = prepare_text(stored_plan(plan_of, f"{key}: data"))
    source = plan.sources["mine"]
    assert source.num_samples == NUM and source.masked == masked == StoredSamples(source).is_masked
    for place, sample, found, mask in read(plan, tmp_path / "stage"):
        assert place == 0 and found == ids[sample].tolist()
        assert mask == ((ids[sample] % 2).tolist() if masked else None)
    samples = StoredSamples(source)
    found, mask = samples.range(0, NUM)
    assert samples.num_samples == NUM and found.dtype == np.uint32
    assert np.array_equal(found, ids)
    numbers = np.array([99, 0, 41, 0])
    assert np.array_equal(samples.chosen(numbers)[0], ids[numbers])
    for number, (name, row) in zip(numbers, stored_rows(source, numbers), strict=True):
        shards = known_index(source).shards  # type: ignore[union-attr]
        which = [name for name, _ in shards].index(name)
        assert sum(count for _, count in shards[:which]) + row == number
    assert len(shards) > 2 and (mask is None) != masked
    assert mask is None or np.array_equal(mask, ids % 2 == 1)
    after = {p.name: p.read_bytes() for p in (tmp_path / "data").iterdir()}
    assert after == before, "nothing is unpacked into a data set of somebody else's"
    assert tokenizer_file(plan) is not None, "there is text, if no source that is compiled"


def test_two_sources_may_share_a_folder_or_its_name(tmp_path: Path, plan_of: Planner) -> None:
    one, other = write(tmp_path / "a/data"), write(tmp_path / "b/data", compression="zstd") + 0
    places = ["local: a/data", "local: a/data", "local: b/data", "remote: b/data"]
    places += ["remote: b/data, local: kept", "remote: b/data, local: kept"]
    plan = prepare_text(stored_plan(plan_of, *places))
    seen = read(plan, tmp_path / "stage")
    assert {place for place, *_ in seen} == set(range(6))
    for place, sample, found, _ in seen:
        assert found == (one if place < 2 else other)[sample].tolist()
    assert list((tmp_path / "kept").glob("shard.*.mds")), "what is fetched is kept where it says"
    assert [s.stored.local for s in plan.sources.values() if s.stored][4:] == [  # type: ignore[union-attr]
        tmp_path / "kept",
        None,
    ]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    with faulty_store(monkeypatch) as store:
        yield store


def sent(store: FaultyStore, folder: Path) -> str:
    """The URL of a data set, sent as it lies."""
    client = boto3.client("s3", endpoint_url=store.url)
    for file in folder.iterdir():
        client.upload_file(str(file), "bucket", f"{folder.name}/{file.name}")
    return f"s3://bucket/{folder.name}"


def test_a_remote_is_fetched(tmp_path: Path, plan_of: Planner, store: FaultyStore) -> None:
    ids = write(tmp_path / "data")
    url = sent(store, tmp_path / "data")
    plan = stored_plan(plan_of, f"remote: '{url}'")
    assert known_index(plan.sources["mine"]) is None and plan.sources["mine"].num_samples is None
    assert stored_sizes(plan) == {"mine": NUM}
    known = stored_plan(plan_of, f"remote: '{url}'")
    assert known.sources["mine"].num_samples == NUM, "in the cache"
    (kept,) = cache.entries()
    assert (kept.kind, kept.name, kept.url, kept.curricula) == ("mds", "mine", url, ("c",))
    assert kept.in_use and not cache.remove(kept.fingerprint), "a run would miss it"
    source = prepare_text(plan).sources["mine"]
    assert np.array_equal(StoredSamples(source).range(0, NUM)[0], ids)
    for _, sample, found, _ in read(prepare_text(plan), tmp_path / "stage"):
        assert found == ids[sample].tolist()


def test_a_remote_folder_that_is_written_anew_is_read_anew(
    tmp_path: Path, plan_of: Planner
) -> None:
    """Whatever an earlier run kept of it, here or in its index."""
    for seed in (1, 2):
        shutil.rmtree(tmp_path / "rem", ignore_errors=True)
        ids = np.random.default_rng(seed).integers(0, 257, (NUM - 10 * seed, LENGTH + 1))
        write(tmp_path / "rem", ids=ids, hashes=["xxh64"])
        plan = stored_plan(plan_of, "remote: rem, local: kept")
        assert plan.sources["mine"].num_samples == len(ids)
        assert np.array_equal(StoredSamples(plan.sources["mine"]).range(0, len(ids))[0], ids)
        for _, sample, found, _ in read(plan, tmp_path / f"stage{seed}"):
            assert found == ids[sample].tolist()


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("harm", ["flip", "cut"])
def test_damage_is_found_by_whoever_reads_by_number(
    tmp_path: Path, plan_of: Planner, compression: str | None, harm: str
) -> None:
    write(tmp_path / "data", compression=compression, hashes=["xxh64"])
    source = stored_plan(plan_of, "local: data").sources["mine"]
    shard = sorted((tmp_path / "data").glob("shard.*"))[0]
    data = bytearray(shard.read_bytes())
    data[-5] ^= 1
    shard.write_bytes(data if harm == "flip" else data[:-40])
    with pytest.raises(UserError, match="of the source 'mine' cannot be read"):
        StoredSamples(source).range(0, NUM)


def test_one_run_at_a_time_fetches_into_a_folder(
    tmp_path: Path, plan_of: Planner, store: FaultyStore
) -> None:
    write(tmp_path / "data")
    url, kept = sent(store, tmp_path / "data"), tmp_path / "kept"
    plan = prepare_text(stored_plan(plan_of, f"remote: '{url}', local: kept"))
    kept.mkdir()
    with (kept / DATA_LOCK).open("a") as lock:  # as another process holds it
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=f"another run fetches into {kept}"):
            read(plan, tmp_path / "stage")
    assert len(read(plan, tmp_path / "again")) == plan.stages[0].num_samples
    with (kept / DATA_LOCK).open("a") as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


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


ENCODINGS = ("ndarray:uint16", "ndarray", "bytes")


def foreign(folder: Path, encoding: str, ids: np.ndarray, dtype: str, **how: Any) -> None:
    """A data set of others, in several shards: `ids` int64 [n, length] in some encoding."""
    columns = {"extra": "str", "tokens": encoding}
    with MDSWriter(out=str(folder), columns=columns, size_limit=1 << 11, **how) as writer:
        for i, row in enumerate(ids.astype(dtype)):
            value = row.tobytes() if encoding == "bytes" else row
            writer.write({"tokens": value, "extra": "x" * (i % 7)})


def some_ids(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(1, 257, (NUM, length))


@pytest.mark.parametrize("length", [LENGTH, LENGTH + 1])
@pytest.mark.parametrize("encoding", [*ENCODINGS, f"ndarray:uint16:{LENGTH}"])
def test_samples_of_either_length_in_any_encoding(
    encoding: str, length: int, tmp_path: Path, plan_of: Planner
) -> None:
    ids, short = some_ids(length), length == LENGTH
    encoding = encoding.replace(f":{LENGTH}", f":{length}")
    foreign(tmp_path / "data", encoding, ids, "uint16")
    foreign(tmp_path / "packed", encoding, ids, "uint16", compression="zstd")
    dtype = "dtype: uint16" if encoding == "bytes" else "max_share: 100%"
    plan = stored_plan(plan_of, f"local: data, {dtype}", f"remote: packed, {dtype}")
    wanted = np.zeros((NUM, LENGTH + 1), np.int64)
    wanted[:, :length] = ids
    for source in plan.sources.values():
        assert (source.num_samples, source.short, source.masked) == (NUM, short, False)
        assert source.loss_tokens == LENGTH - short and source.shard_format.masked == short
        samples = StoredSamples(source)
        found, mask = samples.range(0, NUM)
        assert np.array_equal(found, wanted) and samples.is_masked == short == (mask is not None)
        if mask is not None:
            assert (mask.sum(axis=1) == LENGTH - 1).all() and not mask[:, [0, LENGTH]].any()
    for _, sample, found, mask in read(plan, tmp_path / "stage"):
        assert found == wanted[sample].tolist()
        assert (mask is None) != short and (mask is None or mask == [0] + [1] * (LENGTH - 1) + [0])


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


def test_bytes_are_int64_unless_it_is_said(tmp_path: Path, plan_of: Planner) -> None:
    ids = some_ids(LENGTH)
    foreign(tmp_path / "data", "bytes", ids, "int64")
    source = stored_plan(plan_of, "local: data").sources["mine"]
    assert np.array_equal(StoredSamples(source).range(0, NUM)[0][:, :LENGTH], ids)
    with pytest.raises(UserError, match="hold 64 ids.*\n.*\n.*\n.*read as int32: `dtype` says"):
        stored_plan(plan_of, "local: data, dtype: int32")
    foreign(tmp_path / "odd", "bytes", some_ids(33), "uint8")
    with pytest.raises(UserError, match="a sample of 33 bytes, which are not ids of int64"):
        stored_plan(plan_of, "local: odd")
    foreign(tmp_path / "array", "ndarray", ids, "int64")
    with pytest.raises(UserError, match="mine.dtype: the ids .* have a dtype of their own"):
        stored_plan(plan_of, "local: array, dtype: int64")


@pytest.mark.parametrize(
    ("encoding", "odd", "said"),
    [
        ("ndarray", np.arange(31, dtype=np.int32), "a sample of 31 ids"),
        ("ndarray", np.ones(33, np.int64), "a sample of 33 ids"),
        ("ndarray", np.ones((2, 16), np.uint8), "a sample of 2 x 16 of uint8"),
        ("ndarray", np.ones(32, np.float32), "a sample of 32 of float32"),
        ("ndarray:int16", np.ones(7, np.int16), "a sample of 7 ids"),
        ("bytes", np.ones(33, np.int64).tobytes(), "a sample of 33 ids"),
        ("bytes", b"12345", "a sample of 5 bytes, which are not ids of int64"),
        ("bytes", np.full(32, 257).tobytes(), "the id 257, and the tokenizer's ids are 0 to 256"),
    ],
)
def test_every_sample_is_held_against_the_first(
    encoding: str, odd: Any, said: str, tmp_path: Path, plan_of: Planner
) -> None:
    with MDSWriter(out=str(tmp_path / "data"), columns={"tokens": encoding}) as writer:
        dtype = "int16" if encoding == "ndarray:int16" else "int64"
        for row in some_ids(LENGTH)[:20].astype(dtype):
            writer.write({"tokens": row.tobytes() if encoding == "bytes" else row})
        writer.write({"tokens": odd})
    plan = prepare_text(stored_plan(plan_of, "local: data"))
    source = plan.sources["mine"]
    assert len(StoredSamples(source).range(0, 20)[0]) == 20
    for ask in (
        lambda: StoredSamples(source).range(0, 21),
        lambda: read(plan, tmp_path / "stage"),
    ):
        with pytest.raises(UserError) as caught:
            ask()
        assert f"data set {tmp_path / 'data'} of the source 'mine' holds {said}" in str(
            caught.value
        )


def test_a_mask_of_another_length_is_told(tmp_path: Path, plan_of: Planner) -> None:
    columns = {"tokens": "ndarray:int64", "loss_mask": "ndarray:uint8"}
    with MDSWriter(out=str(tmp_path / "data"), columns=columns) as writer:
        for i, row in enumerate(some_ids(LENGTH)):
            mask = (row[: LENGTH - (i == 9)] % 2).astype(np.uint8)
            writer.write({"tokens": row, "loss_mask": mask})
    source = stored_plan(plan_of, "local: data").sources["mine"]
    assert source.masked and source.short and source.loss_tokens == LENGTH - 1
    _, mask = StoredSamples(source).range(0, 9)
    assert mask is not None and not mask[:, LENGTH].any()
    assert np.array_equal(mask[:, :LENGTH], some_ids(LENGTH)[:9] % 2 == 1)
    with pytest.raises(UserError, match="holds a loss mask of 31 integers beside 32 ids"):
        StoredSamples(source).range(0, 10)


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


def test_merged_data_sets_are_read(tmp_path: Path, plan_of: Planner) -> None:
    """As Streaming merges the indexes of several writers, and LLM Foundry its own."""
    ids = some_ids(LENGTH)
    for part in range(2):
        foreign(tmp_path / f"data/{part}", "ndarray", ids[part * 50 : part * 50 + 50], "int32")
    merge_index(str(tmp_path / "data"))
    plan = prepare_text(stored_plan(plan_of, "local: data", "remote: data, local: kept"))
    for _, sample, found, _ in read(plan, tmp_path / "stage"):
        assert found[:LENGTH] == ids[sample].tolist()
    assert list((tmp_path / "kept/1").glob("shard.*"))


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
    monkeypatch.setattr(stored, "file_hashes", lambda p, say: asked.extend(p) or stock(p, say))
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


def test_ids_that_the_tokenizer_lacks_are_named(tmp_path: Path, plan_of: Planner) -> None:
    ids = np.random.default_rng(5).integers(0, 257, (NUM, LENGTH + 1))
    ids[41, 3] = 70_000
    write(tmp_path / "data", "uint32", ids=ids)
    source = stored_plan(plan_of, "local: data").sources["mine"]
    samples = StoredSamples(source)
    for ask in (lambda: samples.range(0, NUM), lambda: samples.chosen(np.array([41]))):
        with pytest.raises(UserError, match=r"data of the source 'mine' holds the id 70000"):
            ask()
    assert np.array_equal(samples.chosen(np.array([40]))[0], ids[[40]])


def test_a_shard_that_is_not_there(tmp_path: Path, plan_of: Planner) -> None:
    write(tmp_path / "bare", compression="zstd")
    sorted((tmp_path / "bare").glob("shard.*"))[1].unlink()
    with pytest.raises(UserError, match=r"sources.mine.local: .* lacks shard.00001.mds.zstd"):
        stored_plan(plan_of, "local: bare")
    write(tmp_path / "data", compression="zstd", hashes=["xxh64"])
    sorted((tmp_path / "data").glob("shard.*"))[1].unlink()
    source = stored_plan(plan_of, "local: data").sources["mine"]
    StoredSamples(source).chosen(np.array([0]))
    with pytest.raises(UserError, match="the data set .* of the source 'mine' cannot be read"):
        StoredSamples(source).range(0, NUM)
