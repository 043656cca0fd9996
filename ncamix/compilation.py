"""Compiling: a plan's sources as MDS datasets that any trainer can read.

    DIR/<source>/index.json, shard.00000.mds.zstd ...   tokens, in the source's own order
    DIR/<source>/holdout/                               held-out text
    DIR/tokenizer.json, DIR/plan.json

The samples are those that `ncamix run` generates on the fly, byte for byte. `plan.json` is written
last and says that the folder is complete.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncamix import cache
from ncamix.errors import UserError, fail
from ncamix.files import DATA_LOCK, leave_nothing, make_folder, write_whole
from ncamix.plan import Plan, PlannedSource, too_small
from ncamix.plan_output import plan_json
from ncamix.shards import (
    ShardFormat,
    count_samples,
    read_samples,
    width_of,
    write_dataset,
)
from ncamix.sources import open_generator
from ncamix.text_compilation import prepare_text, tokenizer_file
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
    files = f"{plan.curriculum.document.file} --trainer {plan.trainer.document.file}"
    way_out = f"compile it: ncamix compile {files} --out {data}"
    try:
        compiled = json.loads((data / "plan.json").read_text())["sources"]
        found = {name: source["fingerprint"] for name, source in compiled.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise fail(f"{data} holds no finished compilation", way_out) from None
    if plan.vocabulary.text_rows and not (data / "tokenizer.json").is_file():
        raise fail(f"{data} holds no tokenizer.json", way_out)
    sources = dict(plan.sources)
    for name, source in plan.sources.items():
        if found.get(name) != source.fingerprint:
            raise fail(f"{data} holds another '{name}' than the curriculum's (or none)", way_out)
        try:
            num_samples = count_samples(data / name)
            if source.text is not None:
                count_samples(data / name / "holdout")
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise fail(f"{data / name} is not whole ({error})", way_out) from None
        if source.text is not None:
            sources[name] = replace(source, num_samples=num_samples)
            problem = too_small(plan.curriculum, source, num_samples)
            if problem is not None:
                raise UserError(problem)
        elif num_samples < source.samples_needed:
            raise fail(
                f"{data / name} has {num_samples:,} samples, {source.samples_needed:,} are needed",
                way_out,
            )
    return replace(plan, sources=sources)


def compile_plan(
    plan: Plan, out: Path, say: Say, done: Callable[[str, int], None] = lambda name, samples: None
) -> Plan:
    """Write a plan's datasets into the folder `out`; the plan with exact sizes.

    done: told each source's name and how many more of its samples are written. Sources that are
    there already are kept.

    Raises:
        UserError: the folder cannot be written, is another's, or a text cannot be compiled.
    """
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
    for source in plan.sources.values():
        _compile_source(source, out / source.name, done)
    write_whole(out / "plan.json", json.dumps(plan_json(plan), indent=1).encode())
    return plan


def _compile_source(source: PlannedSource, folder: Path, done: Callable[[str, int], None]) -> None:
    """One source's dataset, built beside its place and renamed when it is whole."""
    stamp = {"fingerprint": source.fingerprint, "samples_needed": source.samples_needed}
    try:
        present = json.loads((folder / cache.INFO).read_text())
        if present["fingerprint"] == source.fingerprint and (
            source.text or present["samples_needed"] >= source.samples_needed
        ):
            samples = count_samples(folder)
            if source.text is not None:
                count_samples(folder / "holdout")
            done(source.name, samples)
            return
    except (OSError, ValueError, LookupError, TypeError):
        pass
    building = folder.with_name(f".building-{folder.name}")
    building.mkdir()
    width = width_of(source.first_id + source.num_ids)
    form = ShardFormat(source.sequence_length + 1, width, ZSTD_LEVEL)

    def told(samples: int) -> None:
        done(source.name, samples)

    try:
        write_dataset(building, form, shards_of(source), told)
        if source.text is not None:
            (building / "holdout").mkdir()
            held = read_samples(cache.entry(source.fingerprint) / "holdout")
            write_dataset(building / "holdout", form, [held] if len(held) else [])
        write_whole(building / cache.INFO, json.dumps(stamp).encode())
        (folder / cache.INFO).unlink(missing_ok=True)  # first, so that no torn folder is kept
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def shards_of(source: PlannedSource) -> Iterator[NDArray[np.uint32]]:
    """A source's shards in order, uint32 [samples_per_shard, sequence_length + 1] each."""
    per = source.samples_per_shard
    if source.text is not None:
        entry = cache.entry(source.fingerprint)
        samples = read_samples(entry)
        for first in range(0, len(samples), per):
            yield samples[first : first + per]
        return
    generator: Any = open_generator(source.meaning)
    for number in range(max(1, -(-source.samples_needed // per))):
        yield generator.samples(number * per, per)
