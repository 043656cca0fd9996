"""Encoding: documents -> ids on all cores, while the next ones are read and the last ones packed.

    items -> chunks of about so many characters    one thread, ahead
          -> `encode_batch_fast`, ids as arrays    two at a time, each on all cores
          -> (item, ids, mask)                     in order

What a document holds is text: `<|endoftext|>` written in one becomes ordinary ids. Special tokens
that a pair's template holds become theirs. Chunks bound the memory, whatever the corpus; a document
longer than a chunk is encoded in pieces, cut before line breaks.
"""

from __future__ import annotations

import re
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ncamix import tokenization
from ncamix.sources.pairs import PLACES

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HubTokenizer

CHUNK_CHARACTERS = 1 << 20  # about; 100 to 200 MB while they are encoded
PIECE_CHARACTERS = 1 << 18
_IN_FLIGHT = 2  # chunks encoded at once: no core waits for the last document of one

PROMPT, RESPONSE = PLACES

Ids = NDArray[np.uint32]
Item = TypeVar("Item")


class Encoded(NamedTuple):
    """Ids of a document with its end of text, uint32 [n]; its targets, bool [n], or None: all."""

    ids: Ids
    mask: NDArray[np.bool_] | None


class Encoder(Generic[Item]):
    """Encodes items, each of which is texts that are encoded apart, and joined by `join`."""

    def __init__(
        self,
        tokenizer: HubTokenizer,
        texts: Callable[[Item], list[str]],
        join: Callable[[list[Ids]], Encoded],
    ) -> None:
        self.plain = PlainText(tokenizer)
        self.texts, self.join = texts, join
        self.check: Callable[[Item, Encoded], None] | None = None  # raises where an item is refused

    def stream(self, items: Iterator[Item]) -> Iterator[tuple[Item, Encoded]]:
        """All items in order, each with its ids. What a thread raises is raised here."""
        chunks = self._chunks(items)
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(_IN_FLIGHT) as encoders:
            ahead: Future[Any] | None = reader.submit(next, chunks, None)
            under_way: deque[Future[list[tuple[Item, Encoded]]]] = deque()
            while True:
                while ahead is not None and len(under_way) < _IN_FLIGHT:
                    chunk = ahead.result()
                    ahead = None if chunk is None else reader.submit(next, chunks, None)
                    if chunk is not None:
                        under_way.append(encoders.submit(self.encode, *chunk))
                if not under_way:
                    return
                yield from under_way.popleft().result()

    def encode(self, items: list[Item], texts: list[list[str]]) -> list[tuple[Item, Encoded]]:
        """Items, each with the ids of its texts."""
        found = iter(self.plain.encode([text for each in texts for text in each]))
        encoded = [
            (item, self.join([next(found) for _ in own]))
            for item, own in zip(items, texts, strict=True)
        ]
        if self.check is not None:
            for each in encoded:
                self.check(*each)
        return encoded

    def _chunks(self, items: Iterator[Item]) -> Iterator[tuple[list[Item], list[list[str]]]]:
        chunk: list[Item] = []
        texts: list[list[str]] = []
        size = 0
        for item in items:
            chunk.append(item)
            texts.append(self.texts(item))
            size += sum(map(len, texts[-1]))
            if size >= CHUNK_CHARACTERS:
                yield chunk, texts
                chunk, texts, size = [], [], 0
        if chunk:
            yield chunk, texts


def pieces(text: str) -> list[str]:
    """A document in parts that are encoded apart: one, unless it is very long.

    Parts end before the last line break of so many characters that follows a letter or a digit,
    where tokenizers part anyway, before any line break, or anywhere.
    """
    parts, start = [], 0
    while len(text) - start > 2 * PIECE_CHARACTERS:
        window = text[start : start + PIECE_CHARACTERS]
        ends = [m.start() + 1 for m in re.finditer(r"\w(?=\n)", window)]
        cut = ends[-1] if ends else window.rfind("\n", 1)
        cut = cut if cut > 0 else len(window)
        parts.append(text[start : start + cut])
        start += cut
    return [*parts, text[start:]]


