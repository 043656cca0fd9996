"""Compiling: a plan's sources as MDS datasets that any trainer can read.

    DIR/<source>/index.json, shard.00000.mds.zstd ...   tokens, in the source's own order
    DIR/<source>/validation/, DIR/<source>/test/        held-out text
    DIR/tokenizer.json, DIR/plan.json

The samples are those that `ncamix run` generates on the fly, byte for byte. `plan.json` is written
last and says that the folder is complete.
"""

from __future__ import annotations

import fcntl
import json
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncamix import cache
from ncamix.errors import fail
from ncamix.files import DATA_LOCK, leave_nothing, make_folder, write_whole
from ncamix.limits import refuse_untrained
from ncamix.owners import shards_needed
from ncamix.plan import Plan, PlannedSource
from ncamix.plan_output import plan_json
from ncamix.shards import (
    ShardFormat,
    count_samples,
    read_samples,
    width_of,
    write_dataset,
)
from ncamix.sources import open_generator
from ncamix.splits import HELD_OUT
from ncamix.text_compilation import held_out_samples, prepare_text, tokenizer_file, with_sizes
from ncamix.waiting import Say

ZSTD_LEVEL = 3


def prepare(plan: Plan, say: Say, data: Path | None) -> Plan:
    """A plan with exact sizes: text compiled in the cache, or read off compiled datasets."""
    return prepare_text(plan, say) if data is None else check_data(plan, data)


def check_data(plan: Plan, data: Path) -> Plan:
    """Check that compiled datasets are those of the plan; the plan with exact sizes.

    Raises:
        UserError: the folder is not complete, was compiled for something else, or has too little.
    """
    documents = plan.curriculum.document, plan.trainer.document
    settings = "".join(f" --set {shlex.quote(s)}" for d in documents for s in d.settings)
    files = f"{documents[0].file} --trainer {documents[1].file}{settings}"
    way_out = f"compile it: ncamix compile {files} --out {data}"
    try:
        compiled = json.loads((data / "plan.json").read_text())["sources"]
        found = {name: source["fingerprint"] for name, source in compiled.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise fail(f"{data} holds no finished compilation", way_out) from None
    if plan.vocabulary.text_rows and not (data / "tokenizer.json").is_file():
        raise fail(f"{data} holds no tokenizer.json", way_out)
    sizes: dict[str, int] = {}
    for name, source in plan.sources.items():
        if found.get(name) != source.fingerprint:
            raise fail(f"{data} holds another '{name}' than the curriculum's (or none)", way_out)
        try:
            sizes[name] = count_samples(data / name)
            if source.spec.finite:
                for split in HELD_OUT:
                    count_samples(data / name / split)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise fail(f"{data / name} is not whole ({error})", way_out) from None
        limit, there = source.limit, compiled[name].get("limit")
        if limit is not None and there is not None:
            if limit > there and sizes[name] >= there:
                what = f"{data / name} has {sizes[name]:,} samples, {limit:,} are to be read"
                raise fail(what, way_out)
            sizes[name] = min(limit, sizes[name])
    exact = with_sizes(plan, {n: sizes[n] for n, s in plan.sources.items() if s.spec.finite})
    for name, needed in compiled_samples(exact).items():
        if not exact.sources[name].spec.finite and sizes[name] < needed:
            what = f"{data / name} has {sizes[name]:,} samples, {needed:,} are needed"
            raise fail(what, way_out)
    return exact


def compile_plan(
    plan: Plan, out: Path, say: Say, done: Callable[[str, int], None] = lambda name, samples: None
) -> Plan:
    """Write a plan's datasets into the folder `out`; the plan with exact sizes.

    done: told each source's name and how many more of its samples are written. Sources that are
    there already are kept.

    Raises:
        UserError: the folder cannot be written, is another's, or a text cannot be compiled.
    """
    refuse_untrained(plan)
    created = make_folder(out, DATA_LOCK)
    with (out / DATA_LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise fail(f"another process is compiling into {out}", "wait for it") from None
        try:
            return _compile_locked(plan, out, say, done)
        finally:
            leave_nothing(out, created, DATA_LOCK)


def _compile_locked(plan: Plan, out: Path, say: Say, done: Callable[[str, int], None]) -> Plan:
    """`compile_plan`, once the folder is this process's."""
    plan = prepare_text(plan, say)
    file = tokenizer_file(plan, say)
    if file is not None:
        write_whole(out / "tokenizer.json", file.read_bytes())
    (out / "plan.json").unlink(missing_ok=True)
    for left in out.glob(".building-*"):  # by a killed process; the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    samples = compiled_samples(plan)
    for source in plan.sources.values():
        _compile_source(source, samples[source.dataset], out / source.dataset, done)
    write_whole(out / "plan.json", json.dumps(plan_json(plan), indent=1).encode())
    return plan


def _compile_source(
    source: PlannedSource, num_samples: int, folder: Path, done: Callable[[str, int], None]
) -> None:
    """One source's dataset, built beside its place and renamed when it is whole."""
    stamp = {"fingerprint": source.fingerprint}
    try:
        present = json.loads((folder / cache.INFO).read_text())
        samples = count_samples(folder)
        if present["fingerprint"] == source.fingerprint and samples >= num_samples:
            if source.text is not None:
                for split in HELD_OUT:
                    count_samples(folder / split)
            done(source.dataset, samples)
            return
    except (OSError, ValueError, LookupError, TypeError):
        pass
    building = folder.with_name(f".building-{folder.name}")
    building.mkdir()
    width = width_of(source.first_id + source.num_ids)
    form = ShardFormat(source.sequence_length + 1, width, ZSTD_LEVEL, hashed=True)

    def told(samples: int) -> None:
        done(source.dataset, samples)

    try:
        write_dataset(building, form, shards_of(source, num_samples), told)
        if source.text is not None:
            for split in HELD_OUT:
                (building / split).mkdir()
                most = held_out_samples(source, split)
                held = read_samples(cache.entry(source.fingerprint) / split, most)
                write_dataset(building / split, form, [held] if len(held) else [])
        write_whole(building / cache.INFO, json.dumps(stamp).encode())
        (folder / cache.INFO).unlink(missing_ok=True)  # first, so that no torn folder is kept
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def shards_of(source: PlannedSource, num_samples: int) -> Iterator[NDArray[np.uint32]]:
    """The shards of a source's first samples, in order, uint32 [samples_per_shard,
    sequence_length + 1] each."""
    per = source.samples_per_shard
    if source.text is not None:
        samples = read_samples(cache.entry(source.fingerprint), source.num_samples)
        for first in range(0, len(samples), per):
            yield samples[first : first + per]
        return
    generator: Any = open_generator(source.meaning)
    for first in range(0, num_samples, per):
        yield generator.samples(first, per)


def compiled_samples(plan: Plan) -> dict[str, int]:
    """Samples of each source that compiling writes, whole shards of endless ones included."""
    return {
        name: source.num_samples or source.estimated_samples or 0
        for name, source in plan.sources.items()
        if source.text is not None
    } | {
        name: num_shards * plan.sources[name].samples_per_shard
        for name, num_shards in shards_needed(plan).items()
    }
