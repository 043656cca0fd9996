"""From a plan to a stage's dataset: one stream a source, on the fly or from compiled shards.

endless source   ncamix:// remote, shards generated into the stage's cache folder
text, pairs      the compiled cache entry, read in place through a link
mds              where it lies, or fetched into the stage's cache folder or one of its own
--data DIR       DIR/<source> as the remote of any, the stage's cache folder as local

The processes of a node that generate share its cores: some threads a shard, some shards at once.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch.distributed as dist
from streaming.base import dataset as streaming_dataset
from streaming.base.shared import prefix as shared_prefix

from ncamix import cache
from ncamix.cache_limits import cache_limit
from ncamix.compilation.compiled import Data, local_part
from ncamix.dataset import CurriculumDataset
from ncamix.files import replace_link, write_whole
from ncamix.library import has_gpu
from ncamix.order import stage_order
from ncamix.owners import shards_needed
from ncamix.plan import Plan, PlannedStage
from ncamix.planned_source import PlannedSource
from ncamix.remote import Remote
from ncamix.shards import INDEX
from ncamix.slots import Slots, split_cores
from ncamix.stored import kept_as, layout_of, stored_place
from ncamix.supplies import FetchedStream, GeneratedStream, InPlaceStream, Supply
from ncamix.threads import count_threads
from ncamix.trainer import Trainer

_PREFIXES = 1_000_000  # Streaming writes six digits


def remote_of(source: PlannedSource, num_shards: int, slots: Slots) -> Remote:
    """An endless source as a remote of as many shards as `owners.shards_needed` says."""
    per, threads, count = source.samples_per_shard, slots.threads, slots.count
    return Remote(source.meaning, source.num_ids, per, num_shards, threads, count)


def slots_of(trainer: Trainer) -> Slots:
    """What generating may take of this node, over its ranks and their workers."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = trainer.generator_threads
    if cores is None:
        cores = max(1, count_threads() - ranks) if has_gpu() else 1
    return split_cores(cores, ranks * max(1, trainer.workers))


def make_stream(
    source: PlannedSource, folder: Path, data: Data | None, num_shards: int, slots: Slots
) -> Supply:
    """The stream of one source.

    folder: the stage's cache; data: compiled datasets, if any. num_shards: what an endless source
    needs, where it is generated, in these slots.
    """
    local = folder / source.dataset
    if data is not None:
        local.mkdir(parents=True, exist_ok=True)
        index = local_part(data) / source.dataset / INDEX  # checked; Streaming would fetch another
        write_whole(local / INDEX, index.read_bytes())
        return FetchedStream(f"{data}/{source.dataset}", str(local))
    if source.text is not None:  # two sources may share an entry, not a path
        link = folder / f"{source.dataset}.text"
        replace_link(link, cache.entry(source.fingerprint))
        return InPlaceStream(str(link))
    if source.stored is not None:
        origin, place = stored_place(source, local)
        stream: Supply = InPlaceStream(place)
        if origin is not None:
            stream = FetchedStream(origin, place, kept_as(source))
        stream.layout = layout_of(source)
        return stream
    local.mkdir(parents=True, exist_ok=True)
    remote = remote_of(source, num_shards, slots)
    url = remote.save(folder / f"{source.dataset}.json")
    return GeneratedStream(remote, url, str(local))


def make_dataset(
    plan: Plan,
    stage: PlannedStage,
    folder: Path,
    data: Data | None,
    ranks: int,
    on_prefix: Callable[[int], None] = lambda prefix: None,
) -> CurriculumDataset:
    """A stage's dataset. on_prefix: told the shared-memory prefix as soon as it is taken.

    Raises:
        UserError: the trainer's cache is too small, or compiled data cannot be read.
    """
    take, find = streaming_dataset.get_shm_prefix, shared_prefix._check_and_find_retrying
    each = shared_prefix._each_prefix_int

    def recording(*args: Any, **kwargs: Any) -> Any:
        prefix, shm = take(*args, **kwargs)
        on_prefix(prefix)
        return prefix, shm

    streaming_dataset.get_shm_prefix = recording
    shared_prefix._check_and_find_retrying = lambda *a, **k: _leaders(find(*a, **k))
    shared_prefix._each_prefix_int = _prefixes
    try:
        trainer, shards = plan.trainer.trainer, shards_needed(plan)
        share, slots = stage.batch_size // ranks, slots_of(trainer)
        sources = [plan.dataset_of(name, stage) for name in stage.sources]
        streams = [make_stream(s, folder, data, shards.get(s.dataset, 0), slots) for s in sources]
        in_place = {s.dataset for s, way in zip(sources, streams, strict=True) if way.in_place}
        return CurriculumDataset(
            streams,
            stage_order(plan, stage),
            share,
            # Each worker looks as many of its own batches ahead.
            predownload=-(-int(trainer.predownload.value) // max(1, trainer.workers)) * share,
            cache_limit=cache_limit(plan, stage, in_place),
        )
    finally:
        streaming_dataset.get_shm_prefix = take
        shared_prefix._check_and_find_retrying = find
        shared_prefix._each_prefix_int = each


def _prefixes() -> Iterator[int]:
    """Numbers for the names of shared memory, beginning with one of this process alone.

    Streaming begins at 0: two runs that begin at once take the same name, and what removes the
    memory of a killed one by name meets the next one's.
    """
    return (number % _PREFIXES for number in itertools.count(os.getpid()))


def _leaders(prefix: int) -> int:
    """The free prefix that the node's first rank found. Every rank looks for itself, and the shared
    memory of other programs may come or go in between."""
    if not (dist.is_available() and dist.is_initialized()):
        return prefix
    found: list[Any] = [None] * dist.get_world_size()
    node = os.environ.get("NODE_RANK", "0")
    dist.all_gather_object(found, (node, os.environ.get("LOCAL_RANK", "0"), prefix))
    return next(int(value) for where, rank, value in found if (where, rank) == (node, "0"))
