"""The dataset: the same samples in every global batch, however it is read, and loud failures."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from conftest import TRAINER
from plain_data import read_samples
from streaming.base.shared import prefix as shared_prefix
from torch.utils.data import DataLoader

from ncamix import cache, inventory
from ncamix.automata import UnreachableBand, search
from ncamix.compilation.datasets import prepare
from ncamix.dataset import CurriculumDataset, FlatSpanner
from ncamix.order import stage_order
from ncamix.owners import shards_needed
from ncamix.plan import Plan
from ncamix.shards import sample_digest
from ncamix.slots import Slots
from ncamix.sources import open_generator
from ncamix.streams import (
    make_dataset,
    make_stream,
    remote_of,
)
from ncamix.text_compilation import quiet

CURRICULUM = """\
tokenizer: bytes
vocabulary: {layout: disjoint}
sources:
  alive: {kind: nca, alphabet: 2, grid: 6, band: {gzip: [0, 1]}, burn_in: 2, loss_from_frame: 1}
  static: {kind: noise, distribution: zipf, symbols: 50}
  words: {kind: text, files: ["corpus/*.txt"], repeat: free}
stages:
  - name: first
    duration: 100%
    mixture: {0%: {alive: 3, static: 1}, 100%: {words: 3, static: 1}}
"""
multiprocessing.set_forkserver_preload(["ncamix.dataset"])  # imports take most of a worker's time
NUM_BATCHES, BATCH = 39, 8
ONE = Slots(1, 1)
OPENED: list[tuple[Path, int]] = []  # segments of shared memory
PREPARING = 2  # a shard's state in shared memory


@pytest.fixture
def plan(tmp_path: Path, plan_of: Any, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """39 batches of 8 from three sources, in shards of 16 samples; the text repeats."""
    monkeypatch.setattr(inventory, "SHARD_TOKENS", 16 * 33)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for i in range(10):
        (corpus / f"{i}.txt").write_text(f"{i} was a text of about a hundred and twenty. " * 4)
    planned: Plan = prepare(plan_of(CURRICULUM), quiet, None)
    assert planned.stages[0].num_batches == NUM_BATCHES
    return planned


def open_dataset(plan: Plan, folder: Path, ranks: int = 1, limit: int | None = None) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    stage = plan.stages[0]
    if limit is None:
        dataset = make_dataset(plan, stage, folder, None, ranks)
    else:
        shards = shards_needed(plan)
        streams = [
            make_stream(plan.sources[n], folder, None, shards.get(n, 0), ONE) for n in stage.sources
        ]
        dataset = CurriculumDataset(
            streams, stage_order(plan, stage), BATCH // ranks, predownload=8, cache_limit=limit
        )
    OPENED.extend((Path("/dev/shm") / name, inode) for name, inode in segments(dataset))
    return dataset


def load(dataset: Any, workers: int = 0, ranks: int = 1, context: str = "forkserver") -> DataLoader:
    return DataLoader(
        dataset,
        batch_size=BATCH // ranks,
        num_workers=workers,
        collate_fn=list,
        drop_last=True,
        multiprocessing_context=context if workers else None,
    )


def named(batches: Any) -> list[list[tuple[int, int, int]]]:
    """(source, sample, digest of the ids) of all samples of each batch."""
    return [[(s["source"], s["sample"], sample_digest(s["tokens"])) for s in b] for b in batches]


def expected(plan: Plan) -> list[list[tuple[int, int, int]]]:
    """What the order and the generators say, without any dataset."""
    stage, order = plan.stages[0], stage_order(plan, plan.stages[0])
    whole = []
    for name in stage.sources:
        source = plan.sources[name]
        if source.text is None:
            needed = shards_needed(plan)[name] * source.samples_per_shard
            whole.append(open_generator(source.meaning).samples(0, needed))
        else:
            whole.append(read_samples(cache.entry(source.fingerprint)))
    batches = [
        zip(*map(np.ndarray.tolist, order.batch(t)), strict=True) for t in range(NUM_BATCHES)
    ]
    return [[(s, i, sample_digest(whole[s][i])) for s, i in batch] for batch in batches]


def segments(dataset: Any) -> set[tuple[str, int]]:
    """The dataset's segments of shared memory by inode: other runs may take their names later."""
    found = Path("/dev/shm").glob(f"{dataset._shm_prefix_int:06}_*")
    return {(path.name, path.stat().st_ino) for path in found}


