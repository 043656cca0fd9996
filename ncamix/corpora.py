"""Corpora: the files of texts and pairs, found and hashed, and what a text is compared with.

    files, hub           -> what determines a source's documents
    sources, as declared -> for a text that drops copies, the files of the texts before it
    evaluate: benchmarks -> files of evaluation sets

The answers enter meanings, so they follow from what is declared, not from what a stage uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ncamix.errors import Problem, UserError, fail
from ncamix.formats import format_of
from ncamix.keys import canonical
from ncamix.loading import LoadedCurriculum
from ncamix.planned_source import Benchmark, EarlierText
from ncamix.quantities import counted
from ncamix.sizes import corpus_size
from ncamix.sources import PairsSource, SourceSpec, TextSource
from ncamix.sources.corpus import CorpusFile, CorpusSource, corpus_files, corpus_hash, hashed
from ncamix.waiting import Say

CURATED = ("holdout", "duplicates")  # keys of a text's meaning that do not change how it is read

# Files (None: on the hub), and the meaning of the documents.
Documents = tuple[tuple[CorpusFile, ...] | None, dict[str, Any]]


class Corpora:
    """The corpora of one curriculum, each read once; `problems` grows on the way.

    num_bytes: of text in the files of sources that were read: about, and at most, where that is
    known.
    """

    def __init__(self, loaded: LoadedCurriculum, problems: list[Problem], say: Say) -> None:
        self.num_bytes: dict[str, tuple[int, int | None]] = {}
        self._loaded, self._problems, self._say = loaded, problems, say
        self._specs = loaded.curriculum.sources
        self._found: dict[str, Documents | None] = {}

    def documents(self, name: str) -> Documents | None:
        """A source's files, and what determines its documents; None where there is a problem.

        The copies that a text drops depend on the texts before it, too.
        """
        found = self._read(name)
        if found is None:
            return None
        before = [meaning for _, meaning in earlier_texts(name, self._specs, self._read)]
        return (found[0], {**found[1], "before": before} if before else found[1])

    def earlier(self, name: str) -> tuple[EarlierText, ...]:
        """The texts whose documents a source drops copies of."""
        return tuple(text for text, _ in earlier_texts(name, self._specs, self._read))

    def _read(self, name: str) -> Documents | None:
        """As `documents`, of the source alone."""
        if name not in self._found:
            spec = self._specs[name]
            assert isinstance(spec, CorpusSource)
            if spec.hub is not None:
                meaning = {**spec.document_meaning(), "documents": spec.data_set()}
                self._found[name] = (None, meaning)
            else:
                try:
                    self._found[name] = self._in_files(name, spec)
                except UserError as error:
                    problem = error.problems[0]
                    self._bad(name, ("files",), problem.what, problem.remedy)
                    self._found[name] = None
        return self._found[name]

    def _in_files(self, name: str, spec: CorpusSource) -> Documents:
        """The documents of a source made of files. Raises UserError if they cannot be read."""
        assert spec.files is not None
        files = corpus_files(
            spec.files, self._loaded.document.folder_of(("sources", name, "files"))
        )
        for path, what, remedy in spec.misfits(files):
            self._bad(name, path, what, remedy)
        self._check_columns(name, spec, files)
        self.num_bytes[name] = corpus_size(files, spec.columns())
        if not self.num_bytes[name][0]:
            raise fail(f"the text is empty ({counted(len(files), 'file')})", "name other files")
        known = hashed(files, self._say)
        meaning = {**spec.document_meaning(), "documents": corpus_hash(known)}
        if spec.by_repository:
            meaning["repositories"] = [file.repository for file in known]
        return known, meaning

    def _check_columns(self, name: str, spec: CorpusSource, files: Sequence[CorpusFile]) -> None:
        """Look for the columns that are named in the first row; others are read as they come."""
        first = next((file for file in files if format_of(file.name).has_rows), None)
        if first is None:
            return
        from ncamix.documents import first_columns  # late: a plan of files of text needs it not

        assert isinstance(spec, TextSource | PairsSource)
        found = first_columns(first, spec)
        if found is None:
            return
        where, columns = found
        for path, column in spec.named_columns():
            if column not in columns:
                remedy = f"its columns: {', '.join(columns)}"
                self._bad(name, path, f"{where} has no column '{column}'", remedy)

    def _bad(self, name: str, path: tuple[str, ...], what: str, remedy: str) -> None:
        document = self._loaded.document
        self._problems.append(document.problem(("sources", name, *path), what, remedy))


def earlier_texts(
    name: str, sources: Mapping[str, SourceSpec], read: Callable[[str], Documents | None]
) -> list[tuple[EarlierText, dict[str, Any]]]:
    """The texts whose documents a text drops copies of, and what determines those as read.

    They are the texts made of files that are declared before it, whether a stage uses them or not;
    none for a source that keeps copies. One that reads the very same documents is the same text in
    another guise, such as a control, and does not count. Their order is that of their meanings:
    names and places in the file do not matter.

    read: the documents of a source, by its name; None where there is a problem.
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
            files = hashed(corpus_files((entry,), loaded.document.folder_of(path)))
            found.append(Benchmark(entry, files, corpus_hash(files)))
        except UserError as error:
            problem = error.problems[0]
            problems.append(loaded.document.problem((*path, i), problem.what, problem.remedy))
    return tuple(found), problems
