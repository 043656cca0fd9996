"""Text -> tokenizer -> samples on disk: what must happen before a text source can be streamed.

    documents -> exact duplicates dropped -> split -> tokenizer (trained on the training split)
    -> ids, each document closed by the end of text -> samples that overlap by one id
    -> shuffled, if the source is transformed -> shards

Every id but the first is a target exactly once, before any transform. Results go to the cache under
their fingerprint and appear whole or not at all; a second process waits for the first.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ncamix import cache, tokenization
from ncamix.curation import split_documents
from ncamix.documents import Document
from ncamix.errors import UserError, fail
from ncamix.files import write_whole
from ncamix.keys import derive_key, fingerprint
from ncamix.overlap import (
    Evaluation,
    OverlapCounter,
    check_overlap,
    overlap_counter,
    overlap_remarks,
)
from ncamix.plan import Plan, PlannedSource, too_small
from ncamix.planning import make_plan
from ncamix.shards import ShardFormat, count_samples, width_of, write_dataset
from ncamix.sources.base import shuffle
from ncamix.splits import HELD_OUT
from ncamix.stored import stored_sizes
from ncamix.waiting import Say, quiet

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HubTokenizer

HOLDOUT_SAMPLES = 4096  # held-out samples kept, at most
_CHUNK_CHARACTERS = 1 << 22  # documents are encoded in chunks of about so many characters


def prepare_text(plan: Plan, say: Say = quiet, names: Collection[str] | None = None) -> Plan:
    """Compile every text source of a plan that the cache lacks, and fetch the indexes of stored
    ones; the plan with exact sizes, and with remarks on what texts share with evaluation sets.

    names: of the sources that matter; None is all.

    Raises:
        UserError: a corpus is empty, cannot be read, or is too small for its share; an index cannot
            be fetched.
    """
    evaluation = Evaluation(plan, say)
    infos = {
        name: compile_text(plan, source, say, evaluation)
        for name, source in plan.sources.items()
        if source.text is not None and (names is None or source.name in names)
    }
    sizes = {name: int(info["num_samples"]) for name, info in infos.items()}
    plan = with_sizes(plan, sizes | stored_sizes(plan, say, names))
    found = {plan.sources[name].name: info["report"]["overlap"] for name, info in infos.items()}
    remarks = [text for name in found for text in overlap_remarks(name, found[name])]
    return replace(plan, warnings=tuple(dict.fromkeys([*plan.warnings, *remarks])))


def with_sizes(plan: Plan, sizes: Mapping[str, int]) -> Plan:
    """A plan with the exact sizes of its texts, by dataset.

    Raises:
        UserError: a text is too small for its share.
    """
    if plan.estimated:  # a stage's length counts epochs: only now is it known
        plan = make_plan(plan.curriculum, plan.trainer, sizes=sizes)
    sources = dict(plan.sources)
    for name, size in sizes.items():
        sources[name] = replace(sources[name], num_samples=size)
    problems = [too_small(plan.curriculum, sources[name], size) for name, size in sizes.items()]
    found = [problem for problem in problems if problem is not None]
    if found:
        raise UserError(found)
    return replace(plan, sources=sources)


def tokenizer_file(plan: Plan, say: Say = quiet) -> Path | None:
    """The plan's tokenizer.json, trained first if the cache lacks it; None without text."""
    meaning = plan.tokenizer
    if meaning is None:
        return None
    shown = {k: v for k, v in meaning.items() if k != "file"}
    digest = fingerprint(shown)
    file = cache.entry(digest) / "tokenizer.json"
    with _building(digest) as folder:
        if folder is not None:
            trained = _make_tokenizer(plan, meaning, say)
            write_whole(folder / "tokenizer.json", trained.to_str().encode())
            _finish(folder, digest, {"kind": "tokenizer", "meaning": shown})
    return file


def _make_tokenizer(plan: Plan, meaning: dict[str, Any], say: Say) -> HubTokenizer:
    from tokenizers import Tokenizer

    if meaning["kind"] == "bytes":
        return tokenization.byte_tokenizer()
    if meaning["kind"] == "pretrained":
        return Tokenizer.from_file(meaning["file"])
    say(f"training a tokenizer of {meaning['size']:,} ids", 0.0)

    def texts() -> Iterator[str]:
        for name in sorted(meaning["train_on"]):
            source = next((s for s in plan.sources.values() if s.name == name), None)
            if source is None:
                raise fail(
                    f"the tokenizer is trained on '{name}', which no stage uses",
                    "use the source in a stage, or train on another",
                )
            size = 0
            for document, split in split_documents(source):
                if split == "train":
                    yield document.text
                    size += len(document.text)
                    if size > tokenization.TRAIN_CHARACTERS:
                        break
            if not size:
                raise _empty(plan, source)

    return tokenization.train_bpe(texts(), meaning["size"])


