"""Measures of a corpus: how far it compresses, how its tokens are spread, how much of it repeats.

    documents -> raw text, joined by a newline -> windows of several sizes -> gzip ratios
              -> documents, lines, 13-grams    -> shares that were there before
              -> tokenizer -> ids, each document closed by the end of text
                  -> windows of 360 ids as int32, 1,440 bytes -> gzip ratios -> nearest bands
                  -> how often each id occurs                 -> Zipf's exponent

The corpus is read up to three times, never held: to measure the text, to train a tokenizer, and to
measure tokens. All draws follow from one seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import PydanticCustomError

from ncamix import tokenization
from ncamix.errors import Problem, UserError, fail
from ncamix.frequencies import zipf_exponent
from ncamix.keys import derive_key
from ncamix.measure import repetition
from ncamix.measure.corpora import Corpus
from ncamix.measure.nearness import (
    WINDOW_BYTES,
    WINDOW_TOKENS,
    Nearest,
    authors_band,
    ceiling,
    nca_source,
    nearest_bands,
)
from ncamix.measure.windows import FEWEST_OWNERS, Estimate, WindowDraw, compressed_sizes, mean_of
from ncamix.omissions import worded
from ncamix.quantities import counted, parse_quantity
from ncamix.waiting import Say, quiet

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HubTokenizer

RAW_WINDOWS = (1440, 4096, 16_384, 65_536)  # bytes, beside the one that is asked for
RAW_BYTES = 1 << 24  # of all windows of a size together, at most
MIN_WINDOW = 64
MIN_BPE, MAX_BPE = tokenization.NUM_BYTE_IDS, 1 << 20
JOINT = b"\n"  # between documents of raw text
GROUPS = 20  # of documents, left out one at a time for the interval of the exponent
STRETCH = 4096  # ids that are dealt to the groups together where documents are too few
STUDENT = 2.093  # 97.5% quantile of Student's t with GROUPS - 1 degrees of freedom
_CHUNK_CHARACTERS = 1 << 22  # encoded at once, about
_COUNTED_IDS = 1 << 20  # held back before they are counted


@dataclass(frozen=True)
class Options:
    """How corpora are measured.

    tokenizer: `bytes`, a number of ids of a BPE trained on the corpus, or a pretrained one by path
    or hub id. window: bytes of a window of raw text, a multiple of 4. num_windows: drawn, at most,
    of each size. limit: bytes of text that are read, at most, about.
    """

    tokenizer: str = "4096"
    window: int = 4096
    num_windows: int = 4000
    limit: int = 50_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError with everything that cannot be."""
        problems = []
        if self.window % 4 or not MIN_WINDOW <= self.window <= RAW_BYTES:
            what = f"--window {self.window}: not a multiple of 4 from {MIN_WINDOW} to {RAW_BYTES:,}"
            problems.append(Problem(what, "write --window 4096"))
        if self.tokenizer.isdecimal() and not MIN_BPE <= int(self.tokenizer) <= MAX_BPE:
            what = f"--tokenizer {self.tokenizer}: a BPE has {MIN_BPE} to {MAX_BPE:,} ids"
            problems.append(Problem(what, "write --tokenizer 4096"))
        if problems:
            raise UserError(problems)


def limit_of(written: str) -> int:
    """A number of bytes as written: 50M, 2G.

    Raises:
        UserError: it is not one.
    """
    with suppress(PydanticCustomError):
        found = parse_quantity(written)
        if found is not None and found.unit in ("", "B") and found.value >= 1:
            return int(found.value)
    raise fail(f"--limit {written}: not a number of bytes", "write --limit 50M, or 2G")


@dataclass(frozen=True)
class Duplication:
    """Shares (0 to 1) of documents, of lines and of 13-grams that were there before."""

    documents: float
    lines: float
    grams: float


@dataclass(frozen=True)
class Measured:
    """What was found of a corpus. Ratios are compressed bytes / bytes before.

    num_bytes: of the text that was read, as UTF-8. is_whole: whether that is all there is.
    share_read: of the files' bytes, about, where it is less and known. left_out: what was no text,
    {reason: {"count": number, "first": name}}. num_tokens: without the ends of text. raw: by bytes
    of a window, the ratio and how many windows were drawn. sizes: of token windows after gzip,
    int64 [N] bytes. shuffled: mean ratio of the same ids in random order. ceiling: of independent
    ids of the tokenizer, all as likely.
    """

    name: str
    options: Options
    num_documents: int
    num_bytes: int
    is_whole: bool
    share_read: Fraction | None
    left_out: dict[str, Any]
    duplication: Duplication
    raw: dict[int, tuple[Estimate, int]]
    tokenizer: str
    num_ids: int
    num_tokens: int
    sizes: NDArray[np.int64]
    tokens: Estimate
    shuffled: float
    ceiling: float
    zipf: Estimate
    nearest: list[Nearest]

    @property
    def scores(self) -> NDArray[np.float64]:
        """Ratios of token windows, float64 [N]."""
        return self.sizes / WINDOW_BYTES

    @property
    def authors(self) -> str:
        """The source that the paper's authors' mapping of the raw ratio comes to, in YAML."""
        return nca_source(10, authors_band(self.raw[self.options.window][0].value))


