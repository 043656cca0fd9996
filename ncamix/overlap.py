"""Overlap: what the training documents of a source share with evaluation sets, in runs of 13 words.

    held-out documents of texts made of files, and benchmarks -> their runs, indexed
    training documents of a source, in order -> runs looked up -> what each set shares
    -> a file in the source's entry of the cache

What words are, `words` says. Hub texts are compared with these sets, too, but what they hold out is
no set itself: to find it, all of the data set would have to be read. A report is kept in its
source's entry under a fingerprint of all evaluation sets, so none outlives either. Indexing
takes about 60 bytes for every word that is held out; training documents take nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncamix import cache
from ncamix.containers import opened, readable
from ncamix.curation import split_documents
from ncamix.documents import Document, as_hashed, read_documents
from ncamix.errors import UserError, fail
from ncamix.files import write_whole
from ncamix.formats import Format, format_of
from ncamix.gram_index import MAX_SETS, GramIndex
from ncamix.keys import fingerprint
from ncamix.plan import Plan
from ncamix.planned_source import Benchmark, PlannedSource
from ncamix.quantities import counted
from ncamix.sources import TextSource
from ncamix.sources.corpus import CorpusFile
from ncamix.splits import HELD_OUT
from ncamix.waiting import Say, quiet
from ncamix.words import grams

SIZE = 13  # words of a run
VERSION = 1  # raise it when a report changes
MOST = 0.5  # of a document's runs: then most of it was seen
BENCHMARKS = "benchmarks/"  # before the glob of one, as the name of its set
NUM_WORST = 5  # examples in a report

Report = dict[str, dict[str, Any]]


class Evaluation:
    """The evaluation sets of a plan; indexed when they are first needed, and once.

    names: of the sets: SOURCE/validation, SOURCE/test and benchmarks/GLOB. fingerprint: of what
    determines their documents.
    """

    def __init__(self, plan: Plan, say: Say = quiet) -> None:
        self.benchmarks, self.say = plan.benchmarks, say
        held: dict[str, PlannedSource] = {}
        for source in plan.sources.values():
            if isinstance(source.spec, TextSource) and source.spec.holdout is not None:
                assert source.text is not None
                if source.text.files is not None:
                    held.setdefault(source.name, source)
        self.texts = list(held.values())
        self.names = [f"{name}/{split}" for name in held for split in HELD_OUT]
        self.names += [f"{BENCHMARKS}{benchmark.name}" for benchmark in self.benchmarks]
        if len(self.names) > MAX_SETS:
            raise fail(
                f"{len(self.names)} evaluation sets are more than overlap can be counted for, "
                f"which are {MAX_SETS}",
                "name several benchmarks by one glob, or write `overlap: ignore` in the texts",
            )
        documents = [[source.name, source.text and source.text.documents] for source in self.texts]
        benchmarks = [[benchmark.name, benchmark.digest] for benchmark in self.benchmarks]
        self.fingerprint = fingerprint({"texts": documents, "benchmarks": benchmarks})

    @cached_property
    def indexed(self) -> _Indexed:
        """All runs of all sets."""
        sets: list[int] = []
        names: list[str] = []
        runs: list[NDArray[np.uint64]] = []
        for number, name, text in self._documents():
            sets.append(number)
            names.append(name)
            runs.append(grams(text, SIZE))
        ends = np.cumsum([0, *map(len, runs)])
        keys, places = np.unique(
            np.concatenate([np.empty(0, np.uint64), *runs]), return_inverse=True
        )
        del runs
        places = places.astype(np.uint32)
        bits = np.zeros(len(keys), np.uint64)
        for i, number in enumerate(sets):
            bits[places[ends[i] : ends[i + 1]]] |= np.uint64(1 << number)
        return _Indexed(GramIndex(SIZE, keys, bits), np.array(sets, np.int64), names, ends, places)

    def _documents(self) -> Iterator[tuple[int, str, str]]:
        """Number of its set, name and text of every evaluation document."""
        for i, source in enumerate(self.texts):
            self.say(f"reading what '{source.name}' holds out", i / len(self.texts))
            for document, split in split_documents(source):
                if split in HELD_OUT:
                    yield 2 * i + HELD_OUT.index(split), document.name, document.text
        for i, benchmark in enumerate(self.benchmarks, 2 * len(self.texts)):
            for name, text in benchmark_documents(benchmark):
                yield i, name, text


@dataclass(frozen=True)
class _Indexed:
    """Evaluation documents: their sets and names, and their runs by number in the index.

    sets: int64 [documents]. ends: int64 [documents + 1], from 0, into places: uint32 [runs].
    """

    index: GramIndex
    sets: NDArray[np.int64]
    names: list[str]
    ends: NDArray[np.int64]
    places: NDArray[np.uint32]


def benchmark_documents(benchmark: Benchmark) -> Iterator[tuple[str, str]]:
    """Names and texts of a benchmark's documents: a file each, or a line each of JSON lines.

    The text of a line is all its strings, however deep, but for the keys of mappings.

    Raises:
        UserError: a file cannot be read or has changed, or a line is not JSON.
    """
    for file in benchmark.files:
        form = format_of(file.name)
        if form.holds == "jsonl":
            documents = as_hashed(file, _lines(file, form))
        else:
            documents = read_documents([file], None)
        yield from ((document.name, document.text) for document in documents)


def _lines(file: CorpusFile, form: Format) -> Iterator[Document]:
    with readable(file.path), opened(file.path, form.compression) as lines:
        for i, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                text = "\n".join(_strings(json.loads(line.decode(errors="replace"))))
            except (ValueError, RecursionError):
                raise fail(
                    f"line {i} of {file.path} is not JSON",
                    "write one value a line, or name the file .txt",
                ) from None
            name = f"{file.name}:{i}"
            yield Document(name, name, text.encode(errors="replace").decode())


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


class OverlapCounter:
    """Is shown the training documents of a source, one after the other, by one thread."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self._found = np.zeros(len(evaluation.indexed.index.keys), np.int32)
        self._first: list[str] = []  # the documents that were the first to meet a run
        self._met = [0] * len(evaluation.names)  # training documents that met a set

    def add(self, name: str, text: str) -> None:
        """Look up a training document."""
        index = self.evaluation.indexed.index
        met, fresh = index.meet(text, len(self._first) + 1, self._found)
        if fresh:
            self._first.append(name)
        while met:
            self._met[(met & -met).bit_length() - 1] += 1
            met &= met - 1

    def keep(self, folder: Path, num_documents: int) -> None:
        """Write the report into an entry that is being made.

        num_documents: those of the source that were read for it, of all splits.
        """
        file = folder / _file_name(self.evaluation, num_documents)
        write_whole(file, json.dumps(self.report()).encode())

    def report(self) -> Report:
        """What each evaluation set shares with the documents so far.

        documents: those of 13 words or more; short: the others. documents_met: those that share a
        run; mostly_met: those that share half of their runs or more. grams, grams_met: runs of all
        documents, and those that are shared; share: of them. training_documents: those that share
        a run with the set. worst: the documents of which most is shared, with the training document
        that held most of it.
        """
        own = self.evaluation.indexed
        first = self._found[own.places]  # of each run of each document
        met = np.concatenate([[0], np.cumsum(first > 0)])
        num_grams, num_met = np.diff(own.ends), np.diff(met[own.ends])
        shares = num_met / np.maximum(1, num_grams)
        found: Report = {}
        for number, name in enumerate(self.evaluation.names):
            mine = np.flatnonzero((own.sets == number) & (num_grams > 0))
            total, shared = int(num_grams[mine].sum()), int(num_met[mine].sum())
            worst = mine[np.argsort(-shares[mine], kind="stable")][:NUM_WORST]
            found[name] = {
                "documents": len(mine),
                "short": int((own.sets == number).sum()) - len(mine),
                "documents_met": int((num_met[mine] > 0).sum()),
                "mostly_met": int((shares[mine] >= MOST).sum()),
                "grams": total,
                "grams_met": shared,
                "share": shared / max(1, total),
                "training_documents": self._met[number],
                "worst": [
                    {
                        "document": own.names[i],
                        "share": float(shares[i]),
                        "training_document": self._first[_commonest(first, own.ends, i)],
                    }
                    for i in worst
                    if num_met[i]
                ],
            }
        return found