@pytest.fixture(autouse=True)
def shared_memory() -> Iterator[None]:
    """Every dataset that a test opens gives its shared memory back."""
    OPENED.clear()
    yield
    left = [path for path, inode in OPENED if path.exists() and path.stat().st_ino == inode]
    assert not left


@pytest.mark.parametrize("workers", [0, 2])
def test_every_batch_is_the_orders_whatever_the_workers(
    plan: Plan, tmp_path: Path, workers: int
) -> None:
    dataset = open_dataset(plan, tmp_path / "data")
    opened = segments(dataset)
    assert len(opened) == 6
    assert len(load(dataset)) == NUM_BATCHES
    assert named(load(dataset, workers, context="spawn")) == expected(plan)
    dataset.release()
    assert not opened & segments(dataset)


def rank_batches(rank: int, plan: Plan, folder: str, environment: dict[str, str]) -> None:
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", world_size=2, rank=rank)
    dataset = open_dataset(plan, Path(folder) / "data", ranks=2)
    state = dataset.state_dict(5 * BATCH, True) | {"epoch": 0}
    torch.distributed.barrier()
    dataset.load_state_dict(state)
    found = named(load(dataset, ranks=2))
    torch.distributed.barrier()
    dataset.release()
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def test_two_ranks_hold_halves_of_the_same_batches(plan: Plan, tmp_path: Path) -> None:
    environment = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "NCAMIX_CACHE": os.environ["NCAMIX_CACHE"],
    }
    torch.multiprocessing.spawn(rank_batches, (plan, str(tmp_path), environment), nprocs=2)
    first, second = (json.loads((tmp_path / f"{r}.json").read_text()) for r in (0, 1))
    both = [[tuple(s) for s in a + b] for a, b in zip(first, second, strict=True)]
    assert both == expected(plan)[5:]  # resumed after batch 5
    for half in first:
        assert len(half) == BATCH // 2


def node_batches(node: int, plan: Plan, folder: str, environment: dict[str, str]) -> None:
    os.environ.update(environment, RANK=str(node), NODE_RANK=str(node), LOCAL_RANK="0")
    found = shared_prefix._check_and_find_retrying  # two nodes on one machine: other names for one
    shared_prefix._check_and_find_retrying = lambda *a, **k: found(*a, **k) + 5000 * node
    torch.distributed.init_process_group("gloo", f"file://{folder}/meet", world_size=2, rank=node)
    dataset = open_dataset(plan, Path(folder) / f"data-{node}", ranks=2)
    batches = named(load(dataset, ranks=2))
    torch.distributed.barrier()
    dataset.release()
    (Path(folder) / f"{node}.json").write_text(json.dumps(batches))
    torch.distributed.destroy_process_group()


