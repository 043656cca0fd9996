"""What a text is compared with: texts that are declared before it, and benchmarks.

    sources, as declared -> for a text that drops copies, the files of the texts before it
    evaluate: benchmarks -> files of evaluation sets, found and hashed

The answers enter meanings, so they follow from what is declared, not from what a stage uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ncamix.errors import Problem, UserError
from ncamix.keys import canonical
from ncamix.loading import LoadedCurriculum
from ncamix.planned_source import Benchmark, EarlierText
from ncamix.sources import SourceSpec, TextSource
from ncamix.sources.corpus import CorpusFile, corpus_files, corpus_hash

CURATED = ("holdout", "duplicates")  # keys of a text's meaning that do not change how it is read

Read = Callable[[str], tuple[tuple[CorpusFile, ...] | None, dict[str, Any]] | None]


def earlier_texts(
    name: str, sources: Mapping[str, SourceSpec], read: Read
) -> list[tuple[EarlierText, dict[str, Any]]]:
    """The texts whose documents a text drops copies of, and what determines those as read.

    They are the texts made of files that are declared before it, whether a stage uses them or not;
    none for a source that keeps copies. One that reads the very same documents is the same text in
    another guise, such as a control, and does not count. Their order is that of their meanings:
    names and places in the file do not matter.

    read: of a source's name, its files (None: on the hub) and the meaning of its documents; None
    where there is a problem.
    """
    spec, own = sources[name], read(name)
    if own is None or not isinstance(spec, TextSource) or spec.duplicates == "keep":
        return []
    found: dict[str, tuple[EarlierText, dict[str, Any]]] = {}
    for earlier, other in sources.items():
        if earlier == name:
            break
        if not isinstance(other, TextSource) or other.files is None:
            continue
        known = read(earlier)
        if known is not None and known[0] is not None:
            meaning = _as_read(known[1])
            found.setdefault(canonical(meaning), (EarlierText(earlier, other, known[0]), meaning))
    found.pop(canonical(_as_read(own[1])), None)
    return [found[key] for key in sorted(found)]


def _as_read(meaning: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a text's meaning that determines its documents before any curation."""
    return {key: value for key, value in meaning.items() if key not in CURATED}


def find_benchmarks(loaded: LoadedCurriculum) -> tuple[tuple[Benchmark, ...], list[Problem]]:
    """The evaluation sets that `evaluate: benchmarks` names, an entry each, and what is wrong."""
    found, problems, path = [], [], ("evaluate", "benchmarks")
    for i, entry in enumerate(loaded.curriculum.evaluate.benchmarks or ()):
        try:
            files = corpus_files((entry,), loaded.document.folder_of(path))
            found.append(Benchmark(entry, tuple(files), corpus_hash(files)))
        except UserError as error:
            problem = error.problems[0]
            problems.append(loaded.document.problem((*path, i), problem.what, problem.remedy))
    return tuple(found), problems