def _empty(plan: Plan, source: PlannedSource) -> UserError:
    return UserError(
        plan.curriculum.document.problem(
            ("sources", source.name),
            "the corpus is empty: no document with any text is left to train on",
            "check its files, and that `holdout` does not take everything",
        )
    )


def compile_text(
    plan: Plan, source: PlannedSource, say: Say = quiet, evaluation: Evaluation | None = None
) -> dict[str, Any]:
    """Tokenize a text source into the cache, unless it is there; what its entry says, and under
    `report` what was left out of it and what it shares with evaluation sets.

    Raises:
        UserError: it cannot be had, or shares what it must not.
    """
    evaluation = evaluation or Evaluation(plan, say)
    with _building(source.fingerprint) as folder:
        if folder is not None:
            if source.text and source.text.files and source.spec.overlap == "refuse":  # type: ignore[attr-defined]
                check_overlap(plan, source, evaluation, None, say)  # hours before it is tokenized
            file = tokenizer_file(plan, say)
            assert file is not None
            counter = overlap_counter(source, evaluation)
            info = _pack(plan, source, folder, file, say, counter)
            if counter is not None:
                counter.keep(folder, info["num_documents"])
            _finish(folder, source.fingerprint, info)
    info = cache.entry_info(source.fingerprint) or {}
    assert info, "the entry was just finished"
    overlap = check_overlap(plan, source, evaluation, info["num_documents"], say)
    return {**info, "report": {**info["report"], "overlap": overlap}}