def measure(corpus: Corpus, options: Options, say: Say = quiet) -> Measured:
    """Measure a corpus.

    Raises:
        UserError: no text, less than a window of it, or no such tokenizer.
    """
    reader = _Reader(corpus, options, say)
    raw, duplication = _measure_text(reader)
    tokenizer, label = _tokenizer(reader)
    vocabulary = tokenizer.get_vocab()
    num_ids = 1 + max(vocabulary.values())
    sizes, owners, shuffled, counts = _measure_tokens(reader, tokenizer, num_ids)
    say(f"{corpus.name}: looking for the nearest bands", 1.0)
    return Measured(
        name=corpus.name,
        options=options,
        num_documents=reader.num_documents,
        num_bytes=reader.num_bytes,
        is_whole=reader.is_whole,
        share_read=reader.share_read,
        left_out=reader.left_out,
        duplication=duplication,
        raw=raw,
        tokenizer=label,
        num_ids=num_ids,
        num_tokens=int(counts.sum()),
        sizes=sizes,
        tokens=mean_of(sizes / WINDOW_BYTES, owners, options.seed),
        shuffled=shuffled,
        ceiling=ceiling(num_ids),
        zipf=zipf_of(counts, _zipf_unit(reader.num_documents)),
        nearest=nearest_bands(sizes),
    )


class _Reader:
    """Reads the same documents of a corpus again and again, and notes how much that is."""

    def __init__(self, corpus: Corpus, options: Options, say: Say) -> None:
        self.corpus, self.options, self._say = corpus, options, say
        self.num_documents = self.num_bytes = 0
        self.is_whole = False
        self.left_out: dict[str, Any] = {}
        self.share_read: Fraction | None = None

    def texts(self, what: str) -> Iterator[tuple[str, bytes]]:
        """Documents up to the limit, as text and as UTF-8. what: is being done, for the progress.

        The document that exceeds the limit is cut.
        """
        limit, whole = self.options.limit, self.corpus.num_bytes
        total = min(limit, whole or limit)
        num_documents = num_bytes = begun = 0
        self.left_out = {}
        for text, at in self.corpus.texts(self.left_out, limit):
            room = limit - num_bytes
            if not room:
                break
            data, begun = text.encode(), at
            if cut := len(data) > room:
                text = data[:room].decode(errors="ignore")
                data = text.encode()
            num_documents += 1
            num_bytes += len(data)
            self._say(f"{self.corpus.name}: {what}", min(1.0, num_bytes / total))
            yield text, data
            if cut:
                break
        else:
            self.is_whole = True
        self.num_documents, self.num_bytes = num_documents, num_bytes
        # Where one file is begun and not ended, its text is taken to be as long as the file.
        if whole and not self.is_whole:
            share = Fraction(min(begun, num_bytes), whole)
            self.share_read = share if share < 1 else None


