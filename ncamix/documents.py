"""Documents of text sources and pairs, in one fixed order.

    files, by name:  a text is one document, an archive one a member, by name, rows one each
    rows of the hub, as stored                                                -> documents

What is no text is left out and counted. A document knows the package and the repository that it
belongs to, by which it may be held out. No document of a file that was hashed is handed on before
it is sure that the file is still the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any, TypeVar

from ncamix.containers import opened, read_members, readable
from ncamix.errors import fail
from ncamix.formats import LARGEST_DOCUMENT, Format, format_of, legible
from ncamix.hashing import Watched
from ncamix.omissions import Omissions, decoded
from ncamix.rows import Row, hub_rows, json_rows, no_column, parquet_columns, parquet_rows
from ncamix.sources.corpus import REPOSITORIES, CorpusFile, CorpusSource, no_repository
from ncamix.sources.pairs import PairsSource
from ncamix.sources.text import TextSource

_ANY = TextSource.model_validate({"kind": "text", "files": "*"})
_BINARY_HEAD = 1 << 13  # bytes in which a NUL means binary, as git has it
BATCH_CHARACTERS = 1 << 20  # documents are compared in batches of about so many
BATCH_DOCUMENTS = 1 << 8  # and of so many at most


@dataclass(frozen=True)
class Document:
    """One text, and what it belongs to.

    name: its path below the corpus root, its place in an archive there (`a.zip/b.py`), its line
    (`a.jsonl:17`) or its row on the hub (`17`). package: the first folder below the corpus root, or
    the archive; of a row its repository, or else the first folder, or else the row. repository: the
    nearest folder with `.git`, or the archive; of a row what a column says.
    """

    name: str
    package: str
    text: str
    repository: str | None = None


@dataclass(frozen=True)
class Pair(Document):
    """A prompt and its response; `text` is both, whatever the source's template."""

    prompt: str = ""
    response: str = ""


AnyDocument = TypeVar("AnyDocument", bound=Document)


def package_of(name: str) -> str:
    """The package of a file by its name below its root: the first folder, or the file itself."""
    return name.split("/")[0]


def read_corpus(
    files: Sequence[CorpusFile] | None,
    spec: TextSource | PairsSource | None = None,
    report: dict[str, Any] | None = None,
) -> Iterator[Document]:
    """The documents of a text source, or the pairs of a pairs source, as of the two below."""
    if isinstance(spec, PairsSource):
        return read_pairs(files, spec, report)
    return read_documents(files, spec, report)


def first_columns(
    file: CorpusFile, spec: TextSource | PairsSource
) -> tuple[str, Collection[str]] | None:
    """(where, columns) of the first row of a file of rows; None if it has none.

    Raises:
        UserError: the file cannot be read, or the row is broken.
    """
    form = format_of(file.name)
    if form.holds == "parquet":
        return str(file.path), parquet_columns(file)
    row = next(json_rows(file, form, spec.not_utf8, Omissions()), None)
    return (row.where, row.values) if row is not None else None


def read_documents(
    files: Sequence[CorpusFile] | None,
    spec: TextSource | None = None,
    report: dict[str, Any] | None = None,
) -> Iterator[Document]:
    """All documents of a source in their fixed order; empty ones are left out.

    files: of the corpus, None for the hub. spec: how they are read; None is as a text source
    without further keys. report: told what is left out, see `Omissions`.

    Raises:
        UserError: a file cannot be read or has changed since it was hashed, a row is broken or
            lacks its column, the hub cannot be reached or has no such data set, or a document has
            no repository to be held out by.
    """
    spec, omissions = spec or _ANY, Omissions(report)
    for file in files or ():
        yield from as_hashed(file, _file_documents(spec, file, omissions))
    if files is None:
        yield from _texts(spec, hub_rows(spec.data_set()), None, omissions)


def read_pairs(
    files: Sequence[CorpusFile] | None,
    spec: PairsSource,
    report: dict[str, Any] | None = None,
) -> Iterator[Pair]:
    """All pairs of a source in their fixed order; those without a response are left out.

    The rest is as for `read_documents`; every file has rows.
    """
    omissions = Omissions(report)
    for file in files or ():
        rows = _file_rows(spec, file, format_of(file.name), omissions)
        yield from as_hashed(file, _pairs(spec, rows, file, omissions))
    if files is None:
        yield from _pairs(spec, hub_rows(spec.data_set()), None, omissions)


def as_hashed(file: CorpusFile, documents: Iterator[AnyDocument]) -> Iterator[AnyDocument]:
    """The documents of a file, read as they are asked for: those that it held when it was hashed.

    Raises:
        UserError: the file has changed since, or is gone.
    """
    if file.known is None:
        yield from documents
        return
    watched = Watched(file.path, file.known)
    try:
        for batch in batches(documents):
            watched.check()
            yield from batch
    except Exception:  # what a changed file holds may be anything
        watched.finish()
        raise
    watched.finish()