def _commonest(first: NDArray[np.int32], ends: NDArray[np.int64], document: int) -> int:
    """Which training document, from 0, was the first to meet most runs of a document."""
    own = first[ends[document] : ends[document + 1]]
    return int(np.bincount(own)[1:].argmax())


def overlap_counter(source: PlannedSource, evaluation: Evaluation) -> OverlapCounter | None:
    """What to show a source's training documents to; None where nobody asks for a report."""
    return OverlapCounter(evaluation) if _is_asked_for(source, evaluation) else None


def check_overlap(
    plan: Plan,
    source: PlannedSource,
    evaluation: Evaluation,
    num_documents: int | None,
    say: Say = quiet,
) -> Report:
    """What a text source shares with each evaluation set; nothing where it says `ignore`.

    num_documents: those of all splits that were read of it when it was compiled, in order; None is
    all there are, before that. They are read where its entry has no report for them and these sets.

    Raises:
        UserError: the source says `refuse`, and shares a run with a set.
    """
    if not _is_asked_for(source, evaluation):
        return {}
    file = cache.entry(source.fingerprint) / _file_name(evaluation, num_documents)
    try:
        report: Report = json.loads(file.read_text())
    except (OSError, ValueError):
        counter = OverlapCounter(evaluation)
        for i, (document, split) in enumerate(islice(split_documents(source), num_documents)):
            share = i / num_documents if num_documents else 0.0
            say(f"comparing '{source.name}' with evaluation sets", share)
            if split == "train":
                counter.add(document.name, document.text)
        report = counter.report()
        with suppress(OSError):  # no such entry yet or any more, or a cache that is only read
            write_whole(file, json.dumps(report).encode())
    if source.spec.overlap == "refuse":  # type: ignore[attr-defined]
        _refuse(plan, source, report)
    return report