def _pack(
    plan: Plan,
    source: PlannedSource,
    folder: Path,
    file: Path,
    say: Say,
    counter: OverlapCounter | None,
) -> dict[str, Any]:
    """Tokenize, pack and write all splits of a source into `folder`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    end = tokenization.end_of_text_id(tokenizer)
    length = source.sequence_length
    limit = source.meaning.get("limit")
    packers = {
        split: _Packer(length, HOLDOUT_SAMPLES, shuffle_key(source.meaning, split))
        for split in HELD_OUT
    }
    train = _Packer(length, limit, shuffle_key(source.meaning, "train"))
    packers["train"] = train
    total = source.text.num_bytes if source.text and source.text.num_bytes else 0
    num_documents = read = 0
    report: dict[str, Any] = {}

    def shards() -> Iterator[NDArray[np.uint32]]:
        nonlocal num_documents, read
        for chunk in _chunks(split_documents(source, report)):
            encodings = tokenizer.encode_batch_fast(
                [document.text for document, _ in chunk], add_special_tokens=False
            )
            for (document, split), encoding in zip(chunk, encodings, strict=True):
                packers[split].add(encoding.ids, end)
                if counter is not None and split == "train":
                    counter.add(document.name, document.text)
                num_documents += 1
                read += len(document.text)
            done = read / total if total else train.share_done()
            say(f"tokenizing '{source.name}' ({train.num_ids / 1e6:.1f}M tokens)", min(done, 1.0))
            yield from train.full(source.samples_per_shard)
            if train.is_full:
                break
        yield from train.rest()

    width = width_of(source.first_id + source.num_ids)
    form = ShardFormat(length + 1, width, hashed=True)
    num_samples = write_dataset(folder, form, shards())
    if not num_samples:
        raise _empty(plan, source)
    held = {}
    for split in HELD_OUT:
        (folder / split).mkdir()
        held[split] = write_dataset(folder / split, form, packers[split].rest())
    if source.spec.holdout is not None and not held["validation"]:  # type: ignore[attr-defined]
        raise UserError(
            plan.curriculum.document.problem(
                ("sources", source.name, "holdout"),
                "no whole sample of text is held out for validation",
                "raise the share, or add text",
            )
        )
    return {
        "kind": "text",
        "name": source.name,
        "curriculum": plan.name,
        "num_samples": num_samples,
        **{f"{split}_samples": held[split] for split in HELD_OUT},
        "num_documents": num_documents,
        "num_tokens": train.num_ids,
        "sequence_length": length,
        "meaning": source.meaning,
        "report": report,
    }


def shuffle_key(meaning: dict[str, Any], split: str) -> int | None:
    """Key of the order of ids in the samples of a split; None without a transform.

    How much is read of a data set on the hub does not change the samples, nor their order.
    """
    if "transform" not in meaning:
        return None
    own = {key: value for key, value in meaning.items() if key not in ("transform", "limit")}
    return derive_key(meaning["transform"], fingerprint(own), split)


def _chunks(pairs: Iterator[tuple[Document, str]]) -> Iterator[list[tuple[Document, str]]]:
    chunk: list[tuple[Document, str]] = []
    size = 0
    for pair in pairs:
        chunk.append(pair)
        size += len(pair[0].text)
        if size >= _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class _Packer:
    """Ids in, samples of `length + 1` ids out; neighbours share one id. At most `limit` samples.

    key: shuffles the ids of each sample once it is cut, if given.
    """

    def __init__(self, length: int, limit: int | None, key: int | None = None) -> None:
        self.length, self.limit, self.key = length, limit, key
        self.num_ids = 0
        self.num_samples = 0
        self._parts: list[NDArray[np.uint32]] = []
        self._held = 0

    @property
    def is_full(self) -> bool:
        ready = self.num_samples + max(0, self._held - 1) // self.length
        return self.limit is not None and ready >= self.limit

    def share_done(self) -> float:
        """Share of the limit that is packed."""
        return self.num_ids / (self.limit * self.length) if self.limit else 0.0

    def add(self, ids: list[int], end: int) -> None:
        """Append a document and its end of text."""
        if not self.is_full:
            part = np.array([*ids, end], np.uint32)
            self._parts.append(part)
            self._held += len(part)
            self.num_ids += len(part)

    def full(self, per_shard: int) -> Iterator[NDArray[np.uint32]]:
        """Whole shards that are ready."""
        while self._held > per_shard * self.length and not self._exhausted():
            yield self._take(per_shard)

    def rest(self) -> Iterator[NDArray[np.uint32]]:
        """What is left, as one last shard; less than a sample is dropped."""
        num = max(0, self._held - 1) // self.length
        if self.limit is not None:
            num = min(num, self.limit - self.num_samples)
        if num > 0:
            yield self._take(num)

    def _exhausted(self) -> bool:
        return self.limit is not None and self.num_samples >= self.limit

    def _take(self, num: int) -> NDArray[np.uint32]:
        if self.limit is not None:
            num = min(num, self.limit - self.num_samples)
        ids = np.concatenate(self._parts)
        starts = np.arange(num)[:, None] * self.length
        samples = ids[starts + np.arange(self.length + 1)[None, :]]
        self._parts = [ids[num * self.length :].copy()]
        self._held = len(self._parts[0])
        if self.key is not None:
            shuffle(samples, self.num_samples, self.key)
        self.num_samples += num
        return samples


def is_compiled(source: PlannedSource) -> bool:
    """Whether the cache holds a text source, whole."""
    return _is_whole(source.fingerprint)


def _is_whole(digest: str) -> bool:
    """Whether an entry is there, with every shard that its index names."""
    info = cache.entry_info(digest)
    if info is None or info.get("kind") != "text":
        return info is not None
    try:
        for split in HELD_OUT:
            count_samples(cache.entry(digest) / split)
        return count_samples(cache.entry(digest)) == info["num_samples"]
    except (OSError, ValueError, LookupError, TypeError):
        return False


@contextmanager
def _building(digest: str) -> Iterator[Path | None]:
    """A fresh folder to build a cache entry in, or None if the entry exists. Locks others out."""
    final = cache.entry(digest)
    if _is_whole(digest):
        yield None
        return
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = (final.parent / f".{digest}.lock").open("w")
    except OSError as error:
        raise fail(
            f"the cache {final.parent} cannot be written ({error.strerror})",
            "set NCAMIX_CACHE to a folder that can",
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_whole(digest):  # another process was faster
            yield None
            return
        folder = final.parent / f".building-{digest}"
        shutil.rmtree(folder, ignore_errors=True)  # what a killed process left; the lock is ours
        shutil.rmtree(final, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _finish(folder: Path, digest: str, info: dict[str, Any]) -> None:
    write_whole(folder / cache.INFO, json.dumps(info, sort_keys=True, default=str).encode())
    os.replace(folder, cache.entry(digest))


@dataclass(frozen=True)
class TextFacts:
    """What evaluation and export need of the tokenizer."""

    file: Path
    end_of_text_id: int
    bytes_per_id: list[int]


def text_facts(file: Path, size: int) -> TextFacts:
    """Read a tokenizer.json for a text range of `size` ids."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    return TextFacts(
        file, tokenization.end_of_text_id(tokenizer), tokenization.bytes_per_id(tokenizer, size)
    )
