"""Export for Hugging Face: a folder that loads with transformers alone.

    trained model + tokenizer file -> rows of the text vocabulary, config, tokenizer -> folder

Rows behind the text vocabulary (automata, padding) are cut off; everything else is kept bit for
bit. The folder appears whole or not at all: it is written beside its place and then renamed.
"""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path

from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_utils import no_init_weights


def export_model(
    model: LlamaForCausalLM,
    tokenizer_file: Path,
    out: Path,
    text_rows: int,
    end_of_text_id: int,
    sequence_length: int,
) -> None:
    """Write `model`, cut to its first `text_rows` ids, and its tokenizer to the folder `out`.

    `tokenizer_file` is a `tokenizer.json`. The token `end_of_text_id` becomes beginning, end and
    padding. `sequence_length`, in tokens, becomes the model's and the tokenizer's limit and, unless
    told otherwise, that of generation. `model` must be whole (not sharded) and is left unchanged.
    An earlier export at `out` is replaced.

    Raises ValueError if the model has fewer than `text_rows` rows, the tokenizer has more ids than
    that, or has no token `end_of_text_id`; FileExistsError if `out` holds something else.
    """
    if not 0 < text_rows <= model.config.vocab_size:
        raise ValueError(f"cannot keep {text_rows} of the model's {model.config.vocab_size} rows")
    if out.exists() and not (out / "config.json").is_file():
        raise FileExistsError(f"{out} exists and is not an exported model: not replaced")
    tokenizer = _tokenizer(tokenizer_file, text_rows, end_of_text_id, sequence_length)
    exported = _cut(model, text_rows, end_of_text_id, sequence_length)

    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        exported.save_pretrained(fresh, safe_serialization=True)
        tokenizer.save_pretrained(fresh)
        _replace(fresh, out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _tokenizer(
    file: Path, text_rows: int, end_of_text_id: int, sequence_length: int
) -> PreTrainedTokenizerFast:
    plain = Tokenizer.from_file(str(file))
    end_of_text = plain.id_to_token(end_of_text_id)
    if end_of_text is None:
        raise ValueError(f"{file} has no token with the id {end_of_text_id} (end of text)")
    largest = max(plain.get_vocab(with_added_tokens=True).values())
    if largest >= text_rows:
        raise ValueError(f"{file} has ids up to {largest}, but only {text_rows} rows are kept")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(file),
        bos_token=end_of_text,
        eos_token=end_of_text,
        pad_token=end_of_text,
        model_max_length=sequence_length,
        # `generate` refuses the token_type_ids that would be there otherwise.
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
    assert tokenizer.eos_token_id == end_of_text_id
    return tokenizer


def _cut(
    model: LlamaForCausalLM, text_rows: int, end_of_text_id: int, sequence_length: int
) -> LlamaForCausalLM:
    """A new model on the CPU with the first `text_rows` rows of `model`, and its special ids."""
    config: LlamaConfig = copy.deepcopy(model.config)
    special = {
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
        "pad_token_id": end_of_text_id,
    }
    config.update(
        {
            "vocab_size": text_rows,
            "max_position_embeddings": sequence_length,
            "use_cache": True,
            **special,
        }
    )
    with no_init_weights():
        # The plain class, so that the config names one that transformers knows.
        exported = LlamaForCausalLM._from_config(config, dtype=model.dtype)
    vocabulary = {"model.embed_tokens.weight", "lm_head.weight"}
    exported.load_state_dict(
        {
            name: values[:text_rows] if name in vocabulary else values
            for name, values in model.state_dict().items()
        }
    )
    exported.tie_weights()
    exported.generation_config = GenerationConfig(max_length=sequence_length, **special)
    return exported.eval()


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