def batches(documents: Iterator[AnyDocument]) -> Iterator[list[AnyDocument]]:
    """Documents in batches that are bounded in characters, but for one document, and number."""
    for first in documents:
        batch, size = [first], len(first.text)
        while size < BATCH_CHARACTERS and len(batch) < BATCH_DOCUMENTS:
            document = next(documents, None)
            if document is None:
                break
            batch.append(document)
            size += len(document.text)
        yield batch


def _file_documents(spec: TextSource, file: CorpusFile, omissions: Omissions) -> Iterator[Document]:
    form = format_of(file.name)
    if form.has_rows:
        yield from _texts(spec, _file_rows(spec, file, form, omissions), file, omissions)
        return
    for document in _whole_documents(spec, file, form, omissions):
        if not document.text.strip():
            omissions.add("empty", document.name)
        elif spec.by_repository and document.repository is None:
            raise no_repository(str(file.path))
        else:
            yield document


def _whole_documents(
    spec: TextSource, file: CorpusFile, form: Format, omissions: Omissions
) -> Iterator[Document]:
    """The documents of a file without rows."""

    def read(stream: IO[bytes], name: str) -> bytes | None:
        return _read(stream, name, omissions)

    if form.holds == "text":
        with readable(file.path), opened(file.path, form.compression) as stream:
            data = read(stream, file.name)
        if data is not None:
            text = decoded(data, spec.not_utf8, file.name, str(file.path), omissions)
            if text is not None:
                yield Document(file.name, package_of(file.name), text, file.repository)
        return
    for name, data in read_members(file.path, form, file.name, omissions, read):
        where = f"{name.removeprefix(file.name + '/')} in {file.path}"
        text = decoded(data, spec.not_utf8, name, where, omissions)
        if text is not None:
            yield Document(name, file.name, text, file.name)


def _read(stream: IO[bytes], name: str, omissions: Omissions) -> bytes | None:
    """All of a stream, or None if it is binary or too large."""
    head = stream.read(_BINARY_HEAD)
    if b"\0" in head:
        omissions.add("binary", name)
        return None
    rest = stream.read(LARGEST_DOCUMENT - len(head) + 1)
    if len(head) + len(rest) > LARGEST_DOCUMENT:
        omissions.add("too_large", name)
        return None
    return head + rest


def _file_rows(
    spec: CorpusSource, file: CorpusFile, form: Format, omissions: Omissions
) -> Iterator[Row]:
    if form.holds == "jsonl":
        return json_rows(file, form, spec.not_utf8, omissions)
    named = spec.holdout.column if spec.holdout else None
    if named is not None:
        return parquet_rows(file, (*spec.columns(), named), ())
    return parquet_rows(file, spec.columns(), REPOSITORIES)


def _texts(
    spec: TextSource, rows: Iterator[Row], file: CorpusFile | None, omissions: Omissions
) -> Iterator[Document]:
    for row in rows:
        text = _value(row, spec.column, spec.not_utf8, omissions)
        if text is not None and not text.strip():
            omissions.add("empty", row.name)
        elif text is not None:
            package, repository = _groups(spec, row, file)
            yield Document(row.name, package, text, repository)


def _pairs(
    spec: PairsSource, rows: Iterator[Row], file: CorpusFile | None, omissions: Omissions
) -> Iterator[Pair]:
    for row in rows:
        prompt = _value(row, spec.prompt, spec.not_utf8, omissions)
        response = None
        if prompt is not None:
            response = _value(row, spec.response, spec.not_utf8, omissions)
        if prompt is None or response is None:
            continue
        if not response.strip():
            omissions.add("empty", row.name)
            continue
        package, repository = _groups(spec, row, file)
        both = f"{prompt}\n{response}"
        yield Pair(row.name, package, both, repository, prompt, response)


def _value(row: Row, column: str, policy: str, omissions: Omissions) -> str | None:
    """The text in a column, empty where it is null; None if it is left out.

    Raises:
        UserError: there is no such column, or it holds no text.
    """
    if column not in row.values:
        raise no_column(row.where, column, row.values)
    value = row.values[column]
    if value is None:
        return ""
    if not isinstance(value, str | bytes):
        raise fail(
            f"{row.where} has no text in the column '{column}', but {str(value)[:40]!r}",
            f"its columns: {', '.join(row.values)}",
        )
    return decoded(value, policy, row.name, row.where, omissions)


def _groups(spec: CorpusSource, row: Row, file: CorpusFile | None) -> tuple[str, str | None]:
    """The package and the repository of a row.

    Raises:
        UserError: it is to be held out by repository and has none.
    """
    named = spec.holdout.column if spec.holdout else None
    if named is not None and named not in row.values:
        raise no_column(row.where, named, row.values)
    columns = (named,) if named is not None else REPOSITORIES
    found = next((row.values[c] for c in columns if row.values.get(c) is not None), None)
    if isinstance(found, bytes):
        found = found.decode("utf-8", "replace")
    repository = None if found is None else legible(str(found))
    if repository is None and spec.by_repository:
        raise no_repository(row.where)
    folder = package_of(file.name) if file is not None and "/" in file.name else None
    return repository or folder or row.name, repository
