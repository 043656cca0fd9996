"""Experts of which a batch may need none: each has a gradient, of zeros where no token came to it.

A model of experts passes tokens to few of them, and one that no token came to has no gradient. The
ranks of a run would then disagree about which gradients there are to sum: replicas wait for those
that never come, and shards mix up those of different parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def reach_experts(layers: nn.ModuleList) -> None:
    """Have every parameter of lists of modules within `layers` take part in the output of what they
    are parts of, by nothing."""
    for module in layers.modules():
        lists = [child for child in module.children() if isinstance(child, nn.ModuleList)]
        if lists and module is not layers:
            module.register_forward_hook(_reach)


def _reach(module: nn.Module, args: Any, output: Any) -> Any:
    """While they are whole, if ranks share them: they are then others than the layer's at rest."""
    if not torch.is_grad_enabled():
        return output
    lists = [child for child in module.children() if isinstance(child, nn.ModuleList)]
    parameters = [parameter for each in lists for parameter in each.parameters()]
    if isinstance(output, tuple):
        return _Reached.apply(output[0], *parameters), *output[1:]
    return _Reached.apply(output, *parameters)


class _Reached(torch.autograd.Function):
    """The output as it is; gradients of zeros for all else, which take no memory."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, *parameters: Tensor) -> Tensor:
        ctx.like = [(parameter.shape, parameter.new_zeros(())) for parameter in parameters]
        return output.view_as(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, ...]:
        return above[0], *(zero.expand(shape) for shape, zero in ctx.like)
