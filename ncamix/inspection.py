"""Inspection: what is asked of a batch -> the batch, and what is known of its samples.

    plan, request -> Batch -> the samples that are listed
    a run's metrics.jsonl -> its digest of the batch, held against that of all samples
    decoding -> texts, scores, a picture

Nothing is generated or compiled that the answer does not need: places follow from arithmetic and
from the sizes of finite sources; ids are made for a digest to check, or to be decoded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ncamix.batches import (
    Batch,
    Placed,
    Recorded,
    batch_of,
    check_batch,
    digest_of,
    find_stage,
    find_token,
    ids_of,
    recorded,
    with_lengths,
    with_sizes,
)
from ncamix.compilation.compiled import Data
from ncamix.decoding import as_text, open_tokenizer, rule_scores
from ncamix.errors import fail
from ncamix.plan import Plan, PlannedStage
from ncamix.sources import NcaSource
from ncamix.waiting import Say, quiet

FEW = 40  # samples that a terminal lists and a picture shows, unless more are asked for


@dataclass(frozen=True)
class Request:
    """What is asked for.

    stage: name, or number from 1. batch: number in the stage; token: of the run, finds both.
    places: as `places_of` reads them. ranks: that share the batch. decode: show what samples hold.
    few: list the first only. every: list and draw all. data: compiled datasets to read from.
    """

    stage: str | None = None
    batch: int | None = None
    token: int | None = None
    places: str | None = None
    ranks: int | None = None
    decode: bool = False
    few: bool = False
    every: bool = False
    data: Data | None = None


@dataclass(frozen=True)
class Decoded:
    """What samples hold, by place. texts: of all but automata; scores: of the rules of those.

    picture: a PNG of the automata, None without any; undrawn: those that it leaves out.
    """

    ids: dict[int, NDArray[np.uint32]]
    texts: dict[int, str]
    scores: dict[int, float]
    picture: bytes | None
    undrawn: int


@dataclass(frozen=True)
class Inspection:
    """A batch, the samples of it that are listed, and what is known of them.

    run: whose record this is. difference: between its plan and the one made again, '' if none.
    digest: of all samples of the batch, None where no record has one.
    """

    plan: Plan
    batch: Batch
    samples: tuple[Placed, ...]
    request: Request
    run: Path | None
    difference: str
    record: Recorded | None
    digest: int | None
    decoded: Decoded | None

    @property
    def as_trained(self) -> bool | None:
        """Whether the samples are those that the run recorded; None where it recorded none."""
        if self.record is None or self.digest is None:
            return None
        return self.digest == self.record.digest

    @property
    def picture_name(self) -> str:
        name = f"{self.plan.name}_{self.batch.stage.name}_{self.batch.number}"
        places = "".join((self.request.places or "").split())[:80]
        return f"{name}_place_{places}.png" if places else f"{name}.png"

    def rank(self, place: int) -> int | None:
        """The rank that takes a place, if ranks were asked for."""
        ranks = self.request.ranks
        return place // (self.batch.stage.batch_size // ranks) if ranks else None


def inspect(
    plan: Plan, request: Request, run: Path | None = None, difference: str = "", say: Say = quiet
) -> Inspection:
    """All that is asked for of a batch. run: a folder whose metrics.jsonl recorded it.

    Raises:
        UserError: there is no such batch, place or share; a text cannot be compiled; the picture
            would be too large.
    """
    plan = with_lengths(plan, request.data, say)
    stage, number = _locate(plan, request)
    size, ranks = stage.batch_size, request.ranks
    places = places_of(request.places, size) if request.places is not None else None
    if ranks is not None and size % ranks:
        raise fail(
            f"a batch of {size:,} does not split over {ranks:,} ranks",
            "choose a number of ranks that divides it",
        )
    plan = with_sizes(plan, stage, request.data, say)
    batch = batch_of(plan, stage, number, ranks, request.data)
    samples = batch.samples
    if places is not None:
        samples = tuple(samples[place] for place in places)
    elif request.few and not request.every:
        samples = samples[:FEW]
    record = recorded(run, stage.name, number) if run is not None else None
    digest = None
    if record is not None and record.digest is not None:
        digest = digest_of(ids_of(plan, batch.samples, request.data, say))
    decoded = None
    if request.decode:
        decoded = _decode(plan, batch, samples, request, say)
    return Inspection(plan, batch, samples, request, run, difference, record, digest, decoded)


def _locate(plan: Plan, request: Request) -> tuple[PlannedStage, int]:
    if request.token is not None:
        if request.stage is not None or request.batch is not None:
            raise fail(
                "--token says which stage and batch is meant", "leave --stage and --batch out"
            )
        return find_token(plan, request.token)
    stage, number = find_stage(plan, request.stage), request.batch or 0
    check_batch(stage, number)
    return stage, number


def places_of(written: str, batch_size: int) -> tuple[int, ...]:
    """Places in a batch, written `3`, `3,7` or `0..7` (ends included), each once, in that order.

    Raises:
        UserError: not written like that, or not in the batch.
    """
    places: dict[int, None] = {}
    for part in written.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:\.\.(\d{1,9}))?\s*", part, re.ASCII)
        if match is None:
            raise fail(f"'{written}' names no places", "write --place 3, 3,7 or 0..7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first or last >= batch_size:
            what = f"the batch has no places {part.strip()}"
            raise fail(what, f"its places are 0 to {batch_size - 1:,}")
        places |= dict.fromkeys(range(first, last + 1))
    return tuple(places)


def _decode(
    plan: Plan, batch: Batch, samples: Sequence[Placed], request: Request, say: Say
) -> Decoded:
    rows = ids_of(plan, samples, request.data, say)
    short = {name for name, source in plan.sources.items() if source.short}  # end in no id
    ids = {
        sample.place: row[:-1] if sample.dataset in short else row
        for sample, row in zip(samples, rows, strict=True)
    }
    automata = [s for s in samples if isinstance(plan.sources[s.dataset].spec, NcaSource)]
    others = [s for s in samples if s not in automata]
    tokenizer = None
    if any(plan.sources[s.dataset].spec.finite for s in others):
        tokenizer = open_tokenizer(plan, request.data, say)
    texts = {s.place: as_text(plan.sources[s.dataset], ids[s.place], tokenizer) for s in others}
    scores: dict[int, float] = {}
    for name in dict.fromkeys(s.dataset for s in automata):
        say(f"rules of {name}", len(scores) / len(automata))
        own = [s for s in automata if s.dataset == name]
        found = rule_scores(plan.sources[name], [s.sample for s in own])
        scores |= {s.place: float(score) for s, score in zip(own, found, strict=True)}
    drawn = automata if request.every or request.places is not None else automata[:FEW]
    picture = None
    if drawn:
        from ncamix.batch_pictures import draw_samples

        say("drawing", 1.0)
        picture = draw_samples(plan, batch, drawn, ids, scores)
    return Decoded(ids, texts, scores, picture, len(automata) - len(drawn))
