"""Entering a stage: parts of the model are drawn anew, permuted or held still, all others go on.

    parts of the model -> parameter names -> values keyed by (seed, stage, name) -> model, in place
                                          -> places of the values it has, keyed alike -> the same
    frozen groups -> no gradient for so many batches -> neither clipped, nor moved, nor decayed

Values are drawn on the CPU in float32 and then take the parameter's type and device, and places are
drawn there, too, so that they are the same on every device and rank. The model must be whole: this
happens before it is sharded.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
import torch
from composer.core import Callback, State
from composer.loggers import Logger
from torch import Tensor
from transformers import PreTrainedModel

from ncamix.groups import Group, Part, parts
from ncamix.training.architectures import fan_in, is_norm, layer_of, parameter_groups
from ncamix.training.model import fresh_values, normal_values, random_stream
from ncamix.training.optimizers import complete_state

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


def vocabulary_parameters(model: PreTrainedModel) -> list[str]:
    """Names of the parameters that have a row for every id: embedding, and head if it is not tied.

    Other parameters of those groups, such as learned positions, have none.
    """
    modules = (model.get_input_embeddings(), model.get_output_embeddings())
    tables = {id(parameter) for module in modules for parameter in module.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in tables]


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
    _check_spare(model, spare)
    names = select_parameters(model, parts)
    embeddings = set(vocabulary_parameters(model))
    for name in names:
        parameter = model.get_parameter(name)
        values = _draw(model, name, initializer, (seed, stage, name))
        values = values.to(device=parameter.device, dtype=parameter.dtype)
        for first, last in spare if name in embeddings else ():
            values[first:last] = parameter[first:last]
        parameter.copy_(values)
    return names


@torch.no_grad()
def permute(
    model: PreTrainedModel,
    parts: Collection[Part],
    seed: int,
    stage: str,
    spare: Sequence[tuple[int, int]] = (),
) -> list[str]:
    """Permute the values of the parameters of `parts` within each of them, in place: their names.

    Every value stays to the bit, at a random place of its tensor, keyed by (seed, stage, name): the
    scale of the weights without their structure. All other parameters stay, and so do the half-open
    ranges `spare` of vocabulary rows of embedding and head, the rest of which is permuted as one. A
    tied embedding is permuted as an embedding. Raises ValueError for a spare range outside the
    vocabulary, before anything is changed.
    """
    _check_spare(model, spare)
    names = select_parameters(model, parts)
    tables = set(vocabulary_parameters(model))
    for name in names:
        parameter = model.get_parameter(name)
        values = parameter.detach().cpu().clone()
        moved = torch.ones(values.shape, dtype=torch.bool)
        for first, last in spare if name in tables else ():
            moved[first:last] = False
        found = values[moved]
        places = random_stream((seed, stage, name, "permuted")).permutation(len(found))
        values[moved] = found[torch.from_numpy(places)]
        parameter.copy_(values)
    return names


def _check_spare(model: PreTrainedModel, spare: Sequence[tuple[int, int]]) -> None:
    rows = int(model.config.vocab_size)
    for first, last in spare:
        if not 0 <= first < last <= rows:
            raise ValueError(
                f"spare rows {first} to {last} lie outside the {rows} rows of the model"
            )


def _draw(
    model: PreTrainedModel, name: str, initializer: Initializer, key: Sequence[int | str]
) -> Tensor:
    """New values of one parameter: float32, on the CPU."""
    if isinstance(initializer, tuple):
        return fresh_values(model, name, key, std=initializer[1])
    if initializer == "model" or is_norm(model, name):
        return fresh_values(model, name, key)
    shape = model.get_parameter(name).shape
    if name in parameter_groups(model)["embedding"]:
        return normal_values(shape, key, std=1.0)
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


class Freezer(Callback):
    """Keeps groups of parameters still, each for a number of batches from the stage's begin.

    Their gradients are computed, which keeps ranks in step, and dropped before they are clipped or
    used: optimizers pass over what has no gradient, weight decay and step count included. `model`
    is whole here, and may be sharded in place later.
    """

    def __init__(
        self, model: PreTrainedModel, frozen: Sequence[tuple[Group, int]], num_layers: int
    ) -> None:
        self.model = model
        until: dict[str, int] = {}
        for group, num_batches in frozen:
            for name in select_parameters(model, parts([group], num_layers)):
                until[name] = num_batches
        self.until = [until.get(name, 0) for name, _ in model.named_parameters()]

    def fit_start(self, state: State, logger: Logger) -> None:
        for optimizer in state.optimizers:  # a checkpoint holds the state of every parameter
            complete_state(optimizer)

    def after_backward(self, state: State, logger: Logger) -> None:
        batch = state.timestamp.batch.value
        for parameter, until in zip(self.model.parameters(), self.until, strict=True):
            if batch < until:
                parameter.grad = None
