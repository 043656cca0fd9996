"""Tokenizers: bytes, a byte-level BPE trained on the curriculum's own text, or a pretrained one.

    documents                     -> BPE -> tokenizer.json
    tokenizer.json of others      --------> tokenizer.json
    vocab.json + merges.txt (GPT-2's) ----> tokenizer.json

Every tokenizer is one `tokenizer.json` of the `tokenizers` library, so that the export needs
nothing else. Its end-of-text token closes every document. The declared size of a BPE tokenizer
fixes the vocabulary before it is trained; a small corpus that yields fewer merges leaves ids
unused. Ids and special tokens of pretrained ones are found without the library, for the plan.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncamix.errors import UserError, fail
from ncamix.keys import fingerprint

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HubTokenizer

END_OF_TEXT = "<|endoftext|>"
END_NAME = "end_of_text"  # of the id that closes documents, in maps of ids
NUM_BYTE_IDS = 257  # 256 bytes and the end of text
TRAIN_CHARACTERS = 1 << 30  # a BPE tokenizer is trained on about so much of each source
VERSION = 1
VOCAB, MERGES = "vocab.json", "merges.txt"
_ONE_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")  # SentencePiece's way to write a byte
_KNOWN_ENDS = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "[SEP]")


def pretrained_file(name: str, folder: Path) -> Path:
    """The tokenizer.json behind a path (relative to `folder`) or a hub id; the vocab.json of a
    folder that has merges.txt beside it instead.

    Raises:
        UserError: there is none, or the hub cannot be reached.
    """
    for path in (folder / name, folder / name / "tokenizer.json"):
        if path.is_file():
            return path
    if (folder / name / VOCAB).is_file() and (folder / name / MERGES).is_file():
        return folder / name / VOCAB
    if (folder / name).is_dir():
        raise fail(
            f"the folder {folder / name} holds no tokenizer",
            f"put a tokenizer.json there, or {VOCAB} and {MERGES}",
        )
    try:
        from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache

        cached = try_to_load_from_cache(name, "tokenizer.json")
        if isinstance(cached, str):
            return Path(cached)
        if not constants.HF_HUB_OFFLINE:  # a missing network is told at once; the client retries
            HfApi().model_info(name, timeout=10)
        return Path(hf_hub_download(name, "tokenizer.json"))
    except Exception as error:  # the hub's client raises many kinds
        raise fail(
            f"the tokenizer '{name}' is no local path and cannot be had from the Hugging Face hub "
            f"({hub_reason(error)})",
            "check its name and the network, or name a local tokenizer.json",
        ) from None


def hub_reason(error: Exception) -> str:
    """Why the hub's client failed, in a line."""
    from requests import ConnectionError, Timeout

    if isinstance(error, ConnectionError | Timeout):
        return "there is no connection"
    return (str(error).strip().splitlines() or [repr(error)])[0][:200]


@dataclass(frozen=True)
class Pretrained:
    """What a plan knows of a pretrained tokenizer: its number of ids, the ids of its special tokens
    (that of the end of text as `end_of_text`), and what determines it."""

    num_ids: int
    special: dict[str, int]
    content: str


def read_pretrained(file: Path) -> Pretrained:
    """Look into a tokenizer.json, or a vocab.json with merges.txt beside it.

    Raises:
        UserError: it is neither, or it has no end-of-text token that we know.
    """
    text = _text_of(file)
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(
            file, f"it is not JSON ({error})" if text.strip() else "it is empty"
        ) from None
    try:
        if file.name == VOCAB:
            ids = _whole_ids(data)
            merges = _text_of(file.parent / MERGES)
            _check_merges(file.parent / MERGES, merges, ids)
            ids.setdefault(END_OF_TEXT, 1 + max(ids.values()))
            special = {END_OF_TEXT: ids[END_OF_TEXT]}
            content = fingerprint({"vocab": text, "merges": merges})
        else:
            model, added = data["model"]["vocab"], data.get("added_tokens") or []
            if not isinstance(model, dict):
                model = {piece[0]: i for i, piece in enumerate(model)}
            ids = _whole_ids(model) | {token["content"]: token["id"] for token in added}
            special = {t["content"]: t["id"] for t in added if t.get("special")}
            content = fingerprint({"json": text})
        size = 1 + max(ids.values())
    except (LookupError, TypeError, AttributeError):
        raise _broken(file, "its `model` or its `added_tokens` are none of a tokenizer") from None
    except ValueError as error:
        raise _broken(file, str(error)) from None
    end = _end_of(ids)
    named = {token: i for token, i in special.items() if token != end}
    return Pretrained(size, {END_NAME: ids[end], **named}, content)


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise fail(f"cannot read {file}: {error.strerror}") from None
    except ValueError:
        raise _broken(file, "it is not UTF-8") from None


