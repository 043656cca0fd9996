"""A source as the plan sees it: what its samples are made from, and how many a run needs.

    text, pairs   files or the hub, tokenizer -> compiled in the cache
    mds           a folder or a URL           -> read as it is
    others        their meaning alone         -> generated, without end

Everything is known before anything is read or made. Samples are of one length, in tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncamix.errors import Problem
from ncamix.loading import LoadedCurriculum
from ncamix.shards import ShardFormat, width_of
from ncamix.sources import LeafSource, TextSource
from ncamix.sources.corpus import CorpusFile, FiniteSource


@dataclass(frozen=True)
class EarlierText:
    """A text source made of files and declared before another, which drops copies of it."""

    name: str
    spec: TextSource
    files: tuple[CorpusFile, ...]


@dataclass(frozen=True)
class TextPlan:
    """What compiling a text source needs. `files` or `hub` says where the documents are.

    num_bytes: of text in the files, about. tokenizer: its meaning, which names its fingerprint.
    documents: what determines the documents and their splits. before: the sources whose documents
    this one drops copies of. most_bytes: what the files' text cannot exceed, None where compression
    leaves that open.
    """

    files: tuple[CorpusFile, ...] | None
    hub: dict[str, str | None] | None
    num_bytes: int | None
    tokenizer: dict[str, Any]
    documents: dict[str, Any]
    before: tuple[EarlierText, ...] = ()
    most_bytes: int | None = None


@dataclass(frozen=True)
class Benchmark:
    """An evaluation set beside the sources: files named in `evaluate: benchmarks`, as written."""

    name: str
    files: tuple[CorpusFile, ...]
    digest: str  # of the files' names and contents


@dataclass(frozen=True)
class StoredPlan:
    """Where the samples of a data set lie that exists already.

    local: its folder on this machine, or where what is fetched is kept. remote: the folder or URL
    that it is fetched from. One of them is given. dtype: of ids that are stored as bytes.
    """

    local: Path | None
    remote: str | None
    tokenizer: dict[str, Any]  # as of a text
    dtype: str

    def described(self, name: str) -> str:
        """The data set in words, of the source `name`."""
        return f"the data set {self.remote or self.local} of the source '{name}'"


@dataclass(frozen=True)
class PlannedSource:
    """A source as the plan sees it, in samples of one length.

    dataset: what its samples are filed under: its name, and `name@512` for samples of another
    length than the trainer's. meaning: plain JSON that determines every byte of the source;
    `fingerprint` is its hash. samples_needed: over the whole run, however early its stages end.
    num_samples: samples an epoch of a finite source has, None while that is unknown
    (`estimated_samples` then guesses) or endless. limit: samples of a data set on the hub that are
    read at most, in whole shards; they are its epoch, however many more the cache holds. masked: a
    loss mask comes with every sample, or may, so that fewer targets are trained than `loss_tokens`.
    short: its samples have one id less than others, so that their last place has no target.
    text, stored: what a finite source is made from, one of them.
    """

    name: str
    dataset: str
    spec: LeafSource
    meaning: dict[str, Any]
    fingerprint: str
    first_id: int
    num_ids: int
    loss_start: int
    samples_needed: int
    samples_per_shard: int
    text: TextPlan | None = None
    stored: StoredPlan | None = None
    masked: bool = False
    short: bool = False
    num_samples: int | None = None
    estimated_samples: int | None = None
    limit: int | None = None

    @property
    def kind(self) -> str:
        return self.spec.kind

    @property
    def sequence_length(self) -> int:
        return int(self.meaning["sequence_length"])

    @property
    def loss_tokens(self) -> int:
        """Unmasked targets of one sample; the most of them, if the source is `masked`."""
        return self.sequence_length + 1 - self.loss_start - self.short

    @property
    def shard_format(self) -> ShardFormat:
        """The layout of its shards: not compressed, without hashes."""
        width = width_of(self.first_id + self.num_ids)
        return ShardFormat(self.sequence_length + 1, width, masked=self.masked or self.short)

    @property
    def expected_samples(self) -> int | None:
        """Samples of an epoch, a guess while the size is unknown; None if endless, or nothing is
        known."""
        return self.num_samples or self.estimated_samples

    @property
    def epochs_allowed(self) -> int | None:
        """How often a finite source may be seen; None where that does not matter."""
        return self.spec.repeat if isinstance(self.spec, FiniteSource) else None

    def evaluation_meaning(self) -> dict[str, Any]:
        """Full meaning of an endless source's held-out samples: no seed of the run reaches it."""
        return {**self.meaning, "seed": "evaluation"}

    def samples_in(self, info: Mapping[str, Any] | None) -> int | None:
        """Samples that it has in the entry of the cache that says so of itself; None where there is
        no entry, or it has to grow."""
        if not info:
            return None
        there = int(info["num_samples"])
        if self.limit is None or info["exhausted"]:
            return min(there, self.limit or there)
        return self.limit if self.limit <= there else None

    def epochs(self) -> float | None:
        """Epochs over a finite source, a guess while its size is unknown; None if endless."""
        size = self.expected_samples
        return self.samples_needed / size if size else None


def dataset_name(source: str, length: int, usual: int) -> str:
    """What samples of `length` tokens are filed under, `usual` being the trainer's length."""
    return source if length == usual else f"{source}@{length}"


def too_small(
    loaded: LoadedCurriculum, source: PlannedSource, num_samples: int, bound: bool = False
) -> Problem | None:
    """The problem of a finite source of `num_samples` samples (an upper bound of them, if `bound`)
    that would be repeated more often than it allows; None if they suffice."""
    allowed = source.epochs_allowed
    if allowed is None or source.samples_needed <= allowed * num_samples:
        return None
    need = source.samples_needed / num_samples
    return loaded.document.problem(
        ("sources", source.name),
        f"the text is too small for its share: {source.samples_needed:,} "
        f"samples are needed, it has {'at most ' if bound else ''}{num_samples:,} "
        f"({need:.1f} epochs, {allowed} allowed)",
        "add text, shorten the stages that use it, or allow more with `repeat: "
        f"{-(-source.samples_needed // num_samples)}`",
    )