class PlainText:
    """Encodes texts without ever giving the id of a special token that is merely written there.

    A text's ids depend on nothing beside it: what the file of a pretrained tokenizer may ask for
    beside its vocabulary, to cut texts, to fill up the shorter ones of a batch or to leave out
    merges at random, is not done.
    """

    def __init__(self, tokenizer: HubTokenizer) -> None:
        tokenizer.encode_special_tokens = True  # written ones are text
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if getattr(tokenizer.model, "dropout", None) is not None:
            tokenizer.model.dropout = None
        self.tokenizer = tokenizer
        self.special = tokenization.special_tokens(tokenizer)
        self._is_special = np.zeros(tokenizer.get_vocab_size() + 1, np.bool_)
        self._is_special[list(self.special.values())] = True

    def encode(self, texts: list[str]) -> list[Ids]:
        """uint32 [n] for each text."""
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        found = [np.frombuffer(array("I", each.ids), np.uint32) for each in encodings]
        del encodings
        if any(self._is_special[ids].any() for ids in found):
            for i, text in enumerate(texts):
                if self._is_special[found[i]].any():  # the model has special tokens in its pieces
                    parts = _broken(text, self.special)
                    found[i] = np.concatenate(self.encode(parts)) if len(parts) > 1 else found[i]
        return found


def _broken(text: str, tokens: Iterable[str]) -> list[str]:
    """A text cut behind the first character of each of the tokens that are written in it."""
    words = "|".join(re.escape(token) for token in tokens if len(token) > 1)
    cuts = {m.start() + 1 for m in re.finditer(f"(?=({words}))", text)} if words else set()
    edges = [0, *sorted(cuts), len(text)]
    return [text[a:b] for a, b in pairwise(edges) if a < b]


def text_encoder(tokenizer: HubTokenizer, text: Callable[[Item], str]) -> Encoder[Item]:
    """Encodes documents, each closed by the end of text. text: of an item."""
    end = np.array([tokenization.end_of_text_id(tokenizer)], np.uint32)

    def join(parts: list[Ids]) -> Encoded:
        return Encoded(np.concatenate([*parts, end]), None)

    return Encoder(tokenizer, lambda item: pieces(text(item)), join)


def pair_encoder(
    tokenizer: HubTokenizer, template: str, pair: Callable[[Item], tuple[str, str]]
) -> Encoder[Item]:
    """Encodes pairs by their template; the targets are the response and the end of text.

    What stands before the response is encoded as one text, the response by itself, and what stands
    behind it by itself. pair: prompt and response of an item.
    """
    special = tokenization.special_tokens(tokenizer)
    end = np.array([tokenization.end_of_text_id(tokenizer)], np.uint32)
    layout = list(_layout(template, special))

    def texts(item: Item) -> list[str]:
        prompt, response = pair(item)
        filled = []
        for part in layout:
            if isinstance(part, list):
                filled.append("".join(prompt if p == PROMPT else p for p in part))
            elif part == RESPONSE:
                filled.append(response)
        return filled

    def join(parts: list[Ids]) -> Encoded:
        encoded = iter(parts)
        ids = [np.array([p], np.uint32) if isinstance(p, int) else next(encoded) for p in layout]
        targets = [np.full(len(i), p == RESPONSE) for i, p in zip(ids, layout, strict=True)]
        mask = np.concatenate([*targets, np.ones(1, np.bool_)])
        return Encoded(np.concatenate([*ids, end]), mask)

    return Encoder(tokenizer, texts, join)


def _layout(template: str, special: dict[str, int]) -> Iterable[list[str] | str | int]:
    """A template in order: texts as lists of their parts, the response's place, special ids."""
    words = sorted(special, key=len, reverse=True)
    cut = re.compile("(" + "|".join(map(re.escape, [RESPONSE, *words])) + ")")
    for part in cut.split(template):
        if part == RESPONSE:
            yield part
        elif part in special:
            yield special[part]
        elif part:
            yield [p for p in re.split(f"({re.escape(PROMPT)})", part) if p]
