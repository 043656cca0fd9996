"""Muon and averages over a model that ranks share, beside the same model whole: run by torchrun.

Prints `same` when every weight, moment and average of four steps agrees to the bit, and a state
that was kept from the whole model goes on the same on the shared one.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from test_averaging import after
from test_optimizers import MUON, gradients, optimizer_of
from test_transitions import small
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from ncamix.optimizer import Averaging
from ncamix.training.averaging import Averages
from ncamix.training.optimizers import keep_state, set_rate


def train(model: PreTrainedModel, first: int, averages: Averages, kept: dict | None) -> dict:
    """Two steps on gradients that a number says; the optimizer's state by name, whole."""
    optimizer = optimizer_of(model, **MUON)
    if kept is not None:
        keep_state(optimizer, dict(model.named_parameters()), kept, {"lm_head.weight": [(0, 7)]})
    for t in range(first, first + 2):
        for parameter, value in zip(model.parameters(), gradients(model, t), strict=True):
            parameter.grad = (
                distribute_tensor(value, parameter.device_mesh, parameter.placements)
                if isinstance(parameter, DTensor)
                else value
            )
        set_rate(optimizer, 0.05)
        optimizer.step()
        averages.add()
    state = {n: optimizer.state[p] for n, p in model.named_parameters()}
    return {n: {k: whole(v) for k, v in known.items()} for n, known in state.items()}


def whole(value: torch.Tensor) -> torch.Tensor:
    return (value.full_tensor() if isinstance(value, DTensor) else value).clone()


def main() -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    plain, shared = small(rows=61), small(rows=61)  # an odd number of rows to share
    for layer in shared.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(shared, mesh=mesh)
    how = Averaging.model_validate({"last": "5ba"})
    averages = [Averages(model, how, 0) for model in (plain, shared)]
    kept = None
    for first in (0, 2):
        states = [
            train(model, first, average, kept)
            for model, average in zip((plain, shared), averages, strict=True)
        ]
        kept = states[0]
        pairs = [(s[n][k], states[1][n][k]) for s in states[:1] for n in s for k in s[n]]
        assert all(torch.equal(one, other) for one, other in pairs)
    again = Averages(shared, how, 0)
    again.load_state_dict(averages[1].state_dict())
    again.fit_start(after(4), None)  # type: ignore[arg-type]
    for average in (*averages, again):
        assert average.number == 4
        for name, value in average.state_dict()["values"].items():
            assert torch.equal(value, averages[0].state_dict()["values"][name]), name
    with again.in_place():
        inside = [whole(parameter) for parameter in shared.parameters()]
    values = averages[0].state_dict()["values"].values()
    assert all(torch.equal(one, other) for one, other in zip(inside, values, strict=True))
    for (name, one), other in zip(plain.named_parameters(), shared.parameters(), strict=True):
        assert torch.equal(one, whole(other)), name
    if dist.get_rank() == 0:
        print("same", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
