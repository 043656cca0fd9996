"""Shards: the bytes of MosaicML's own writer, whole or not at all."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from plain_data import read_samples, write_dataset
from streaming import MDSWriter, StreamingDataset

from ncamix.shards import (
    SIZE_LIMIT,
    ShardFormat,
    count_samples,
    read_index,
    shard_name,
    width_of,
    write_index,
    write_whole,
)


def tokens(num: int, length: int = 33, top: int = 60_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, (num, length), dtype=np.uint32)


def parts(samples: np.ndarray, per: int) -> list[np.ndarray]:
    return [samples[i : i + per] for i in range(0, len(samples), per)]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("num", [1, 50])
def test_bytes_and_index_are_those_of_mdswriter(tmp_path: Path, dtype: str, num: int) -> None:
    samples = tokens(num, top=1 << 16 if dtype == "uint16" else 1 << 31)
    column = {"tokens": f"ndarray:{dtype}:33"}
    with MDSWriter(out=str(tmp_path / "stock"), columns=column, size_limit=SIZE_LIMIT) as writer:
        for sample in samples:
            writer.write({"tokens": sample.astype(dtype)})
    (tmp_path / "ours").mkdir()
    form = ShardFormat(33, dtype)
    write_dataset(tmp_path / "ours", form, [samples])
    ours, stock = (tmp_path / d / shard_name(0) for d in ("ours", "stock"))
    assert ours.read_bytes() == stock.read_bytes()
    assert form.num_bytes(num) == stock.stat().st_size
    assert read_index(tmp_path / "ours") == read_index(tmp_path / "stock")
    files = sorted(p.name for p in (tmp_path / "ours").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "stock").iterdir())


def test_all_columns_are_those_of_mdswriter(tmp_path: Path) -> None:
    samples, form = tokens(20), ShardFormat(33, "uint16", masked=True, segmented=True)
    masks, segments = samples % 3 == 0, (samples[:, :-1] % 7 == 0).cumsum(axis=1)
    columns = {f"{n}": f"ndarray:{t}" for n, t in [
        ("tokens", "uint16:33"), ("loss_mask", "uint8:33"), ("segments", "uint16:32"),
    ]}  # fmt: skip
    with MDSWriter(out=str(tmp_path), columns=columns, size_limit=SIZE_LIMIT) as writer:
        for ids, mask, numbers in zip(samples, masks, segments, strict=True):
            row = {"tokens": ids, "loss_mask": mask, "segments": numbers}
            writer.write({n: v.astype(columns[n].split(":")[1]) for n, v in row.items()})
    name, data, entry = form.pack(0, samples, masks, segments)
    assert bytes(data) == (tmp_path / name).read_bytes()
    assert [entry] == read_index(tmp_path)
    with pytest.raises(AssertionError):
        form.encode(samples, masks)


def test_a_compressed_index_is_that_of_mdswriter(tmp_path: Path) -> None:
    samples = tokens(20)
    stock, ours = tmp_path / "stock", tmp_path / "ours"
    with MDSWriter(
        out=str(stock), columns={"tokens": "ndarray:uint16:33"}, compression="zstd:3"
    ) as writer:
        for sample in samples:
            writer.write({"tokens": sample.astype(np.uint16)})
    ours.mkdir()
    write_dataset(ours, ShardFormat(33, "uint16", zstd=3), [samples])
    (a,), (b,) = read_index(ours), read_index(stock)
    assert a["zip_data"].pop("bytes") and b["zip_data"].pop("bytes")
    assert a == b
    assert np.array_equal(read_samples(stock), samples)


@pytest.mark.parametrize("zstd", [None, 3])
def test_a_plain_streaming_dataset_reads_it(tmp_path: Path, zstd: int | None) -> None:
    samples = tokens(50)
    (tmp_path / "remote").mkdir()
    write_dataset(tmp_path / "remote", ShardFormat(33, "uint16", zstd), parts(samples, 16))
    dataset = StreamingDataset(
        remote=str(tmp_path / "remote"), local=str(tmp_path / "local"), batch_size=5
    )
    found = [dataset[i]["tokens"] for i in range(dataset.size)]
    assert found[0].dtype == np.uint16
    assert np.array_equal(np.stack(found), samples)


@pytest.mark.parametrize("zstd", [None, 1])
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_samples_come_back(tmp_path: Path, zstd: int | None, dtype: str) -> None:
    samples = tokens(50)
    write_dataset(tmp_path, ShardFormat(33, dtype, zstd), parts(samples, 16))
    assert count_samples(tmp_path) == 50
    for limit in (None, 1, 16, 17, 50, 99):
        assert np.array_equal(read_samples(tmp_path, limit), samples[:limit])
    assert len(read_index(tmp_path)) == 4


def test_a_dataset_may_be_empty(tmp_path: Path) -> None:
    write_dataset(tmp_path, ShardFormat(33, "uint16"), [])
    assert count_samples(tmp_path) == len(read_samples(tmp_path)) == 0


def test_width_follows_the_largest_id() -> None:
    assert [width_of(n) for n in (1, 65_536, 65_537)] == ["uint16", "uint16", "uint32"]
    with pytest.raises(AssertionError, match="does not fit"):
        ShardFormat(1, "uint16").encode(np.array([[65_536]], np.uint32))


def failing_replace(*args: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_failed_write_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing_replace)
        with pytest.raises(OSError, match="No space"):
            write_whole(path, b"new")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", failing_replace)
        with pytest.raises(OSError, match="No space"):
            write_whole(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_two_writers_of_one_file_do_not_share_a_temporary_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    stock = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda p, d: names.append(p.name) or stock(p, d))
    for _ in range(3):
        write_whole(tmp_path / "file", b"x")
    assert len(set(names)) == 3


def test_a_torn_dataset_is_told(tmp_path: Path) -> None:
    write_dataset(tmp_path, ShardFormat(33, "uint16", 3), parts(tokens(50), 16))
    path = tmp_path / f"{shard_name(2)}.zstd"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(ValueError, match="00002"):
        count_samples(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        count_samples(tmp_path)
    for index in ("[]", "{}", '{"shards', ""):
        (tmp_path / "index.json").write_text(index)
        with pytest.raises(ValueError):
            read_index(tmp_path)


@pytest.mark.parametrize("part", ["raw_data", "zip_data"])
@pytest.mark.parametrize(
    ("name", "nested"),
    [(n, nested) for n in ("../x", "a/../../x", "/x", "//x", "", ".") for nested in (False, True)]
    + [("a/x", False)],
)
def test_an_index_names_no_file_outside_its_folder(
    tmp_path: Path, name: str, nested: bool, part: str
) -> None:
    entry = ShardFormat(33, "uint16").entry(0, 5)
    entry["zip_data"] = {"basename": "x.zstd", "bytes": 1, "hashes": {}}
    entry[part]["basename"] = name
    write_index(tmp_path, [entry])
    with pytest.raises(ValueError, match=f"names '{re.escape(name)}', outside its folder"):
        read_index(tmp_path, nested=nested)


def test_shards_may_lie_in_folders_below(tmp_path: Path) -> None:
    entry = ShardFormat(33, "uint16").entry(0, 5)
    entry["raw_data"]["basename"] = "a/x"
    write_index(tmp_path, [entry])
    assert read_index(tmp_path, nested=True) == [entry]


def test_an_index_is_json_of_mdswriters_layout(tmp_path: Path) -> None:
    write_index(tmp_path, [])
    assert json.loads((tmp_path / "index.json").read_text()) == {"shards": [], "version": 2}
    assert SIZE_LIMIT == 1 << 26