def test_two_nodes_generate_the_shards_of_their_owners_alone(
    plan: Plan, plan_of: Any, tmp_path: Path
) -> None:
    owned = plan_of(CURRICULUM, TRAINER.replace("budget", "canonical_nodes: 4\nbudget"))
    owned = prepare(owned, quiet, None)
    environment = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "1",
        "NCAMIX_CACHE": os.environ["NCAMIX_CACHE"],
    }
    torch.multiprocessing.spawn(node_batches, (owned, str(tmp_path), environment), nprocs=2)
    both = [json.loads((tmp_path / f"{node}.json").read_text()) for node in (0, 1)]
    found = [sorted(tuple(s) for s in a + b) for a, b in zip(*both, strict=True)]
    assert found == [sorted(batch) for batch in expected(owned)]
    for name in ("alive", "static"):
        owners = [
            {
                int(f.name.split(".")[1]) % 4
                for f in (tmp_path / f"data-{node}" / name).glob("*.mds")
            }
            for node in (0, 1)
        ]
        assert owners == [{0, 1}, {2, 3}]
    one_node = open_dataset(owned, tmp_path / "data")  # the same batches
    assert [sorted(batch) for batch in named(load(one_node))] == found
    one_node.release()


@pytest.mark.parametrize(
    ("at", "before", "after"), [(1, 0, 0), (17, 0, 1), (18, 0, 2), (38, 0, 0), (39, 0, 0)]
)
def test_a_stage_goes_on_where_it_stopped(
    plan: Plan, tmp_path: Path, at: int, before: int, after: int
) -> None:
    dataset = open_dataset(plan, tmp_path / "data")
    batches = iter(load(dataset, before))
    seen = named(next(batches) for _ in range(at))
    state = dataset.state_dict(at * BATCH, False)
    del batches
    dataset.release()
    again = open_dataset(plan, tmp_path / "data")
    again.load_state_dict(json.loads(json.dumps(state)))
    assert seen + named(load(again, after)) == expected(plan)
    if not after:  # and once more, from the state of the resumed one
        assert again.state_dict(0, False)["sample_in_epoch"] == at * BATCH
    again.release()


def test_a_small_cache_evicts_and_every_sample_is_right(
    plan: Plan, plan_of: Any, tmp_path: Path
) -> None:
    body = CURRICULUM.replace("words: 3, static: 1", "alive: 1, static: 3")
    plan = plan_of(
        body.replace('  words: {kind: text, files: ["corpus/*.txt"], repeat: free}\n', "")
    )
    limit = 5 * max(make_remote_size(plan, n) for n in plan.sources)
    dataset = open_dataset(plan, tmp_path / "data", limit=limit)
    assert named(load(dataset)) == expected(plan)
    files = list((tmp_path / "data").rglob("*.mds"))
    assert sum(f.stat().st_size for f in files) <= limit
    assert len(files) < len(dataset.shards)
    dataset.release()


def make_remote_size(plan: Plan, name: str) -> int:
    remote = remote_of(plan.sources[name], 1, ONE)
    return remote.form.num_bytes(remote.samples_per_shard)


def test_shards_that_are_read_in_place_are_never_evicted(plan: Plan, tmp_path: Path) -> None:
    largest = max(make_remote_size(plan, n) for n in ("alive", "static"))
    dataset = open_dataset(plan, tmp_path / "data", limit=6 * largest)
    words = cache.entry(plan.sources["words"].fingerprint)
    lying = {f: f.read_bytes() for f in words.glob("*.mds")}
    assert named(load(dataset)) == expected(plan)
    assert {f: f.read_bytes() for f in words.glob("*.mds")} == lying
    made = [f for n in ("alive", "static") for f in (tmp_path / "data" / n).glob("*.mds")]
    size = sum(f.stat().st_size for f in made)
    assert len(made) < len(dataset.shards) - len(lying)  # some were evicted
    assert size <= 6 * largest and 0 <= dataset.cache_usage - size <= len(lying)
    in_place = int(dataset.shard_offset_per_stream[plan.stages[0].sources.index("words")])
    with pytest.raises(ValueError, match="read in place"):
        dataset.evict_shard(in_place)
    dataset.release()


