"""Corpora, as the command line names them, and their documents in an order to sample from.

    PATH, FOLDER, 'GLOB', python-stdlib   files
    CURRICULUM:SOURCE                     texts or pairs of a curriculum, on the hub too

Files are read in an order drawn from their names alone, so that the first of them are a sample of
all: a corpus larger than what is to be read is measured on those.

A broken file of a folder or a glob is left out as a whole, and told; one that is named itself, or
by a curriculum, is an error, as it is for a run.
"""

from __future__ import annotations

import glob
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ncamix.documents import read_corpus
from ncamix.errors import Problem, UserError, fail, nearest
from ncamix.library import find
from ncamix.loading import load_curriculum
from ncamix.omissions import Omissions
from ncamix.sources import PairsSource, TextSource
from ncamix.sources.corpus import STDLIB, CorpusFile, corpus_files


@dataclass(frozen=True)
class Corpus:
    """Documents to measure: files in the order in which they are read, or rows of the hub.

    spec: how they are read, of a curriculum's source. num_bytes: what the files take on disk; None
    on the hub. lenient: broken files are left out.
    """

    name: str
    files: tuple[CorpusFile, ...] | None
    spec: TextSource | PairsSource | None = None
    num_bytes: int | None = None
    lenient: bool = False
    _faults: dict[Path, str] = field(default_factory=dict)  # of files looked through, or ""

    def texts(
        self, report: dict[str, Any] | None = None, limit: int = sys.maxsize
    ) -> Iterator[tuple[str, int]]:
        """Every document that holds more than white space, and the bytes of the files begun by
        then.

        report: told what is left out; of `unreadable` files the fault of the first, too: `why`.
        limit: characters that are asked for; how whole a file is beyond them does not matter.

        Raises:
            UserError: a file or the hub cannot be read.
        """
        if self.files is None:
            yield from ((d.text, 0) for d in read_corpus(None, self.spec, report))
            return
        begun = given = 0
        for file in self.files:
            begun += file.path.stat().st_size
            if self.lenient and (fault := self._fault_of(file, limit - given)):
                omissions = Omissions(report)
                omissions.add("unreadable", file.name)
                omissions.report["unreadable"].setdefault("why", fault)
                continue
            for document in read_corpus([file], self.spec, report):
                yield document.text, begun
                given += len(document.text)

    def _fault_of(self, file: CorpusFile, limit: int) -> str:
        """Why a file cannot be read up to `limit` characters; empty if it can."""
        if file.path not in self._faults:
            self._faults[file.path] = ""
            try:
                for document in read_corpus([file], self.spec):
                    limit -= len(document.text)
                    if limit < 0:
                        break
            except UserError as error:
                self._faults[file.path] = error.problems[0].what
        return self._faults[file.path]


def find_corpora(arguments: Sequence[str]) -> list[Corpus]:
    """The corpora that arguments name.

    Raises:
        UserError: with every argument that names none.
    """
    found: list[Corpus] = []
    problems: list[Problem] = []
    for argument in dict.fromkeys(arguments):
        try:
            found.append(_find(argument))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return found


def _find(argument: str) -> Corpus:
    path, here = Path(argument).expanduser(), Path.cwd()
    if argument == STDLIB:
        return _of_files(argument, corpus_files((STDLIB,), here))
    if argument and path.is_dir():
        pattern = os.path.join(glob.escape(str(path)), "**", "*")
        try:
            return _of_files(argument, corpus_files((pattern,), here), lenient=True)
        except UserError:
            raise fail(f"the folder {argument} holds no file", "name another") from None
    if path.is_file():
        return _of_files(argument, corpus_files((glob.escape(str(path)),), here))
    if glob.has_magic(argument):
        return _of_files(argument, corpus_files((argument,), here), lenient=True)
    file, _, source = argument.rpartition(":")
    if file:
        return _of_curriculum(argument, file, source)
    raise fail(
        f"no such path: '{argument}'",
        f"name a file, a folder, a quoted glob, {STDLIB}, or a text source of a curriculum as "
        "CURRICULUM:SOURCE",
    )


def _of_curriculum(argument: str, file: str, name: str) -> Corpus:
    loaded = load_curriculum(find("curricula", file))
    sources = loaded.curriculum.sources
    texts = [key for key, s in sources.items() if isinstance(s, TextSource | PairsSource)]
    spec = sources.get(name)
    if spec is None:
        what = f"the curriculum '{loaded.curriculum.name}' has no source '{name}'"
        raise fail(what, nearest(name, texts, "text sources"))
    if not isinstance(spec, TextSource | PairsSource):
        what = f"'{name}' is of kind {spec.kind}, and only text and pairs are measured"
        raise fail(what, f"text sources: {', '.join(texts) or 'none'}; `ncamix show` draws others")
    if spec.files is None:
        return Corpus(argument, None, spec)
    folder = loaded.document.folder_of(("sources", name, "files"))
    return _of_files(argument, corpus_files(spec.files, folder), spec)


def _of_files(
    name: str,
    files: list[CorpusFile],
    spec: TextSource | PairsSource | None = None,
    lenient: bool = False,
) -> Corpus:
    def place(file: CorpusFile) -> tuple[bytes, str]:
        return hashlib.blake2b(file.name.encode(), digest_size=16).digest(), str(file.path)

    size = sum(file.path.stat().st_size for file in files)
    return Corpus(name, tuple(sorted(files, key=place)), spec, size, lenient)