def _measure_text(
    reader: _Reader,
) -> tuple[dict[int, tuple[Estimate, int]], Duplication]:
    options = reader.options
    draws = {}
    for size in sorted({*RAW_WINDOWS, options.window}):
        most = max(1, min(options.num_windows, RAW_BYTES // size))
        draws[size] = WindowDraw(size, most, derive_key("raw", size, options.seed), np.uint8)
    documents, lines, grams = (repetition.Repeats() for _ in range(3))
    for number, (text, data) in enumerate(reader.texts("reading")):
        documents.add(repetition.document_hash(text))
        lines.add(repetition.line_hashes(text))
        grams.add(repetition.gram_hashes(text))
        items = np.frombuffer(JOINT + data if number else data, np.uint8)
        for draw in draws.values():
            draw.add(items, number)
    name = reader.corpus.name
    if not reader.num_documents:
        why = reader.left_out.get("unreadable", {}).get("why")
        found = [f"{told['count']:,} {worded(reason)}" for reason, told in reader.left_out.items()]
        what = f"there is no text in {name}" + (f" ({', '.join(found)})" if found else "")
        raise fail(f"{what}: {why}" if why else what, "name other files")
    if not draws[options.window].num_windows:
        amount = counted(reader.num_bytes, "byte") + " of text"
        held = f"{name} holds {amount}" if reader.is_whole else f"{amount} of {name} were read"
        more = "measure more text" if reader.is_whole else "raise --limit"
        raise fail(
            f"{held}, less than a window of {options.window:,}",
            f"{more}, or write a smaller --window",
        )
    raw = {}
    for size, draw in draws.items():
        windows, owners = draw.drawn()
        if len(windows):
            ratios = compressed_sizes(windows) / size
            raw[size] = (mean_of(ratios, owners, options.seed), len(windows))
    return raw, Duplication(documents.share, lines.share, grams.share)


def _tokenizer(reader: _Reader) -> tuple[HubTokenizer, str]:
    """The tokenizer that is asked for, and what it is called."""
    wanted = reader.options.tokenizer
    if wanted == "bytes":
        return tokenization.byte_tokenizer(), "bytes"
    if not wanted.isdecimal():
        file = tokenization.pretrained_file(wanted, Path())
        tokenization.read_pretrained(file)
        return tokenization.open_pretrained(file), wanted
    texts = (text for text, _ in reader.texts(f"training a tokenizer of {int(wanted):,} ids"))
    return tokenization.train_bpe(texts, int(wanted)), f"its own BPE of {int(wanted):,}"


def _measure_tokens(
    reader: _Reader, tokenizer: HubTokenizer, num_ids: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], float, NDArray[np.int64]]:
    """Of token windows: sizes after gzip int64 [N], the documents they begin in int64 [N], mean
    ratio of the same ids shuffled. Counts of ids in each group of the text, int64 [GROUPS, ids]."""
    seed = reader.options.seed
    draw = WindowDraw(
        WINDOW_TOKENS, reader.options.num_windows, derive_key("tokens", seed), np.uint32
    )
    end = np.array([tokenization.end_of_text_id(tokenizer)], np.uint32)
    counts = _GroupCounts(num_ids, _zipf_unit(reader.num_documents))
    number = 0
    for chunk in _chunks(reader.texts("tokenizing")):
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
            ids = np.array(encoding.ids, np.uint32)
            draw.add(np.concatenate([ids, end]), number)
            counts.add(ids)
            number += 1
    windows, owners = draw.drawn()
    if not len(windows):
        held = counted(int(counts.counts().sum()), "token")
        raise fail(
            f"{reader.corpus.name} holds {held}, less than a window of {WINDOW_TOKENS}",
            "measure more text, or another --tokenizer",
        )
    rng = np.random.Generator(np.random.PCG64(derive_key("shuffled", seed)))
    shuffled = rng.permutation(windows.ravel()).reshape(windows.shape)
    ratio = float(compressed_sizes(shuffled).mean()) / WINDOW_BYTES
    return compressed_sizes(windows), owners, ratio, counts.counts()


def _chunks(texts: Iterator[tuple[str, bytes]]) -> Iterator[list[str]]:
    """Texts in lists of about so many characters as are encoded at once."""
    chunk: list[str] = []
    size = 0
    for text, _ in texts:
        chunk.append(text)
        size += len(text)
        if size > _CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _zipf_unit(num_documents: int) -> str:
    """What is dealt to groups: documents, or stretches of ids where those are too few."""
    return "documents" if num_documents >= FEWEST_OWNERS else f"stretches of {STRETCH:,} tokens"


class _GroupCounts:
    """How often each id occurs in each of GROUPS groups, dealt to in turn."""

    def __init__(self, num_ids: int, unit: str) -> None:
        self._num_ids, self._whole = num_ids, unit == "documents"
        self._counts = np.zeros((GROUPS, num_ids), np.int64)
        self._held: list[list[NDArray[np.uint32]]] = [[] for _ in range(GROUPS)]
        self._num_held = self._turn = self._place = 0

    def add(self, ids: NDArray[np.uint32]) -> None:
        """Count the ids of a document."""
        if self._whole:
            self._deal(ids, self._turn)
            self._turn += 1
        else:
            edges = range(STRETCH - self._place % STRETCH, len(ids), STRETCH)
            for part in np.split(ids, edges):
                self._deal(part, self._place // STRETCH)
                self._place += len(part)
        if self._num_held > _COUNTED_IDS:
            self._count()

    def counts(self) -> NDArray[np.int64]:
        """int64 [GROUPS, num_ids]."""
        self._count()
        return self._counts

    def _deal(self, ids: NDArray[np.uint32], turn: int) -> None:
        self._held[turn % GROUPS].append(ids)
        self._num_held += len(ids)

    def _count(self) -> None:
        for group, held in enumerate(self._held):
            if held:
                self._counts[group] += np.bincount(np.concatenate(held), minlength=self._num_ids)
                held.clear()
        self._num_held = 0


def zipf_of(counts: NDArray[np.int64], unit: str) -> Estimate:
    """Zipf's exponent of counts [groups, ids] with a jackknife interval.

    Each group is left out in turn; the interval is the exponent plus and minus 2.093 standard
    errors (Student's t for 20 groups). unit: what was dealt to the groups.
    """
    total = counts.sum(axis=0)
    exponent = zipf_exponent(total)
    if len(counts) < GROUPS or not counts.any(axis=1).all():
        return Estimate(exponent)
    without = np.array([zipf_exponent(total - group) for group in counts])
    scale = (len(counts) - 1) / len(counts)
    error = math.sqrt(scale * float(np.square(without - without.mean()).sum()))
    return Estimate(exponent, exponent - STUDENT * error, exponent + STUDENT * error, unit)