def test_two_sources_may_share_one_text(plan_of: Any, tmp_path: Path, plan: Plan) -> None:
    body = CURRICULUM.replace(
        "stages:", '  again: {kind: text, files: ["corpus/*.txt"], repeat: free}\nstages:'
    ).replace("{words: 3, static: 1}", "{words: 3, again: 1}")
    twice = prepare(plan_of(body, name="twice"), quiet, None)
    assert twice.sources["again"].fingerprint == twice.sources["words"].fingerprint
    dataset = open_dataset(twice, tmp_path / "data")
    assert named(load(dataset)) == expected(twice)
    dataset.release()


def test_the_batch_must_split_over_the_ranks(plan: Plan, tmp_path: Path) -> None:
    stage = plan.stages[0]
    (tmp_path / "data").mkdir()
    streams = [make_stream(plan.sources[n], tmp_path / "data", None, 9, ONE) for n in stage.sources]
    with pytest.raises(ValueError, match="does not split into 1 x 3"):
        CurriculumDataset(streams, stage_order(plan, stage), 3)


def test_a_generators_failure_reaches_the_consumer(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "MAX_ATTEMPTS", 50)
    plan.sources["alive"].meaning["band"] = ["gzip", "99/100", "1"]
    dataset = open_dataset(plan, tmp_path / "data")
    with pytest.raises(UnreachableBand, match="scored in gzip 0.99-1.00"):
        list(load(dataset))
    assert PREPARING not in dataset._shard_states.numpy()
    dataset.release()  # does not wait for the threads that failed


def test_a_failure_in_the_middle_is_no_short_epoch(plan: Plan, tmp_path: Path) -> None:
    dataset = open_dataset(plan, tmp_path / "data")
    batches = iter(load(dataset))
    seen = named([next(batches)])
    (tmp_path / "data" / "static.json").write_text("{torn")
    dataset.predownload = 10_000  # ask for all of it
    with pytest.raises(json.JSONDecodeError):
        seen += named(batches)
    assert seen == expected(plan)[: len(seen)]
    del batches
    dataset.release()


def test_a_failure_in_workers_reaches_the_consumer(plan: Plan, tmp_path: Path) -> None:
    for name, source in plan.sources.items():  # one shard each, so that one worker waits for the
        plan.sources[name] = replace(source, samples_per_shard=1000)  # other, which fails
    dataset = open_dataset(plan, tmp_path / "data")
    (tmp_path / "data" / "static.json").write_text("{torn")
    with pytest.raises(Exception, match="Expecting property name") as caught:
        list(load(dataset, 2))
    assert "JSONDecodeError" in str(caught.value)
    del caught
    dataset.release()


def test_release_frees_who_waits_for_a_shard_whose_maker_was_killed(
    plan: Plan, tmp_path: Path
) -> None:
    dataset = open_dataset(plan, tmp_path / "data")
    dataset._shard_states[0] = PREPARING  # by nobody
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.extend(load(dataset)), daemon=True)
    reader.start()
    reader.join(1.0)
    assert reader.is_alive()
    dataset.free_waiting()
    reader.join(60)
    assert named(found) == expected(plan)
    dataset.release()


def test_a_shard_whose_maker_was_killed_is_made_by_another(plan: Plan, tmp_path: Path) -> None:
    dead = subprocess.Popen(["sleep", "60"])
    dataset = open_dataset(plan, tmp_path / "data")
    dataset._shard_access_times[0] = dead.pid
    dataset._shard_states[0] = PREPARING
    found: list[Any] = []
    reader = threading.Thread(target=lambda: found.extend(load(dataset)), daemon=True)
    reader.start()
    reader.join(0.6)
    assert reader.is_alive()  # it lives, and may be slow
    dead.kill()  # a zombie, until it is waited for
    reader.join(60)
    assert named(found) == expected(plan)
    dead.wait()
    dataset.release()


def test_the_spanner_finds_every_sample() -> None:
    spanner = FlatSpanner(np.array([3, 1, 5]))
    assert [spanner[i] for i in range(9)] == [
        (0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4),
    ]  # fmt: skip
    for index in (-1, 9):
        with pytest.raises(IndexError):
            spanner[index]
