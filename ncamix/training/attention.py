"""Causal attention without a mask, under a name of its own in the library.

    queries, keys and values -> scaled dot products of what lies before -> [n, L, heads, d]

Hugging Face builds a mask of every batch, even where it says no more than that tokens look back:
5 to 15% of a step, and with a mask PyTorch has no flash attention. An attention that the library
knows no masks for is given none, but for what a caller has made himself (of four axes, as within
documents). It sees no padding: who pads loads the exported model, whose attention is the usual one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

CAUSAL, USUAL = "causal_sdpa", "sdpa"
PLAIN = ("llama", "mistral", "qwen2", "qwen3")  # architectures that ask for nothing else


def attention_of(config: Any, usual: str = USUAL) -> str:
    """The attention of a model of this config, which attends by `usual` in the library."""
    windowed = getattr(config, "sliding_window", None) is not None
    windowed |= not set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}
    return CAUSAL if usual == USUAL and config.model_type in PLAIN and not windowed else usual


def causal_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention of queries [n, heads, L, d], by keys and values of as many heads or fewer; a mask,
    bool [n, 1, L, L], says more than what lies before."""
    groups = query.shape[1] // key.shape[1]
    found = torch.nn.functional.scaled_dot_product_attention(
        query,
        repeat_kv(key, groups),
        repeat_kv(value, groups),
        attn_mask=attention_mask,
        dropout_p=dropout,
        is_causal=attention_mask is None,
        scale=scaling,
    )
    return found.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(CAUSAL, causal_attention)
