"""From a plan to a stage's dataset: one stream a source, on the fly or from compiled shards.

endless source   ncamix:// remote, shards generated into the stage's cache folder
text, pairs      the compiled cache entry, read in place through a link
mds              where it lies, or fetched into the stage's cache folder or one of its own
--data DIR       DIR/<source> as the remote of any, the stage's cache folder as local
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from streaming import Stream
from streaming.base import dataset as streaming_dataset
from streaming.base.shared import prefix as shared_prefix

from ncamix import cache
from ncamix.dataset import CurriculumDataset, GeneratedStream
from ncamix.files import replace_link
from ncamix.order import stage_order
from ncamix.owners import shards_needed
from ncamix.plan import Plan, PlannedSource, PlannedStage
from ncamix.remote import Remote
from ncamix.stored import stored_stream

PREDOWNLOAD_BATCHES = 64  # shards are made ready this far ahead of training


def remote_of(source: PlannedSource, num_shards: int) -> Remote:
    """An endless source as a remote of as many shards as `owners.shards_needed` says."""
    return Remote(source.meaning, source.num_ids, source.samples_per_shard, num_shards)


def make_stream(
    source: PlannedSource, folder: Path, data: Path | None, num_shards: int = 0
) -> Stream:
    """The stream of one source.

    folder: the stage's cache; data: compiled datasets, if any. num_shards: what an endless source
    needs, where it is generated.
    """
    local = folder / source.dataset
    if data is not None:
        local.mkdir(parents=True, exist_ok=True)
        return Stream(remote=str(data / source.dataset), local=str(local))
    if source.text is not None:  # two sources may share an entry, not a path
        link = folder / f"{source.dataset}.text"
        replace_link(link, cache.entry(source.fingerprint))
        return Stream(local=str(link))
    if source.stored is not None:
        return stored_stream(source, local)
    local.mkdir(parents=True, exist_ok=True)
    remote = remote_of(source, num_shards)
    url = remote.save(folder / f"{source.dataset}.json")
    return GeneratedStream(remote, url, str(local))


def make_dataset(
    plan: Plan,
    stage: PlannedStage,
    folder: Path,
    data: Path | None,
    ranks: int,
    on_prefix: Callable[[int], None] = lambda prefix: None,
) -> CurriculumDataset:
    """A stage's dataset. on_prefix: told the shared-memory prefix as soon as it is taken."""
    take, find = streaming_dataset.get_shm_prefix, shared_prefix._check_and_find_retrying

    def recording(*args: Any, **kwargs: Any) -> Any:
        prefix, shm = take(*args, **kwargs)
        on_prefix(prefix)
        return prefix, shm

    streaming_dataset.get_shm_prefix = recording
    shared_prefix._check_and_find_retrying = lambda *a, **k: _leaders(find(*a, **k))
    try:
        share, shards = stage.batch_size // ranks, shards_needed(plan)
        sources = [plan.dataset_of(name, stage) for name in stage.sources]
        return CurriculumDataset(
            [make_stream(s, folder, data, shards.get(s.dataset, 0)) for s in sources],
            stage_order(plan, stage),
            share,
            predownload=PREDOWNLOAD_BATCHES * share,
        )
    finally:
        streaming_dataset.get_shm_prefix = take
        shared_prefix._check_and_find_retrying = find


def _leaders(prefix: int) -> int:
    """The free prefix that the node's first rank found. Every rank looks for itself, and the shared
    memory of other programs may come or go in between."""
    if not (dist.is_available() and dist.is_initialized()):
        return prefix
    found: list[Any] = [None] * dist.get_world_size()
    node = os.environ.get("NODE_RANK", "0")
    dist.all_gather_object(found, (node, os.environ.get("LOCAL_RANK", "0"), prefix))
    return next(int(value) for where, rank, value in found if (where, rank) == (node, "0"))
