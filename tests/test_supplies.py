"""Supplies: shards that are torn, flipped, missing, or behind a remote that fails."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from conftest import TRAINER
from faulty_store import FaultyStore, faulty_store
from plain_data import write_dataset
from test_dataset import BATCH, ONE, expected, load, named, segments

from ncamix import cache, inventory, stores
from ncamix.compilation.datasets import prepare
from ncamix.dataset import CurriculumDataset
from ncamix.errors import UserError
from ncamix.order import stage_order
from ncamix.owners import shards_needed
from ncamix.plan import Plan
from ncamix.shards import INDEX, ShardFormat
from ncamix.sources import open_generator
from ncamix.streams import make_stream
from ncamix.supplies import FetchedStream, InPlaceStream, Supply
from ncamix.waiting import quiet

CURRICULUM = """\
tokenizer: bytes
sources:
  static: {kind: noise, distribution: zipf, symbols: 50}
  words: {kind: text, files: ["corpus/*.txt"], repeat: free}
stages:
  - {name: first, duration: 100%, mixture: MIXTURE}
"""
OPENED: list[CurriculumDataset] = []


@pytest.fixture
def made(plan_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Plans 39 batches of 8 from the sources named, in shards of 16 samples."""
    monkeypatch.setattr(inventory, "SHARD_TOKENS", 16 * 33)
    (tmp_path / "corpus").mkdir()
    for i in range(10):
        (tmp_path / "corpus" / f"{i}.txt").write_text(f"{i} was a text of a hundred or so. " * 4)

    def make(*names: str) -> Plan:
        body = CURRICULUM.replace("MIXTURE", "{" + ", ".join(f"{n}: 1" for n in names) + "}")
        for name in {"static", "words"} - {*names}:
            body = "\n".join(x for x in body.split("\n") if not x.startswith(f"  {name}:"))
        return prepare(plan_of(body), quiet, None)

    yield make
    for dataset in OPENED:
        opened = segments(dataset)
        dataset.release()
        assert not opened & segments(dataset)
    OPENED.clear()


def opened(plan: Plan, streams: list[Supply], ahead: int, limit: int | None = None) -> Any:
    order = stage_order(plan, plan.stages[0])
    OPENED.append(CurriculumDataset(streams, order, BATCH, predownload=ahead, cache_limit=limit))
    return OPENED[-1]


def on_the_fly(plan: Plan, folder: Path, ahead: int = 8) -> Any:
    folder.mkdir(exist_ok=True)
    needed, names = shards_needed(plan), plan.stages[0].sources
    streams = [make_stream(plan.sources[n], folder, None, needed.get(n, 0), ONE) for n in names]
    return opened(plan, streams, ahead)


def compiled(plan: Plan, folder: Path, zstd: int | None) -> Path:
    """The source `static` as a dataset with hashes."""
    source = plan.sources["static"]
    folder.mkdir()
    shards = (open_generator(source.meaning).samples(16 * i, 16) for i in range(20))
    write_dataset(folder, ShardFormat(33, "uint16", zstd, hashed=True), shards)
    return folder


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-40] ^= 1
    file.write_bytes(data)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def test_what_a_dead_run_generated_is_not_trusted(made: Any, tmp_path: Path) -> None:
    plan = made("static")
    assert named(load(on_the_fly(plan, tmp_path / "data"))) == expected(plan)
    left = sorted((tmp_path / "data" / "static").glob("*.mds"))
    for damage, file in zip((flip, truncate), left, strict=False):
        damage(file)
    OPENED.pop().release()
    again = on_the_fly(plan, tmp_path / "data")
    assert not list((tmp_path / "data" / "static").glob("*.mds"))
    assert named(load(again)) == expected(plan)


