"""Data sets that exist already: found, fetched, read in place, unpacked, and their ids checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Planner
from streaming import MDSWriter

from ncamix import cache
from ncamix.errors import UserError
from ncamix.plan import Plan
from ncamix.remote import Remote
from ncamix.stored import (
    StoredSamples,
    known_index,
    stored_rows,
    stored_sizes,
)
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
) -> np.ndarray:
    """A data set as MosaicML's own writer makes it, in several shards; int64 [NUM, LENGTH + 1]."""
    if ids is None:
        ids = np.random.default_rng(5).integers(0, 257, (NUM, LENGTH + 1))
    columns = {"extra": "str", "tokens": f"ndarray:{dtype}:{LENGTH + 1}"}
    if masked:
        columns["loss_mask"] = f"ndarray:uint8:{LENGTH + 1}"
    with MDSWriter(
        out=str(folder), columns=columns, compression=compression, size_limit=1 << 12
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


def test_a_remote_is_fetched(tmp_path: Path, plan_of: Planner) -> None:
    """From a remote of Streaming's that needs no network: ours."""
    meaning = {
        "kind": "noise", "version": 1, "distribution": "uniform", "exponent": "1", "symbols": 200,
        "seed": 1, "first_id": 0, "sequence_length": LENGTH,
    }  # fmt: skip
    remote = Remote(meaning, 200, 10, 7)
    url = remote.save(tmp_path / "noise.json")
    plan = stored_plan(plan_of, f"remote: '{url}'")
    assert known_index(plan.sources["mine"]) is None and plan.sources["mine"].num_samples is None
    assert stored_sizes(plan) == {"mine": 70}
    assert stored_plan(plan_of, f"remote: '{url}'").sources["mine"].num_samples == 70, (
        "in the cache"
    )
    (kept,) = cache.entries()
    assert (kept.kind, kept.name, kept.url, kept.curricula) == ("mds", "mine", url, ("c",))
    assert kept.in_use and not cache.remove(kept.fingerprint), "a run would miss it"
    source = prepare_text(plan).sources["mine"]
    ids = StoredSamples(source).range(0, 70)[0]
    assert ids.shape == (70, LENGTH + 1)
    for _, sample, found, _ in read(prepare_text(plan), tmp_path / "stage"):
        assert found == ids[sample].tolist()


@pytest.mark.parametrize(
    ("url", "said"),
    [("ncamix:///nowhere/x.json", "no index.json"), ("nonesuch://bucket/x", "Unsupported")],
)
def test_a_remote_that_cannot_be_had(url: str, said: str, plan_of: Planner) -> None:
    with pytest.raises(UserError, match=said) as caught:
        prepare_text(stored_plan(plan_of, f"remote: '{url}'"))
    (problem,) = caught.value.problems
    assert (problem.path, problem.line > 0) == ("sources.mine.remote", True)
    assert url in problem.what and problem.remedy


def test_a_remote_of_another_length(tmp_path: Path, plan_of: Planner) -> None:
    meaning = {
        "kind": "noise", "version": 1, "distribution": "uniform", "exponent": "1", "symbols": 9,
        "seed": 1, "first_id": 0, "sequence_length": 7,
    }  # fmt: skip
    url = Remote(meaning, 9, 10, 1).save(tmp_path / "noise.json")
    with pytest.raises(UserError, match="hold 8 ids, and sequences of 32 tokens need 33"):
        prepare_text(stored_plan(plan_of, f"remote: '{url}'"))


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
    write(tmp_path / "data", compression="zstd")
    sorted((tmp_path / "data").glob("shard.*"))[1].unlink()
    source = stored_plan(plan_of, "local: data").sources["mine"]
    StoredSamples(source).chosen(np.array([0]))
    with pytest.raises(UserError, match="the data set .* of the source 'mine' cannot be read"):
        StoredSamples(source).range(0, NUM)
