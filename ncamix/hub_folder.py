"""A folder that transformers loads by itself: config, weights as safetensors, a tokenizer.

    trained model -> the plain class of its kind, all rows or those of the text alone -> folder
    tokenizer.json -> the tokenizer of the text ids, if there is text              /

Everything that is kept is kept bit for bit. The folder appears whole or not at all: it is written
beside its place and then renamed; an earlier one of ncamix's steps aside for it, nothing else does.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.modeling_utils import no_init_weights

from ncamix.disk import UNWRITABLE, unwritable
from ncamix.errors import fail

MARK = "export.json"  # what an exported folder says of itself


@dataclass(frozen=True)
class TextVocabulary:
    """The ids of text, which are the first `rows`: a `tokenizer.json`, and the end of text, which
    becomes beginning, end and padding."""

    file: Path
    rows: int
    end_of_text_id: int


def write_hub_folder(
    model: PreTrainedModel,
    out: Path,
    sequence_length: int,
    text: TextVocabulary | None,
    whole: bool,
    files: Mapping[str, bytes],
) -> None:
    """Write `model` to the folder `out`: cut to the ids of `text`, or `whole`, with all its rows.

    `sequence_length`, in tokens, becomes the tokenizer's limit and, unless told otherwise, that of
    generation. `files` are further files by name; MARK is one of them. `model` must be whole (not
    sharded) and is left unchanged. An earlier export at `out` is replaced.

    Raises:
        UserError: `out` holds something else or cannot be written, or the kind of model cannot be
            cut.
        ValueError: the text has no ids that the model has, or none that its tokenizer has.
    """
    assert MARK in files and (whole or text is not None)
    refuse_others(out)
    tokenizer = None
    if text is not None:
        all_rows = model.config.get_text_config().vocab_size
        if not 0 < text.rows <= all_rows:
            raise ValueError(f"cannot keep {text.rows} of the model's {all_rows} rows")
        tokenizer = _tokenizer(text, sequence_length)
    special: dict[str, Any] = {}
    if text is not None:
        special = {f"{name}_token_id": text.end_of_text_id for name in ("bos", "eos", "pad")}
    exported = _plain(model, special)
    if text is not None and not whole:
        _cut(exported, text.rows)
    exported.generation_config = GenerationConfig(max_length=sequence_length, **special)

    fresh = out.with_name(f".{out.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        exported.save_pretrained(fresh, safe_serialization=True)
        if tokenizer is not None:
            tokenizer.save_pretrained(fresh)
        for name, data in files.items():
            (fresh / name).write_bytes(data)
        _replace(fresh, out)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        way_out = "choose another folder with --out"
        raise unwritable(out.parent, out.name, error, way_out) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def refuse_others(out: Path) -> None:
    """Raises UserError if there is something at `out` that is no export of ncamix's."""
    if not (out.exists() or out.is_symlink()) or (out / MARK).is_file():
        return
    if out.is_dir() and not any(out.iterdir()):
        return
    raise fail(
        f"{out} exists and is no export of ncamix's: it is not replaced",
        "choose another folder with --out",
    )


def read_mark(folder: Path) -> dict[str, Any] | None:
    """What an exported folder says of itself; None if it is none."""
    try:
        mark = json.loads((folder / MARK).read_text())
    except (OSError, ValueError):
        return None
    return mark if isinstance(mark, dict) else None


def _tokenizer(text: TextVocabulary, sequence_length: int) -> PreTrainedTokenizerFast:
    plain = Tokenizer.from_file(str(text.file))
    end_of_text = plain.id_to_token(text.end_of_text_id)
    if end_of_text is None:
        raise ValueError(f"{text.file} has no token with the id {text.end_of_text_id}")
    largest = max(plain.get_vocab(with_added_tokens=True).values())
    if largest >= text.rows:
        raise ValueError(f"{text.file} has ids up to {largest}, but text has only {text.rows} rows")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(text.file),
        bos_token=end_of_text,
        eos_token=end_of_text,
        pad_token=end_of_text,
        model_max_length=sequence_length,
        # `generate` refuses the token_type_ids that would be there otherwise.
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    assert tokenizer.eos_token_id == text.end_of_text_id
    return tokenizer


def _plain(model: PreTrainedModel, special: dict[str, Any]) -> PreTrainedModel:
    """A copy of a model on the CPU, of the class that its config names, with its special ids."""
    config = copy.deepcopy(model.config)
    config.update({"use_cache": True, **special})
    with no_init_weights():
        exported = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    exported.load_state_dict(model.state_dict())
    exported.tie_weights()
    return exported.eval()


def _cut(model: PreTrainedModel, rows: int) -> None:
    """Leave a model's first `rows` rows: of the embedding, of the head, and of the head's bias."""
    try:
        model.resize_token_embeddings(rows, mean_resizing=False)
    except (NotImplementedError, ValueError, AttributeError) as error:
        raise fail(
            f"a model of the kind '{model.config.model_type}' cannot be cut to the ids of its text "
            f"({error})",
            "keep all its rows: --vocabulary whole",
        ) from None


def _replace(fresh: Path, out: Path) -> None:
    """Put the folder `fresh` in the place of `out`."""
    # A folder cannot be renamed over a full one: the old one steps aside, and back on failure.
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.replace(out, old)
    try:
        os.replace(fresh, out)
    except OSError:
        if old.exists():
            os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)
