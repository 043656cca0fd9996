"""Entering a stage: chosen parts of the model are drawn anew, all others stay as they are.

    parts of the model -> parameter names -> values keyed by (seed, stage, name) -> model, in place

Values are drawn on the CPU in float32 and then take the parameter's type and device, so that they
are the same on every device and rank. The model must be whole: this happens before it is sharded.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ncamix.groups import Part
from ncamix.training.architectures import constant_of, fan_in, layer_of, parameter_groups
from ncamix.training.model import fresh_values, initial_values, random_stream

Initializer = str | tuple[str, float]
"""`model` (normal(0, 0.02), norms one), `torch` (torch's defaults), or `("normal", std)`."""


def select_parameters(model: PreTrainedModel, parts: Collection[Part]) -> list[str]:
    """Names of the parameters of `model` in any of `parts`, in the model's order.

    The head of a model with tied embeddings is no parameter, so the group is empty.
    """
    chosen = {
        name
        for group, names in parameter_groups(model).items()
        for name in names
        if (group, layer_of(name)) in parts
    }
    return [name for name, _ in model.named_parameters() if name in chosen]


@torch.no_grad()
def reinitialize(
    model: PreTrainedModel,
    parts: Collection[Part],
    initializer: Initializer,
    seed: int,
    stage: str,
    spare: Sequence[tuple[int, int]] = (),
) -> list[str]:
    """Draw the parameters of `parts` anew, in place, keyed by (seed, stage, name): their names.

    All other parameters, and the half-open ranges `spare` of vocabulary rows of embedding and
    head, keep every bit. A tied embedding is drawn as an embedding. Values of a row do not depend
    on what is spared. Raises ValueError for an unknown initializer, or a spare range outside the
    vocabulary, before anything is changed.
    """
    _check_initializer(initializer)
    rows = int(model.config.vocab_size)
    for first, last in spare:
        if not 0 <= first < last <= rows:
            raise ValueError(
                f"spare rows {first} to {last} lie outside the {rows} rows of the model"
            )
    names = select_parameters(model, parts)
    embeddings = set(select_parameters(model, {("embedding", None), ("head", None)}))
    for name in names:
        parameter = model.get_parameter(name)
        values = _draw(model, name, initializer, (seed, stage, name))
        values = values.to(device=parameter.device, dtype=parameter.dtype)
        for first, last in spare if name in embeddings else ():
            values[first:last] = parameter[first:last]
        parameter.copy_(values)
    return names


def _draw(
    model: PreTrainedModel, name: str, initializer: Initializer, key: Sequence[int | str]
) -> Tensor:
    """New values of one parameter: float32, on the CPU."""
    if isinstance(initializer, tuple):
        return fresh_values(model, name, key, std=initializer[1])
    if initializer == "model" or constant_of(model, name) is not None:
        return fresh_values(model, name, key)
    shape = model.get_parameter(name).shape
    if name in parameter_groups(model)["embedding"]:
        return initial_values(name, shape, key, std=1.0)
    # torch's Linear, Kaiming-uniform with a = sqrt(5), comes to 1 / sqrt(fan_in) either side of 0.
    bound = np.float32(1 / math.sqrt(fan_in(model, name)))
    uniform = random_stream(key).random(tuple(shape), dtype=np.float32)
    return torch.from_numpy((2 * uniform - 1) * bound)


def _check_initializer(initializer: Initializer) -> None:
    if isinstance(initializer, tuple):
        known = len(initializer) == 2 and initializer[0] == "normal"
        if known and math.isfinite(initializer[1]) and initializer[1] > 0:
            return
    elif initializer in ("model", "torch"):
        return
    raise ValueError(
        f"unknown initializer {initializer!r}, known: 'model', 'torch', ('normal', std above 0)"
    )
