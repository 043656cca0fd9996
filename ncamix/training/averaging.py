"""The average of the weights that a stage passes through, which it hands over.

    weights after a batch -> average, float32 -> state of a checkpoint, whole, by name
    stage's end -> in place of the weights: evaluated, written down, put back

Composer's EMA and SWA do not serve: EMA begins with the weights before the first batch, and gathers
the whole model to work on it, SWA counts epochs and warns that it cannot be resumed. What is added
here is torch's own arithmetic of `swa_utils`, on the part of each weight that a rank holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from ncamix.optimizer import Averaging


class Averages(Callback):
    """Averages the parameters of `model` after every batch from `first` (from 0) on.

    How: {ema: d} is d of the average and 1 - d of the weights, beginning with the first weights
    themselves; {last: ...} is the plain mean. model: whole or about to be sharded in place.
    """

    def __init__(self, model: torch.nn.Module, how: Averaging, first: int) -> None:
        self.model, self.first = model, first
        self.names = [name for name, _ in model.named_parameters()]
        self.number = 0  # of weights in the average
        self._values: list[Tensor] = []  # in the order of names, this rank's part of each
        self._loaded: Sequence[Tensor] = ()  # whole
        self._add = (
            get_ema_multi_avg_fn(float(how.ema)) if how.ema is not None else get_swa_multi_avg_fn()
        )

    def fit_start(self, state: State, logger: Logger) -> None:
        if state.timestamp.batch.value <= self.first:  # the stage has become longer since
            self.number, self._loaded = 0, ()
        if self._loaded:
            pairs = zip(self._loaded, self.model.parameters(), strict=True)
            self._values = [_part(whole, parameter) for whole, parameter in pairs]
            self._loaded = ()

    def batch_end(self, state: State, logger: Logger) -> None:
        if state.timestamp.batch.value > self.first:
            self.add()

    @torch.no_grad()
    def add(self) -> None:
        """Take the weights as they are now into the average."""
        now = [_local(parameter).float() for parameter in self.model.parameters()]
        if not self.number:
            self._values = [value.clone() for value in now]
        else:
            self._add(self._values, now, self.number)  # type: ignore[arg-type]
        self.number += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block, the model has the averaged weights, if there are any by now."""
        if not self.number:
            yield
            return
        parts = [_local(parameter) for parameter in self.model.parameters()]
        with torch.no_grad():
            saved = [part.clone() for part in parts]
            torch._foreach_copy_(parts, self._values)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(parts, saved)

    def state_dict(self) -> dict[str, Any]:
        pairs = zip(self._values, self.model.parameters(), strict=False)
        whole = [_whole(value, parameter) for value, parameter in pairs]
        return {"number": self.number, "values": dict(zip(self.names, whole, strict=False))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = int(state["number"])
        self._loaded = [state["values"][name] for name in self.names] if self.number else ()


def _local(parameter: Tensor) -> Tensor:
    """The part of a parameter that this rank holds."""
    value = parameter.detach()
    return value.to_local() if isinstance(value, DTensor) else value


def _part(whole: Tensor, parameter: Tensor) -> Tensor:
    """This rank's part of a whole value, in memory of its own: what was loaded may be a file's."""
    value = whole.to(parameter.device, torch.float32)
    if isinstance(parameter, DTensor):
        value = distribute_tensor(value, parameter.device_mesh, parameter.placements).to_local()
    return value.clone()


def _whole(value: Tensor, parameter: Tensor) -> Tensor:
    """A value of which each rank holds a part, on the CPU."""
    if isinstance(parameter, DTensor):
        sharded = DTensor.from_local(
            value,
            parameter.device_mesh,
            parameter.placements,
            shape=parameter.shape,
            stride=parameter.stride(),
        )
        value = sharded.full_tensor()
    return value.detach().cpu().clone()
