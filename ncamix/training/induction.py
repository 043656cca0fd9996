"""The induction score: whether a model copies in context what it cannot have learned.

    random ids a b c ... a b c ... -> losses of both halves -> drop, in nats
                                   -> attention from the second a to the first b, by head

As in Olsson et al. (2022, "In-context learning and induction heads"). The ids are drawn without
repeats from those that the stage can emit, which it is trained on, keyed by the run's seed alone: a
stage is asked the same at every evaluation, on any ranks. Both halves of the drop predict the same
ids, all but the first, whose repetition nothing announces.

Weights are recomputed from queries and keys, layer by layer, beside the attention that training
uses. A model whose attention does not go through the interface of `transformers` has no weights
here, and its loss drop alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ncamix.training.loss import ActiveIds
from ncamix.training.model import CurriculumModel, random_stream

NUM_SEQUENCES, LONGEST_HALF = 8, 128
SHORTEST_HALF = 4


def repeated(ranges: Sequence[tuple[int, int]], length: int, seed: int) -> Tensor | None:
    """Random ids, and the same again: int64 [NUM_SEQUENCES, 2 * half], of at most `length`.

    ranges: half-open, of ids to draw from. None where they or the length leave no room.
    """
    sizes = np.array([last - first for first, last in ranges])
    half = int(min(length // 2, sizes.sum(), LONGEST_HALF))
    if half < SHORTEST_HALF:
        return None
    stream = random_stream((seed, "induction", *(end for pair in ranges for end in pair)))
    drawn = np.stack(
        [stream.choice(int(sizes.sum()), half, replace=False) for _ in range(NUM_SEQUENCES)]
    )
    starts = np.array([first for first, _ in ranges]) - (sizes.cumsum() - sizes)
    which = np.searchsorted(sizes.cumsum(), drawn, side="right")
    ids = torch.from_numpy(drawn + starts[which])
    return torch.cat([ids, ids], dim=1)


def induction_score(
    model: CurriculumModel, ids: Tensor, ranges: Sequence[tuple[int, int]], device: torch.device
) -> dict[str, Any]:
    """Loss drop and prefix matching on `ids` [n, 2 * half], normalised over `ranges`.

    `loss_first`, `loss_second`, `loss_drop`: nats per token. `prefix_matching_mean`, `_best`:
    attention weights, mean over positions, of all heads and of the best, which is head
    `prefix_matching_head` [layer, head]. All ranks compute the same. Dropout and random state are
    left alone.
    """
    half = ids.shape[1] // 2
    inputs, targets = ids[:, :-1].to(device), ids[:, 1:].to(device)
    with _watched(model.model.config, half) as seen:
        losses = model.eval_losses(
            {"input_ids": inputs, "labels": targets}, ActiveIds(list(ranges))
        ).double()
    # Position j predicts id j + 1. Ids 1 .. half - 1, then half + 1 .. 2 * half - 1.
    first, second = losses[:, : half - 1].mean().item(), losses[:, half:].mean().item()
    found: dict[str, Any] = {
        "half": half,
        "loss_first": first,
        "loss_second": second,
        "loss_drop": first - second,
    }
    if seen:
        weights = torch.stack([seen[layer] for layer in sorted(seen)]).cpu()
        best = int(weights.argmax())
        found |= {
            "prefix_matching_mean": weights.mean().item(),
            "prefix_matching_best": weights.max().item(),
            "prefix_matching_head": list(divmod(best, weights.shape[1])),
        }
    return found


@contextmanager
def _watched(config: Any, half: int) -> Iterator[dict[int, Tensor]]:
    """Meanwhile every attention leaves its heads' mean weight on the id after the earlier
    occurrence, float32 [heads], by layer."""
    seen: dict[int, Tensor] = {}
    name = config._attn_implementation
    stock = ALL_ATTENTION_FUNCTIONS.get(name)
    if stock is None:
        yield seen
        return

    def watching(
        module: torch.nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        layer = getattr(module, "layer_idx", None)
        if layer is not None:
            weights = _weights(query, key, kwargs.get("scaling"), kwargs.get("softcap"))
            # From position i of the second half to i - half + 1.
            seen[layer] = weights[:, :, half:].diagonal(1, dim1=2, dim2=3).mean(dim=(0, 2))
        return stock(module, query, key, *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS[name] = watching  # of this process, over the library's own
    try:
        with torch.compiler.set_stance("force_eager"):  # compiled code would not ask again
            yield seen
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]


def _weights(query: Tensor, key: Tensor, scaling: float | None, softcap: float | None) -> Tensor:
    """Causal attention [n, heads, L, L], float32, of queries [n, heads, L, d] and keys alike."""
    query, key = query.float(), key.float()
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    length = scores.shape[2]
    later = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1)
