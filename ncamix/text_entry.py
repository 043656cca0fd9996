"""The compiled samples of a source in the cache: filled, extended and mended under its lock.

    documents with their splits -> encoded, unless packed before -> a packer a split -> shards

    <entry>/shard.*.mds, shards.jsonl, index.json               the train split
    <entry>/validation/..., <entry>/test/...                    what is held out
    <entry>/source.json                                         last

Every step is a function of the documents and of where the last shard ended, so a killed process is
continued, a limit raised and a damaged shard made again with the same bytes. Documents are read
from the first one on each time, since which of them are copies depends on all before; tokenizing,
which takes the time, is not repeated.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, chain, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ncamix import cache, tokenization
from ncamix.curation import split_documents
from ncamix.documents import Document, Pair
from ncamix.encoding import Encoded, Encoder, pair_encoder, text_encoder
from ncamix.errors import UserError
from ncamix.keys import derive_key, fingerprint
from ncamix.overlap import OverlapCounter
from ncamix.packing import Mark, Packed, Packer, PairPacker, StreamPacker
from ncamix.plan import Plan
from ncamix.planned_source import PlannedSource
from ncamix.quantities import counted
from ncamix.shard_log import ShardLog, damaged
from ncamix.shards import INDEX
from ncamix.sources.base import shuffle
from ncamix.sources.corpus import CorpusSource
from ncamix.sources.pairs import PairsSource
from ncamix.splits import HELD_OUT, SPLITS
from ncamix.waiting import Say, tell

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HubTokenizer

HOLDOUT_SAMPLES = 4096  # held-out samples kept, at most: raise packing.VERSION with it
_SAY_EVERY = 256  # documents

Report = dict[str, Any]


class Item(NamedTuple):
    """A document on its way: its number among those that are kept, and its split."""

    number: int
    split: str
    document: Document


class Job(NamedTuple):
    """A damaged shard: its number in its split, that of its first sample, and where it begins and
    the next one does."""

    split: str
    number: int
    first: int
    start: Mark
    end: Mark
    packer: Packer


def _begun(jobs: Iterable[Job], number: int) -> list[Job]:
    """The first jobs, those that begin at this document or before it."""
    return list(takewhile(lambda job: job.start[0] <= number, jobs))


def split_folder(folder: Path, split: str) -> Path:
    """Where a split of an entry lies."""
    return folder if split == "train" else folder / split


def shuffle_key(meaning: dict[str, Any], split: str) -> int | None:
    """Key of the order of ids in the samples of a split; None without a transform."""
    if "transform" not in meaning:
        return None
    own = {key: value for key, value in meaning.items() if key != "transform"}
    return derive_key(meaning["transform"], fingerprint(own), split)


@dataclass
class TextEntry:
    """An entry being worked on; the caller holds its lock."""

    plan: Plan
    source: PlannedSource
    folder: Path
    tokenizer: HubTokenizer
    say: Say

    def __post_init__(self) -> None:
        form = replace(self.source.shard_format, hashed=True)
        self.logs = {s: ShardLog.open(split_folder(self.folder, s), form) for s in SPLITS}
        self.end = tokenization.end_of_text_id(self.tokenizer)
        self.num_read = self.characters = 0
        self.found: Report = {}

    # -- what is there --------------------------------------------------------------------------

    def check(self, known: Mapping[str, int]) -> None:
        """Find damaged shards and make them again, or all of them where they come out otherwise.

        known: samples of each split that a finished entry says it has.
        """
        if not any(known.values()) and (self.folder / cache.INFO).exists():
            self._tell(f"{cache.INFO} was damaged")
        shards = sum(len(log.shards) for log in self.logs.values())
        checked = 0

        def told(number: int) -> None:
            nonlocal checked
            checked += number
            self.say(f"checking '{self.source.name}'", checked / shards)

        bad = {s: damaged(log.folder, log.entries(), told) for s, log in self.logs.items()}
        lost = any(
            log.damaged or log.num_samples < known.get(split, 0) for split, log in self.logs.items()
        )
        num_bad = sum(map(len, bad.values()))
        if any(known.values()) and not lost:
            for log in self.logs.values():
                if log.indexed() < 0:  # which `finish` mends
                    self._tell(f"{(log.folder / INDEX).relative_to(self.folder)} was damaged")
        if not num_bad and not lost:
            return
        whole = not lost and self._mend(bad)
        for log in self.logs.values() if not whole else ():
            log.clear()
        what = (
            f"{num_bad:,} of {counted(shards, 'shard')} damaged or missing" if num_bad else "torn"
        )
        self._tell(what, "made again" if whole else "compiled anew, all of it")

    def _tell(self, what: str, how: str = "made again") -> None:
        tell(f"'{self.source.name}' in the cache: {what}; {how}")

    def _mend(self, bad: Mapping[str, list[int]]) -> bool:
        """Make damaged shards again, by their numbers; whether they are what they were."""
        waiting = {s: deque(self._jobs(s, numbers)) for s, numbers in bad.items() if numbers}
        starts = {split: [job.start[0] for job in jobs] for split, jobs in waiting.items()}
        ends = {split: [job.end[0] for job in jobs] for split, jobs in waiting.items()}
        total, done = sum(map(len, starts.values())), 0

        def needed(item: Item) -> bool:  # both starts and ends ascend
            at = bisect_right(starts.get(item.split, ()), item.number) - 1
            return at >= 0 and item.number <= ends[item.split][at]

        items = self._items(needed, max(max(numbers) for numbers in ends.values()))
        for item, encoded in self._encoder().stream(items):
            self.say(f"making shards of '{self.source.name}' again", done / total)
            jobs = waiting[item.split]
            for job in _begun(jobs, item.number):
                job.packer.add(item.number, *encoded)
                packed = job.packer.shard()
                if packed is not None:
                    if not self._mended(job, packed):
                        return False
                    jobs.remove(job)
                    done += 1
        for job in chain(*waiting.values()):
            packed = job.packer.rest()
            if packed is None or not self._mended(job, packed):
                return False
        return True

    def _jobs(self, split: str, numbers: list[int]) -> Iterator[Job]:
        log = self.logs[split]
        firsts = [0, *accumulate(shard.num_samples for shard in log.shards)]
        cap = None if split == "train" else HOLDOUT_SAMPLES
        for number in numbers:
            start, shard = log.start_of(number), log.shards[number]
            packer = self._packer(start, firsts[number], shard.num_samples, cap)
            yield Job(split, number, firsts[number], start, shard.after, packer)

    def _mended(self, job: Job, packed: Packed) -> bool:
        packed = self._transformed(job.split, job.first, packed)
        return self.logs[job.split].mend(job.number, packed)

    # -- what is lacking ------------------------------------------------------------------------

    def fill(self, counter: OverlapCounter | None) -> tuple[int, bool]:
        """Go on until the source's limit; (documents read, whether there are no more).

        counter: is shown the training documents, where nothing was compiled before.
        """
        limit, train = self.source.limit, self.logs["train"]
        marks = {split: log.mark for split, log in self.logs.items()}
        packers = {
            split: self._packer(
                log.mark,
                log.num_samples,
                self.source.samples_per_shard,
                limit if split == "train" else HOLDOUT_SAMPLES,
            )
            for split, log in self.logs.items()
        }

        def needed(item: Item) -> bool:
            return item.number >= marks[item.split][0] and not packers[item.split].is_full

        def held() -> tuple[int, ...]:
            return tuple(packers[split].num_samples for split in HELD_OUT)

        def enough() -> bool:
            return limit is not None and train.num_samples >= limit

        # The mark behind the last shard lies in the document that filled it.
        last = train.mark[0] if enough() else None
        for item, encoded in self._encoder().stream(self._items(needed, last)):
            packers[item.split].add(item.number, *encoded)
            if counter is not None and item.split == "train":
                counter.add(item.document.name, item.document.text)
            while (packed := packers[item.split].shard()) is not None:
                self._append(item.split, packed, held())
            if item.number % _SAY_EVERY == 0:
                self._say_progress()
            if enough() and item.number >= train.mark[0]:
                break
        for split, packer in packers.items():
            if split != "train" or not enough():
                self._append(split, packer.rest(), held())
        return (train.mark[0] + 1, False) if enough() else (self.num_read, True)

    def _append(self, split: str, packed: Packed | None, held: tuple[int, ...]) -> None:
        if packed is not None:
            log = self.logs[split]
            packed = self._transformed(split, log.num_samples, packed)
            log.append(packed, held if split == "train" else ())

    def finish(self) -> None:
        """Write the indexes.

        Raises:
            UserError: there is no sample to train on, or none to validate on where some are wanted.
        """
        document, spec = self.plan.curriculum.document, self.source.spec
        if not self.logs["train"].num_samples:
            raise empty(self.plan, self.source)
        assert isinstance(spec, CorpusSource)
        if spec.holdout is not None and not self.logs["validation"].num_samples:
            raise UserError(
                document.problem(
                    ("sources", self.source.name, "holdout"),
                    "no whole sample of text is held out for validation",
                    "raise the share, or add text",
                )
            )
        for log in self.logs.values():
            log.write_index()

    def num_samples(self, split: str) -> int:
        """Finished samples of a split."""
        return self.logs[split].num_samples

    def report(self) -> Report:
        """What was left out of the documents, and found in them; of pairs also, over all splits,
        those truncated or left out, and the share of ids that only fill up."""
        if not isinstance(self.source.spec, PairsSource):
            return self.found
        shards = [shard for log in self.logs.values() for shard in log.shards]
        counts = {
            name: sum(shard.counts[name] for shard in shards)
            for name in ("fill", "truncated", "without_response")
        }
        fill = counts.pop("fill")
        num_ids = sum(s.num_samples for s in shards) * (self.source.sequence_length + 1)
        return {**self.found, **counts, "padding": fill / num_ids}

    # -- the parts ------------------------------------------------------------------------------

    def _items(self, needed: Callable[[Item], bool], last: int | None = None) -> Iterator[Item]:
        """The documents that are needed, up to the number `last`."""
        self.num_read = self.characters = 0
        self.found = {}
        for number, (document, split) in enumerate(split_documents(self.source, self.found)):
            if last is not None and number > last:
                return
            self.num_read += 1
            self.characters += len(document.text)
            item = Item(number, split, document)
            if needed(item):
                yield item
            elif number % _SAY_EVERY == 0:
                self._say_progress()

    def _say_progress(self) -> None:
        text, train = self.source.text, self.logs["train"]
        num_tokens = train.num_samples * self.source.sequence_length
        if self.source.limit is not None:
            done = train.num_samples / self.source.limit
        else:
            done = self.characters / text.num_bytes if text and text.num_bytes else 0.0
        what = f"tokenizing '{self.source.name}' ({num_tokens / 1e6:.1f}M tokens)"
        self.say(what, min(done, 1.0))

    def _packer(self, mark: Mark, num_samples: int, per_shard: int, limit: int | None) -> Packer:
        length, spec = self.source.sequence_length, self.source.spec
        if isinstance(spec, PairsSource):
            isolated = spec.pack == "isolated"
            return PairPacker(length, per_shard, self.end, isolated, mark, num_samples, limit)
        return StreamPacker(length, per_shard, mark, num_samples, limit)

    def _encoder(self) -> Encoder[Item]:
        spec = self.source.spec
        if not isinstance(spec, PairsSource):
            return text_encoder(self.tokenizer, lambda item: item.document.text)

        def pair(item: Item) -> tuple[str, str]:
            assert isinstance(item.document, Pair)
            return item.document.prompt, item.document.response

        encoder: Encoder[Item] = pair_encoder(self.tokenizer, spec.template, pair)
        if spec.too_long == "refuse":
            encoder.check = self._refuse_long
        return encoder

    def _refuse_long(self, item: Item, encoded: Encoded) -> None:
        room = self.source.sequence_length + 1
        if len(encoded.ids) > room:
            raise UserError(
                self.plan.curriculum.document.problem(
                    ("sources", self.source.name, "too_long"),
                    f"the pair {item.document.name} is {len(encoded.ids):,} ids long, a sample "
                    f"holds {room:,}",
                    "write too_long: truncate, raise the sequence length, or leave it out",
                )
            )

    def _transformed(self, split: str, first: int, packed: Packed) -> Packed:
        key = shuffle_key(self.source.meaning, split)
        if key is not None:
            shuffle(packed.tokens, first, key)
        return packed


def empty(plan: Plan, source: PlannedSource) -> UserError:
    """What is wrong with a source that has nothing to train on."""
    return UserError(
        plan.curriculum.document.problem(
            ("sources", source.name),
            "the corpus is empty: no document with any text is left to train on",
            "check its files, and that `holdout` does not take everything",
        )
    )