def _broken(file: Path, reason: str) -> UserError:
    """The error of a file that is no tokenizer, or no part of one."""
    way_out = "is it whole? Fetch it anew, or name another tokenizer"
    if file.name in (VOCAB, MERGES):
        kind = "the vocabulary" if file.name == VOCAB else "the merges"
        return fail(f"{file} is not {kind} of a GPT-2 tokenizer: {reason}", way_out)
    return fail(f"{file} is not a tokenizer.json: {reason}", way_out)


def _whole_ids(vocabulary: Any) -> dict[str, int]:
    """A vocabulary from JSON, token -> id. Raises ValueError if it is none."""
    if not isinstance(vocabulary, dict):
        raise ValueError("it is not a mapping of tokens to ids")
    if not vocabulary:
        raise ValueError("its vocabulary is empty")
    for token, i in vocabulary.items():
        if not isinstance(i, int) or isinstance(i, bool) or i < 0:
            raise ValueError(f"the id of '{token[:40]}' is {str(i)[:40]!r}, and no whole number")
    return dict(vocabulary)


def _check_merges(file: Path, merges: str, ids: Mapping[str, int]) -> None:
    """Check GPT-2's merges: two tokens of the vocabulary a line, which make a third."""
    lines = merges.removesuffix("\n").split("\n") if merges else []
    pairs = {i: line for i, line in enumerate(lines, 1) if not line.startswith("#version")}
    if not pairs and any(len(token) > 1 for token in ids if token != END_OF_TEXT):
        raise _broken(file, "it holds no merge, and its vocabulary tokens that need some")
    for number, line in pairs.items():
        parts = line.removesuffix("\r").split(" ")
        if len(parts) != 2:
            raise _broken(file, f"line {number} is not two tokens: {line[:40]!r}")
        for token in (*parts, "".join(parts)):
            if token not in ids:
                raise _broken(
                    file, f"'{token[:40]}' of line {number} is not in the vocabulary beside it"
                )


def _end_of(ids: Mapping[str, int]) -> str:
    """The token that closes a document."""
    found = next((token for token in _KNOWN_ENDS if token in ids), None)
    if found is None:
        way_out = f"add one of: {', '.join(_KNOWN_ENDS)}"
        raise fail("the tokenizer has no end-of-text token", way_out)
    return found


def trained_special(special: Sequence[str] = ()) -> dict[str, int]:
    """The special ids of a tokenizer of ours: the end of text is 0, others follow in order."""
    return {END_NAME: 0} | {token: i for i, token in enumerate(special, 1)}


def open_pretrained(file: Path) -> HubTokenizer:
    """The tokenizer of a file that `read_pretrained` has looked into.

    Raises:
        UserError: the library cannot read it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    try:
        if file.name != VOCAB:
            return Tokenizer.from_file(str(file))
        tokenizer = Tokenizer(models.BPE.from_file(str(file), str(file.parent / MERGES)))
    except Exception as error:  # the library raises no other kind
        raise _broken(file, str(error)) from None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def train_bpe(documents: Iterator[str], size: int, special: Sequence[str] = ()) -> HubTokenizer:
    """Train a byte-level BPE tokenizer of at most `size` ids; id 0 is the end of text, those of
    further special tokens follow.

    Raises:
        UserError: the corpus is empty.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT, *special],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def byte_tokenizer() -> HubTokenizer:
    """One id a byte, after the end of text."""
    return train_bpe(iter(()), NUM_BYTE_IDS)


def end_of_text_id(tokenizer: HubTokenizer) -> int:
    """The id that closes a document.

    Raises:
        UserError: the tokenizer has no end-of-text token that we know.
    """
    return int(tokenizer.token_to_id(_end_of(tokenizer.get_vocab())))


def special_tokens(tokenizer: HubTokenizer) -> dict[str, int]:
    """The special tokens as they are written, and their ids; the end of text is among them."""
    added = tokenizer.get_added_tokens_decoder()
    found = {token.content: i for i, token in added.items() if token.special}
    end = end_of_text_id(tokenizer)
    return {tokenizer.id_to_token(end): end} | found


def bytes_per_id(tokenizer: HubTokenizer, size: int) -> list[int]:
    """UTF-8 bytes that each id stands for; the special ones stand for none."""
    added = tokenizer.get_added_tokens_decoder()
    byte_level = "ByteLevel" in json.dumps(json.loads(tokenizer.to_str())["decoder"])
    lengths = []
    for i in range(size):
        token = tokenizer.id_to_token(i)
        if token is None or (i in added and added[i].special):
            lengths.append(0)
        elif byte_level and i not in added:  # one character a byte
            lengths.append(len(token))
        elif _ONE_BYTE.fullmatch(token):
            lengths.append(1)
        else:
            lengths.append(len(token.removeprefix("##").replace("\u2581", " ").encode()))
    return lengths
