"""Compiled datasets as a run finds them, in a folder or at a URL.

    DIR/    as it lies
    URL     plan.json, tokenizer.json, indexes and held-out splits are fetched into
            <NCAMIX_CACHE>/remotes/<hash of the URL>/; shards to train on stay at the URL

Nothing is fetched by an index whose file names lead out of its folder.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncamix import cache
from ncamix.compilation.places import PLAN, TOKENIZER, passage
from ncamix.errors import fail
from ncamix.files import DATA_LOCK, write_whole
from ncamix.owners import shards_needed
from ncamix.plan import Plan
from ncamix.planned_source import PlannedSource
from ncamix.shards import INDEX, count_samples, file_of, is_sound, read_index
from ncamix.splits import HELD_OUT
from ncamix.stores import Store, is_url
from ncamix.text_compilation import with_sizes
from ncamix.waiting import tell

Data = Path | str  # a folder, or a URL


def local_part(data: Data) -> Path:
    """Where plan, tokenizer, indexes and held-out splits of compiled data lie on this machine; of a
    URL once `check_data` has seen it."""
    return passage(str(data), "remotes") if is_url(data) else Path(data)


def check_data(plan: Plan, data: Data) -> Plan:
    """Check that compiled datasets are those of the plan; the plan with exact sizes.

    Raises:
        UserError: they are not complete, were compiled for something else, have too little, or
        cannot be fetched.
    """
    if not str(data).strip():
        raise fail("--data names no place", "name the folder or URL that --out named")
    way_out = f"compile it: ncamix compile {_command(plan)} --out {data}"
    if is_url(data):
        _fetch(plan, str(data), way_out)
    here = local_part(data)
    try:
        told = json.loads((here / PLAN).read_text())
        found = {name: source["fingerprint"] for name, source in told["sources"].items()}
        baked = told.get("baked", False)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise fail(f"{data} holds no finished compilation", way_out) from None
    if baked:
        raise fail(
            f"{data} holds a curriculum that was baked for other trainers",
            f"compile it without --bake: ncamix compile {_command(plan)} --out ANOTHER",
        )
    if plan.tokenizer is not None and not (here / TOKENIZER).is_file():
        raise fail(f"{data} holds no tokenizer.json", way_out)
    sizes: dict[str, int] = {}
    for name, source in plan.sources.items():
        if found.get(name) != source.fingerprint:
            elsewhere = f"compile it elsewhere: ncamix compile {_command(plan)} --out ANOTHER"
            raise fail(f"{data} holds another '{name}' than the curriculum's (or none)", elsewhere)
        try:
            if is_url(data):
                sizes[name] = _num_samples(here / name)
            else:
                sizes[name] = count_samples(here / name)
            if source.text is not None:
                for split in HELD_OUT:
                    count_samples(here / name / split)
        except (OSError, ValueError) as error:
            raise fail(f"{data}/{name} is not whole ({error})", way_out) from None
        limit, there = source.limit, told["sources"][name].get("limit")
        if limit is not None and there is not None:
            if limit > there and sizes[name] >= there:
                what = f"{data}/{name} has {sizes[name]:,} samples, {limit:,} are to be read"
                raise fail(what, way_out)
            if limit <= sizes[name] and "held_out" not in told["sources"][name]:
                what = f"{data}/{name} does not say what it holds out beside {limit:,} samples"
                raise fail(what, way_out)
            sizes[name] = min(limit, sizes[name])
    exact = with_sizes(plan, {n: sizes[n] for n, s in plan.sources.items() if s.spec.finite})
    for name, needed in compiled_samples(exact).items():
        if not exact.sources[name].spec.finite and sizes[name] < needed:
            what = f"{data}/{name} has {sizes[name]:,} samples, {needed:,} are needed"
            raise fail(what, way_out)
    return exact


def held_out_in(data: Path, source: PlannedSource, split: str) -> int:
    """Samples of a held-out split that a text has in checked datasets: of those that were compiled
    for a larger limit, no more than it has under its own.

    data: their `local_part`.
    """
    folder, limit = data / source.dataset, source.limit
    if limit is None or _num_samples(folder) < limit:
        return _num_samples(folder / split)
    steps = json.loads((data / PLAN).read_text())["sources"][source.dataset]["held_out"]
    return max(int(step[1 + HELD_OUT.index(split)]) for step in steps if step[0] <= limit)


def _num_samples(folder: Path) -> int:
    return sum(int(entry["samples"]) for entry in read_index(folder))


def compiled_samples(plan: Plan) -> dict[str, int]:
    """Samples of each source that compiling writes, whole shards of endless ones included."""
    return {
        name: source.expected_samples or 0
        for name, source in plan.sources.items()
        if source.spec.finite
    } | {
        name: num_shards * plan.sources[name].samples_per_shard
        for name, num_shards in shards_needed(plan).items()
    }


def holding(data: Data, dataset: str, numbers: NDArray[np.int64]) -> Path:
    """The folder on this machine with a compiled dataset's index and the shards that hold samples,
    by their numbers, int64 [n]; `check_data` has seen the data. Of a URL these shards are fetched.

    Raises:
        UserError: a shard cannot be fetched, or is damaged.
    """
    here = local_part(data)
    if is_url(data):
        entries = read_index(here / dataset)
        ends = np.cumsum([entry["samples"] for entry in entries])
        shards = np.unique(np.searchsorted(ends, numbers, side="right")).tolist()
        _fetch_shards(Store(str(data), here), dataset, [entries[i] for i in shards], here)
    return here / dataset


def _command(plan: Plan) -> str:
    documents = plan.curriculum.document, plan.trainer.document
    settings = "".join(f" --set {shlex.quote(s)}" for d in documents for s in d.settings)
    return f"{documents[0].file} --trainer {documents[1].file}{settings}"


def _fetch(plan: Plan, url: str, way_out: str) -> None:
    """Bring to this machine what is read of compiled data before training."""
    here = local_part(url)
    store = Store(url, here)
    cache.hold_folder(here)
    here.mkdir(parents=True, exist_ok=True)
    with (here / DATA_LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # other ranks and runs of this machine fetch the same
            if os.environ.get("LOCAL_RANK", "0") == "0":
                tell(f"waiting for another command, which fetches what {url} says")
            fcntl.flock(lock, fcntl.LOCK_EX)
        cache.note_url(lock, store.url)
        new = here / ".new"
        shutil.rmtree(new, ignore_errors=True)
        try:
            if not store.fetch(PLAN, new / PLAN):
                raise fail(f"{url} holds no finished compilation", way_out)
            _fetch_indexes(plan, store, new, here)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def _fetch_indexes(plan: Plan, store: Store, new: Path, here: Path) -> None:
    """All that is fetched, plan.json at last."""
    if plan.tokenizer is not None:
        store.fetch(TOKENIZER, here / TOKENIZER)
    for name, source in plan.sources.items():
        splits = HELD_OUT if source.text is not None else ()
        for folder in (name, *(f"{name}/{split}" for split in splits)):
            if not store.fetch(f"{folder}/{INDEX}", new / folder / INDEX):
                (here / folder / INDEX).unlink(missing_ok=True)
                continue
            try:
                entries = read_index(new / folder)
            except ValueError as error:
                what = f"{store.url}/{folder}/{INDEX} is not to be trusted"
                reason = str(error).replace(f"{new}/", "")
                raise fail(f"{what} ({reason})", "compile these datasets anew, elsewhere") from None
            if folder != name:
                _fetch_shards(store, folder, entries, here)
            (here / folder).mkdir(parents=True, exist_ok=True)
            write_whole(here / folder / INDEX, (new / folder / INDEX).read_bytes())
    write_whole(here / PLAN, (new / PLAN).read_bytes())


def _fetch_shards(store: Store, folder: str, entries: list[dict[str, Any]], here: Path) -> None:
    """Fetch the shards of a dataset that are not there as its index says."""
    for entry in entries:
        if is_sound(here / folder, entry):
            continue
        name = f"{folder}/{file_of(entry)['basename']}"
        if not store.fetch(name, here / name) or not is_sound(here / folder, entry):
            raise fail(
                f"{store.url}/{name} is not what its index says", "compile these datasets anew"
            )
