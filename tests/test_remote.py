"""`ncamix://`: MosaicML's own StreamingDataset reads shards that nobody wrote."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
from plain_data import read_samples
from streaming import StreamingDataset
from torch.utils.data import DataLoader

from ncamix.remote import HASHES, GeneratingDownloader, Remote, open_remote
from ncamix.shards import ShardFormat, shard_name, write_index
from ncamix.sources import open_generator

NOISE = {
    "kind": "noise",
    "version": 1,
    "symbols": 50,
    "exponent": "1",
    "sequence_length": 32,
    "first_id": 7,
    "seed": 3,
}
NCA = {
    "kind": "nca",
    "version": 1,
    "alphabet": 2,
    "band": ["gzip", "0", "1"],
    "grid": [6, 6],
    "patch": 2,
    "burn_in": 2,
    "stride": 1,
    "temperature": "1/10000",
    "identity_bias": "0",
    "rules": None,
    "sequence_length": 32,
    "first_id": 70_000,
    "seed": 3,
}


def remote(meaning: dict, num_shards: int = 6) -> Remote:
    return Remote(meaning, 50 if meaning is NOISE else 18, 8, num_shards, 1)


def as_list(samples: list[dict]) -> list[list[int]]:
    return [sample["tokens"].tolist() for sample in samples]


@pytest.mark.parametrize(("meaning", "workers"), [(NCA, 0), (NOISE, 2)])
def test_every_sample_comes_exactly_once(tmp_path: Path, meaning: dict, workers: int) -> None:
    source = remote(meaning)
    url = source.save(tmp_path / "source.json")
    dataset = StreamingDataset(
        remote=url, local=str(tmp_path / "local"), batch_size=4, shuffle=True, predownload=8
    )
    loader = DataLoader(
        dataset,
        batch_size=4,
        num_workers=workers,
        collate_fn=as_list,
        multiprocessing_context="spawn" if workers else None,
    )
    found = sorted(tuple(row) for batch in loader for row in batch)
    expected = open_generator(meaning).samples(0, 48)
    assert found == sorted(map(tuple, expected.tolist()))
    for i in range(6):
        shard = tmp_path / "local" / shard_name(i)
        assert shard.read_bytes() == source.form.encode(expected[8 * i : 8 * i + 8])
    assert read_samples(tmp_path / "local").tolist() == expected.tolist()


def test_the_index_is_served_before_any_shard(tmp_path: Path) -> None:
    source = remote(NCA)
    url = source.save(tmp_path / "source.json")
    GeneratingDownloader().download(f"{url}/index.json", str(tmp_path / "index.json.tmp"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.json.tmp", "source.json"]
    served = (tmp_path / "index.json.tmp").read_bytes()
    form = ShardFormat(33, "uint32")  # 70,018 ids do not fit 16 bits
    (tmp_path / "written").mkdir()
    write_index(tmp_path / "written", [form.entry(i, 8) for i in range(6)])
    assert served == (tmp_path / "written" / "index.json").read_bytes()
    assert all(e["raw_data"]["bytes"] == len(source.shard(0)) for e in json.loads(served)["shards"])


def test_a_changed_description_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "source.json"
    for number in (1, 2):
        remote(NOISE, number).save(path)
        os.utime(path, ns=(number, number))
        assert open_remote(str(path), os.stat(path).st_mtime_ns).num_shards == number


def fetch(url: str, local: str, start: float) -> None:
    while time.time() < start:
        pass
    for _ in range(30):
        GeneratingDownloader().download(f"{url}/{shard_name(3)}", local)


def test_two_processes_asking_at_once_leave_a_whole_shard(tmp_path: Path) -> None:
    source = remote(NOISE)
    url, local = source.save(tmp_path / "source.json"), tmp_path / "local" / shard_name(3)
    local.parent.mkdir()
    context = multiprocessing.get_context("fork")  # neither numba nor torch is used
    start = time.time() + 0.3
    processes = [context.Process(target=fetch, args=(url, str(local), start)) for _ in range(2)]
    for process in processes:
        process.start()
    sizes: set[int] = set()
    while any(p.is_alive() for p in processes):
        if local.exists():
            sizes.add(local.stat().st_size)
    assert [p.exitcode for p in processes] == [0, 0]
    assert sizes <= {source.form.num_bytes(8)}
    assert local.read_bytes() == source.shard(3)
    assert sorted(p.name for p in local.parent.iterdir()) == [HASHES, shard_name(3)]


@pytest.mark.parametrize("name", ["shard.00000.mds.zstd", "shard.x.mds", "other"])
def test_what_does_not_exist_is_not_made(tmp_path: Path, name: str) -> None:
    url = remote(NOISE).save(tmp_path / "source.json")
    with pytest.raises((AssertionError, ValueError, IndexError)):
        GeneratingDownloader().download(f"{url}/{name}", str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_samples_are_the_generators_whatever_the_threads(tmp_path: Path) -> None:
    one, two = (Remote(NCA, 18, 40, 1, n) for n in (1, 2))
    assert one.shard(0) == two.shard(0)
    tokens = np.frombuffer(one.shard(0)[-40 * 33 * 4 :], np.uint32).reshape(40, 33)
    assert np.array_equal(tokens, open_generator(NCA).samples(0, 40))
