"""Tokenizers: bytes, a byte-level BPE trained on the curriculum's own text, or a pretrained one.

Every tokenizer is one `tokenizer.json` of the `tokenizers` library, so that the export needs
nothing else. Its end-of-text token closes every document. The declared size of a BPE tokenizer
fixes the vocabulary before it is trained; a small corpus that yields fewer merges leaves ids
unused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncamix.errors import fail

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HubTokenizer

END_OF_TEXT = "<|endoftext|>"
NUM_BYTE_IDS = 257  # 256 bytes and the end of text
TRAIN_CHARACTERS = 1 << 30  # a BPE tokenizer is trained on about so much of each source
VERSION = 1
_ONE_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")  # SentencePiece's way to write a byte
_KNOWN_ENDS = (END_OF_TEXT, "</s>", "<eos>", "<|end_of_text|>", "[SEP]")


def pretrained_file(name: str, folder: Path) -> Path:
    """The tokenizer.json behind a path (relative to `folder`) or a hub id.

    Raises:
        UserError: there is none, or the hub cannot be reached.
    """
    for path in (folder / name, folder / name / "tokenizer.json"):
        if path.is_file():
            return path
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


def num_ids(file: Path) -> int:
    """Ids of a tokenizer.json, found without the tokenizers library."""
    try:
        data: dict[str, Any] = json.loads(file.read_text())
        model = data["model"]["vocab"]
        ids = list(model.values()) if isinstance(model, dict) else list(range(len(model)))
        return 1 + max([*ids, *(t["id"] for t in data.get("added_tokens") or [])])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise fail(f"not a tokenizer.json ({error!r})", file=str(file)) from None


def train_bpe(documents: Iterator[str], size: int) -> HubTokenizer:
    """Train a byte-level BPE tokenizer of at most `size` ids; id 0 is the end of text.

    Raises:
        UserError: the corpus is empty.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
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
    for token in _KNOWN_ENDS:
        found = tokenizer.token_to_id(token)
        if found is not None:
            return int(found)
    raise fail("the tokenizer has no end-of-text token", f"add one of: {', '.join(_KNOWN_ENDS)}")


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