@pytest.mark.parametrize("damage", [flip, truncate])
def test_a_shard_damaged_while_it_waits_is_made_again(
    made: Any, tmp_path: Path, damage: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = made("static")
    dataset = on_the_fly(plan, tmp_path / "data", ahead=10_000)
    batches = iter(load(dataset))
    found = named([next(batches)])
    shards = sorted((tmp_path / "data" / "static").glob("*.mds"))
    while len(shards) < 20:
        shards = sorted((tmp_path / "data" / "static").glob("*.mds"))
    for shard in shards[:2]:  # one that is in use, and one that was not opened yet
        damage(shard)
    found += named(batches)
    assert found == expected(plan)
    said = capfd.readouterr().err
    assert said.count("is damaged") == 2 and "made or fetched again" in said
    assert "of 1,311 bytes" in said if damage is truncate else "do not have their hash" in said
    assert dataset.cache_usage == sum(f.stat().st_size for f in shards)


@pytest.mark.parametrize("damage", [truncate, os.unlink])
def test_damaged_text_ends_in_a_message(made: Any, tmp_path: Path, damage: Any) -> None:
    plan = made("words")
    batches = iter(load(on_the_fly(plan, tmp_path / "data")))
    next(batches)
    for shard in cache.entry(plan.sources["words"].fingerprint).glob("*.mds"):
        damage(shard)
    with pytest.raises(UserError, match=r"the shard .*shard.0\d+.mds is damaged") as caught:
        list(batches)
    assert "what is damaged is made again" in str(caught.value)


@pytest.mark.parametrize("zstd", [None, 3])
def test_what_an_earlier_run_fetched_is_kept_if_it_is_sound(
    made: Any, tmp_path: Path, zstd: int | None, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = made("static")
    remote = compiled(plan, tmp_path / "compiled", zstd)
    local = tmp_path / "local"
    assert named(load(opened(plan, [FetchedStream(str(remote), str(local))], 8))) == expected(plan)
    OPENED.pop().release()
    kept = sorted(local.glob("*.mds"))
    flip(kept[0])
    truncate(kept[1])
    before = [f.stat().st_ino for f in kept]
    again = opened(plan, [FetchedStream(str(remote), str(local))], 8)
    assert named(load(again)) == expected(plan)
    same = [f.stat().st_ino == inode for f, inode in zip(kept, before, strict=True)]
    assert same[2:] == [True] * len(same[2:])
    said = capfd.readouterr().err
    assert said.count("was left by an earlier run") == 1 and "fetched again (and 1 more)" in said


@pytest.mark.parametrize("zstd", [None, 3])
@pytest.mark.parametrize("damage", [flip, truncate])
def test_a_shard_damaged_where_it_lies_is_named(
    made: Any, tmp_path: Path, zstd: int | None, damage: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = made("static")
    remote = compiled(plan, tmp_path / "compiled", zstd)
    bad = sorted(remote.glob("shard.*"))[3]
    damage(bad)
    dataset = opened(plan, [FetchedStream(str(remote), str(tmp_path / "local"))], 8)
    with pytest.raises(UserError) as caught:
        list(load(dataset))
    assert f"the shard {bad} is damaged" in str(caught.value)
    assert "compile it again with `ncamix compile`" in str(caught.value)
    assert "came damaged" in capfd.readouterr().err  # and was fetched once more
    assert not (tmp_path / "local" / bad.name).exists()


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "a/b"])
@pytest.mark.parametrize("there", [False, True])
def test_an_index_that_names_files_outside_its_folder_is_refused(
    made: Any, tmp_path: Path, name: str, there: bool
) -> None:
    plan = made("static")
    remote, local = compiled(plan, tmp_path / "compiled", None), tmp_path / "local"
    index = json.loads((remote / INDEX).read_text())
    index["shards"][1]["raw_data"]["basename"] = name
    (remote / INDEX).write_text(json.dumps(index))
    if there:  # an index that lies in the cache already
        local.mkdir()
        (local / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match="outside its folder"):
        opened(plan, [FetchedStream(str(remote), str(local))], 8)
    assert [p for p in tmp_path.rglob("*.mds") if p.parent != remote] == []
    assert not list(local.glob("index*"))


def test_a_small_cache_fetches_again_what_it_evicted(made: Any, tmp_path: Path) -> None:
    plan = made("static")
    remote = compiled(plan, tmp_path / "compiled", 3)
    stream = FetchedStream(str(remote), str(tmp_path / "local"))
    shard = plan.sources["static"]
    size = ShardFormat(33, "uint16", 3, hashed=True).num_bytes(shard.samples_per_shard)
    dataset = opened(plan, [stream], 8, limit=6 * size)
    assert named(load(dataset)) == expected(plan)
    kept = list((tmp_path / "local").glob("*.mds"))
    assert 2 < len(kept) <= 6
    again = iter(load(dataset))  # the next epoch begins with shards that are gone
    assert named([next(again)]) == expected(plan)[:1]
    del again


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    monkeypatch.setattr(stores, "TRIES", 3)
    monkeypatch.setattr(stores, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(stores, "ANSWER_SECONDS", 1.0)
    with faulty_store(monkeypatch) as store:
        yield store


def put(store: FaultyStore, folder: Path) -> None:
    client = boto3.client("s3", endpoint_url=store.url)
    for file in folder.iterdir():
        client.put_object(Bucket="bucket", Key=f"static/{file.name}", Body=file.read_bytes())
    store.requests.clear()


def test_a_remote_that_fails_now_and_then_gives_the_same_samples(
    made: Any, tmp_path: Path, store: FaultyStore
) -> None:
    plan = made("static")
    put(store, compiled(plan, tmp_path / "compiled", 3))
    turn = iter(["503", None, "500", None, None, "stall", None, "reset"])
    store.faults = lambda method, path: next(turn, None)
    stream = FetchedStream("s3://bucket/static", str(tmp_path / "local"))
    dataset = opened(plan, [stream], 8)
    assert named(load(dataset)) == expected(plan)
    assert next(turn, "none left") == "none left"


@pytest.mark.parametrize("fault", ["500", "reset", "stall"])
def test_a_remote_that_is_gone_ends_in_a_message(
    made: Any,
    tmp_path: Path,
    store: FaultyStore,
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plan = made("static")
    put(store, compiled(plan, tmp_path / "compiled", 3))
    stream = FetchedStream("s3://bucket/static", str(tmp_path / "local"))
    dataset = opened(plan, [stream], 8)
    store.faults = lambda method, path: fault if "shard.00003" in path else None
    with pytest.raises(UserError) as caught:
        list(load(dataset))
    message = str(caught.value)
    assert "s3://bucket/static does not give shard.00003.mds.zstd (" in message
    assert "run the same command again to continue" in message and "Traceback" not in message
    asked = [path for _, path in store.requests if "shard.00003" in path]
    assert len(asked) == 3, "tries are counted in one place"
    assert capsys.readouterr().err.count("it is tried again for a while") == 1
    assert not list((tmp_path / "local").glob("*00003*"))


@pytest.mark.parametrize(
    ("url", "fault", "said"),
    [
        ("s3://bucket/static", None, "s3://bucket/static/index.json cannot be read: it is not the"),
        ("s3://nobody/static", None, "s3://nobody/static: there is no bucket 'nobody'"),
        ("s3://bucket/static", "403", "does not give index.json .*403"),
    ],
)
def test_what_is_not_to_be_had_is_told_at_once(
    url: str, fault: str | None, said: str, made: Any, tmp_path: Path, store: FaultyStore
) -> None:
    plan = made("static")
    store.faults = lambda method, path: fault
    store.requests.clear()
    with pytest.raises(UserError, match=said):
        opened(plan, [FetchedStream(url, str(tmp_path / "local"))], 8)
    assert len(store.requests) <= 2


def test_hashes_are_not_asked_of_a_dataset_without(made: Any, tmp_path: Path) -> None:
    plan = made("static")
    (tmp_path / "compiled").mkdir()
    samples = open_generator(plan.sources["static"].meaning).samples(0, 320)
    write_dataset(tmp_path / "compiled", ShardFormat(33, "uint16"), np.split(samples, 20))
    stream = FetchedStream(str(tmp_path / "compiled"), str(tmp_path / "local"))
    assert named(load(opened(plan, [stream], 8))) == expected(plan)


def resources() -> tuple[int, int, int]:
    """Open files, threads, and resident kilobytes of this process."""
    status = Path("/proc/self/status").read_text()
    found = dict(line.split(":", 1) for line in status.splitlines())
    descriptors = len(os.listdir("/proc/self/fd"))
    return descriptors, int(found["Threads"]), int(found["VmRSS"].split()[0])


def test_nothing_grows_with_the_shards_of_a_long_run(
    plan_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "SHARD_TOKENS", 4 * 33)
    body = CURRICULUM.replace("MIXTURE", "{static: 1}").split("  words:")[0]
    body += "stages: [{name: first, duration: 100%, mixture: {static: 1}}]\n"
    plan = plan_of(body, TRAINER.replace("10ktok", "320ktok"))
    size = ShardFormat(33, "uint16").num_bytes(4)
    needed = shards_needed(plan)["static"]
    assert needed == 2500
    (tmp_path / "data").mkdir()
    stream = make_stream(plan.sources["static"], tmp_path / "data", None, needed, ONE)
    dataset = opened(plan, [stream], 16, limit=20 * size)

    def shared() -> int:
        """Segments of this dataset; other tests may be at work beside this one."""
        own = f"{dataset._shm_prefix_int:06}_"
        return sum(name.startswith(own) for name in os.listdir("/dev/shm"))

    segments = shared()
    batches = iter(load(dataset))
    seen = []
    for number, _ in enumerate(batches):
        if number in (250, 1240):
            gc.collect()
            seen.append(resources())
            made = list((tmp_path / "data" / "static").glob("*.mds"))
            assert len(made) <= 24  # of 20 that are kept, and some on their way
    assert number == 1249
    (files, threads, kilobytes), (later_files, later_threads, later_kilobytes) = seen
    assert later_files - files <= 3 and later_threads - threads <= 2  # one may be at work
    assert later_kilobytes - kilobytes < 8_000  # 2,000 shards at 4 kB each would be as much
    assert segments and shared() <= segments + 3  # some come with the first batch


def test_who_reads_in_place_is_told_what_mends_it(own_cache: Path, tmp_path: Path) -> None:
    """What lies in the cache is made again; what lies elsewhere is somebody's."""
    for home, remedy in (
        (own_cache / ("0" * 32), "run the same command again: what is damaged is made again"),
        (tmp_path / "theirs", "restore it, and run the same command again to resume"),
    ):
        home.mkdir(parents=True)
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(home)
        told = str(InPlaceStream(str(tmp_path / "link")).give_up("shard.00000.mds", "it is torn"))
        assert f"the shard {home}/shard.00000.mds is damaged: it is torn" in told and remedy in told
