"""Gradients, measured by group and clipped in one pass, between backward pass and step.

    gradients, whole or sharded over ranks -> sums of squares by group [groups] -> norms, by group
                                           -> norm of all -> one factor for every gradient

A norm is that of the whole global batch's gradient, summed over layers, before clipping: the same
number under replicas, where every rank holds all of it, and under shards, whose parts are summed
over ranks. What has no gradient (a frozen group, a tied head) has no norm. Nothing here waits for
the device: sums stay there until somebody reads them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import torch
from composer.utils import dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from ncamix.training.architectures import parameter_groups
from ncamix.training.model import CurriculumModel

# What wrappers put into the names of parameters: replicas, compiled and recomputed modules.
_WRAPPERS = re.compile(r"(^|(?<=\.))(module|_orig_mod|_checkpoint_wrapped_module)\.")
_TINY = 1e-6  # beside the norm that a gradient is divided by, as in torch's own clipping


class Gradients:
    """The gradients of a model. `clip`: the norm of all of them to which they are cut, if any.

    Made while the model is whole: it may be wrapped, and sharded in place, before it is measured.
    `groups`: those that had a gradient last time; `squares`: their sums of squares, float64
    [groups], on the model's device.
    """

    def __init__(self, model: CurriculumModel, clip: float | None) -> None:
        self.model, self.clip = model, clip
        named = parameter_groups(model.model)
        self._group_of = {name: group for group, names in named.items() for name in names}
        self._order = list(named)
        self._parameters: list[tuple[str, torch.nn.Parameter]] = []
        self._measured: list[bool] = []  # which parameters had a gradient
        self._sums = torch.zeros(0, 0, dtype=torch.float64)  # [groups, gradients]
        self._sharded = False
        self.groups: list[str] = []
        self.squares = torch.zeros(0, dtype=torch.float64)

    @torch.no_grad()
    def measure(self) -> None:
        """Take the sums of squares, and clip."""
        if not self._parameters:
            self._parameters = [
                (self._group_of[_WRAPPERS.sub("", name)], parameter)
                for name, parameter in self.model.model.named_parameters()
            ]
        held = [parameter.grad for _, parameter in self._parameters]
        present = [gradient is not None for gradient in held]
        gradients = [gradient for gradient in held if gradient is not None]
        if present != self._measured:
            self._lay_out(present, gradients)
        if not gradients:
            return
        local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
        norms = torch.stack(torch._foreach_norm(local, 2, dtype=torch.float32))
        # A product and no scattered sum: its order is the same every time, on every device.
        self.squares = self._sums @ norms.double().square()
        if self._sharded:
            dist.all_reduce(self.squares)
        if self.clip is not None:
            factor = (self.clip / (self.squares.sum().sqrt() + _TINY)).clamp(max=1.0).float()
            torch._foreach_mul_(local, factor)

    def _lay_out(self, present: list[bool], gradients: Sequence[Tensor]) -> None:
        """Which gradients are summed into which group, and for how much of each this rank stands:
        all of it, or where ranks share, one over the ranks that hold the same part."""
        names = [group for (group, _), some in zip(self._parameters, present, strict=True) if some]
        self._measured = present
        self.groups = [group for group in self._order if group in names]
        self._sharded = any(_shards(g) > 1 for g in gradients)
        device = self._parameters[0][1].device
        ranks = dist.get_world_size() if self._sharded else 1
        sums = torch.zeros(len(self.groups), len(names), dtype=torch.float64)
        for i, (group, gradient) in enumerate(zip(names, gradients, strict=True)):
            sums[self.groups.index(group), i] = _shards(gradient) / ranks
        self._sums = sums.to(device)
        self.squares = torch.zeros(len(self.groups), dtype=torch.float64, device=device)


def norms_of(squares: Sequence[float]) -> list[float | None]:
    """Norms from sums of squares, None where one is no finite number (fp16 that overflowed)."""
    return [math.sqrt(s) if math.isfinite(s) else None for s in squares]


def _shards(gradient: Tensor) -> int:
    """Parts that a gradient is split into over ranks."""
    if not isinstance(gradient, DTensor):
        return 1
    mesh = gradient.device_mesh
    split = (mesh.size(i) for i, at in enumerate(gradient.placements) if at.is_shard())
    return math.prod(split)