def overlap_remarks(source: str, report: Report) -> Iterator[str]:
    """Sentences on evaluation sets most of whose documents' runs a source has: on each that holds
    such documents."""
    for name, found in report.items():
        if found["mostly_met"]:
            worst = found["worst"][0]
            yield (
                f"training on '{source}' shows at least half of {found['mostly_met']:,} of the "
                f"{counted(found['documents'], 'document')} of {name}: of {worst['document']}, "
                f"{worst['share']:.0%} of all runs of {SIZE} words, most in "
                f"{worst['training_document']}; take such documents out of its "
                f"files{_or_near(name)}"
            )


def _or_near(*sets: str) -> str:
    """What else helps against overlap with these evaluation sets: `duplicates` compares sources,
    and no benchmarks."""
    if any(name.startswith(BENCHMARKS) for name in sets):
        return ""
    return ", or drop copies with `duplicates: near` or hold out by package"


def _is_asked_for(source: PlannedSource, evaluation: Evaluation) -> bool:
    spec = source.spec
    return isinstance(spec, TextSource) and spec.overlap != "ignore" and bool(evaluation.names)


def _file_name(evaluation: Evaluation, num_documents: int | None) -> str:
    """Of the report over so many documents of a source, in the source's entry."""
    meaning = [VERSION, num_documents, evaluation.fingerprint]
    return f"overlap.{fingerprint({'overlap': meaning})}.json"


def _refuse(plan: Plan, source: PlannedSource, report: Report) -> None:
    met = {name: found for name, found in report.items() if found["documents_met"]}
    if not met:
        return
    parts = []
    for name, found in met.items():
        worst = ", ".join(
            f"{each['document']} ({each['share']:.0%}, in {each['training_document']})"
            for each in found["worst"][:3]
        )
        many = f"{found['documents_met']:,} of {counted(found['documents'], 'document')}"
        parts.append(f"{name}: {many}, worst {worst}")
    raise UserError(
        plan.curriculum.document.problem(
            ("sources", source.name, "overlap"),
            f"training documents share runs of {SIZE} words with evaluation sets\n"
            + "\n".join(f"    {part}" for part in parts),
            f"take these documents out of its files{_or_near(*met)}, or write `overlap: report`",
        )
    )
