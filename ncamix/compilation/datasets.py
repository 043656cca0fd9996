"""Compiling: a plan's sources as MDS datasets that any trainer can read.

    plan -> a job a dataset -> shards, made on all cores and ranks -> indexes -> plan.json

    DIR/<source>/index.json, shard.00000.mds.zstd ...   tokens, in the source's own order
    DIR/<source>/validation/, DIR/<source>/test/        held-out text
    DIR/<source>/source.json                            fingerprints and the map of id ranges
    DIR/tokenizer.json, DIR/plan.json

The samples are those that `ncamix run` generates on the fly, byte for byte. `plan.json` is written
last and says that all is complete.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncamix.compilation.baking import bake_jobs, readme
from ncamix.compilation.compiled import Data, check_data
from ncamix.compilation.jobs import source_jobs
from ncamix.compilation.places import PLAN, README, TOKENIZER, Place, place_of
from ncamix.compilation.room import room_for
from ncamix.compilation.writer import Watcher, write_jobs
from ncamix.errors import fail
from ncamix.plan import Plan
from ncamix.plan_output import plan_json
from ncamix.ranks import Ranks
from ncamix.text_compilation import held_out_steps, prepare_text, tokenizer_file
from ncamix.tokenization import end_of_text_id
from ncamix.waiting import Say

ZSTD_LEVEL = 3


@dataclass(frozen=True)
class Writing:
    """How datasets are written. zstd: level, None for files that are not compressed. threads: that
    make shards, one a core by default. bake: one dataset a stage, in the order of training."""

    zstd: int | None = ZSTD_LEVEL
    threads: int | None = None
    bake: bool = False


USUAL = Writing()


def prepare(plan: Plan, say: Say, data: Data | None) -> Plan:
    """A plan with exact sizes: text compiled in the cache, or read off compiled datasets."""
    return prepare_text(plan, say) if data is None else check_data(plan, data)


def compile_plan(
    plan: Plan,
    out: Path | str | Place,
    say: Say,
    watcher: Watcher | None = None,
    how: Writing = USUAL,
) -> Plan:
    """Write a plan's datasets into a folder, below a URL or into the place of one; the plan with
    exact sizes.

    Shards that are there already are kept. Under a launcher every rank calls this and writes its
    share.

    Raises:
        UserError: the place cannot be written, is another's, or a text cannot be compiled.
    """
    ranks, place = Ranks(), out if isinstance(out, Place) else place_of(out)
    ranks.join()
    try:
        if not ranks.is_first:
            return _compile(plan, place, ranks, say, watcher or Watcher(), how)
        with place.hold():
            return _compile(plan, place, ranks, say, watcher or Watcher(), how)
    finally:
        ranks.leave()


def _compile(
    plan: Plan, place: Place, ranks: Ranks, say: Say, watcher: Watcher, how: Writing
) -> Plan:
    """`compile_plan`, once the place is this command's."""
    plan = prepare_text(plan, say)
    file = tokenizer_file(plan, say)
    make_jobs = bake_jobs if how.bake else source_jobs
    jobs = make_jobs(plan, how.zstd, _boundary(plan, file))
    with room_for(jobs, place, how.threads):
        if ranks.is_first:
            _check_finished(plan, place, how)
            place.begin({job.folder: job.info() for job in jobs})
        ranks.wait()
        place.folder.mkdir(parents=True, exist_ok=True)  # on hosts of their own
        place.read()
        write_jobs(jobs, place, ranks, watcher, how.threads)
        if ranks.is_first:
            if file is not None:
                place.put(TOKENIZER, file.read_bytes())
            if how.bake:
                place.put(README, readme(plan).encode())
            place.put(PLAN, json.dumps(_facts(plan, how), indent=1).encode())
    ranks.wait()
    place.end()
    ranks.wait()  # the first one now gives the place up
    return plan


def _boundary(plan: Plan, tokenizer: Path | None) -> int | None:
    """The id that ends a document, where some source attends within documents."""
    if not any(source.spec.attends_within_documents() for source in plan.sources.values()):
        return None
    from tokenizers import Tokenizer

    assert tokenizer is not None, "documents come with a tokenizer"
    return end_of_text_id(Tokenizer.from_file(str(tokenizer)))


def _check_finished(plan: Plan, place: Place, how: Writing) -> None:
    """Refuse to replace a finished compilation of something else; more of the same is welcome.

    Below a URL nothing is replaced anyway.
    """
    try:
        told = json.loads((place.folder / PLAN).read_text())
        name, was_baked = told["name"], told.get("baked", False)
        there = {source: facts["fingerprint"] for source, facts in told["sources"].items()}
        same = told["fingerprint"] == plan.fingerprint
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return
    wanted = {source: planned.fingerprint for source, planned in plan.sources.items()}
    if not how.bake:
        same = all(wanted.get(source) == digest for source, digest in there.items())
    if was_baked != how.bake or not same:
        layout = "baked stages" if was_baked else "datasets"
        raise fail(
            f"{place} holds the finished {layout} of '{name}', as it was planned otherwise",
            "choose another folder with --out, or delete this one",
        )


def _facts(plan: Plan, how: Writing) -> dict[str, Any]:
    """What plan.json says: the plan, with the names of its files, not where they lie here, and what
    texts that are read up to a limit hold out below it."""
    facts = plan_json(plan)
    for name, source in plan.sources.items():
        if source.text is not None and source.limit is not None and not how.bake:
            facts["sources"][name]["held_out"] = held_out_steps(source)
    facts["curriculum_file"] = Path(facts["curriculum_file"]).name
    facts["trainer"]["file"] = Path(facts["trainer"]["file"]).name
    return facts | ({"baked": True} if how.bake else {})
