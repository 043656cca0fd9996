"""Optimizers over a model: what they do to weights, beside plain twins, and states that go on."""

from __future__ import annotations

import copy
import json
import os
import sys
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from processes import free_port, output_of, started
from test_transitions import small
from torch import Tensor
from transformers import PreTrainedModel

from ncamix.optimizer import Optimizer
from ncamix.training.model import parameter_groups
from ncamix.training.optimizers import complete_state, keep_state, make_optimizer, set_rate

Array = NDArray[np.float32]
MUON = {
    "kind": "muon",
    "momentum": 0.9,
    "adam_ratio": 0.5,
    "weight_decay": 0.1,
    "betas": [0.8, 0.9],
}
RATE = 0.05


def optimizer_of(model: PreTrainedModel, **keys: Any) -> torch.optim.Optimizer:
    """A stage's optimizer of these keys, over all of a model."""
    written = {key: _exact(value) for key, value in keys.items()}
    stage = SimpleNamespace(optimizer=Optimizer.model_validate(written))
    wrapped = SimpleNamespace(model=model, parameters=model.parameters)
    return make_optimizer(wrapped, stage)  # type: ignore[arg-type]


def _exact(value: Any) -> Any:
    """A number as YAML is read."""
    if isinstance(value, list):
        return [_exact(item) for item in value]
    return Decimal(str(value)) if isinstance(value, float) else value


def gradients(model: PreTrainedModel, seed: int) -> list[Tensor]:
    stream = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=stream) for p in model.parameters()]


def step(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    seed: int,
    without: set[str] | None = None,
) -> dict[str, Tensor]:
    """One step on gradients that a number says, of some parameters none; the weights after it."""
    for (name, parameter), value in zip(
        model.named_parameters(), gradients(model, seed), strict=True
    ):
        parameter.grad = None if without and name in without else value
    set_rate(optimizer, RATE)
    optimizer.step()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def weights(model: PreTrainedModel) -> dict[str, Array]:
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def hidden(model: PreTrainedModel) -> list[str]:
    groups = parameter_groups(model)
    return [*groups["attention"], *groups["mlp"]]


def orthogonal(update: Array) -> Array:
    """Newton and Schulz's iteration as Keller Jordan wrote it down, in float32."""
    x = update if update.shape[0] <= update.shape[1] else update.T
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if update.shape[0] <= update.shape[1] else x.T


def test_muon_is_keller_jordans() -> None:
    model = small()
    optimizer, now = optimizer_of(model, **MUON), weights(model)
    buffers = {name: np.zeros_like(now[name]) for name in hidden(model)}
    for t in range(3):
        given = dict(zip(now, gradients(model, t), strict=True))
        step(model, optimizer, t)
        for name in hidden(model):
            g = given[name].numpy()
            buffers[name] = 0.9 * buffers[name] + 0.1 * g
            turned = orthogonal(0.1 * g + 0.9 * buffers[name])
            turned *= max(1, g.shape[0] / g.shape[1]) ** 0.5
            now[name] = now[name] * (1 - RATE * 0.1) - RATE * turned
            found = weights(model)[name]
            # the library iterates in bfloat16, as the reference does: three digits
            assert np.abs(found - now[name]).max() < 0.03 * RATE * np.abs(turned).max() * (t + 2)
            now[name] = found


def test_what_muon_leaves_is_adamws() -> None:
    model, plain = small(), small()
    optimizer = optimizer_of(model, **MUON)
    groups = [
        {"params": [p for p in plain.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in plain.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.5 * RATE, betas=(0.8, 0.9))
    for t in range(3):
        found = step(model, optimizer, t)
        for parameter, value in zip(plain.parameters(), gradients(plain, t), strict=True):
            parameter.grad = value
        adamw.step()
    for name, parameter in plain.named_parameters():
        assert torch.equal(found[name], parameter) == (name not in hidden(model)), name


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_adam_beside_its_twin(kind: str) -> None:
    model = small()
    optimizer = optimizer_of(model, kind=kind, weight_decay=0.1, betas=[0.8, 0.9], eps=1e-6)
    now = {name: w.astype(np.float64) for name, w in weights(model).items()}
    first = {name: np.zeros_like(w) for name, w in now.items()}
    second = {name: np.zeros_like(w) for name, w in now.items()}
    for t in range(1, 4):
        given = dict(zip(now, gradients(model, t), strict=True))
        step(model, optimizer, t)
        for name, w in now.items():
            g = given[name].double().numpy()
            decay = 0.1 if w.ndim > 1 else 0.0
            if kind == "adam":
                g = g + decay * w  # torch's Adam adds L2 to the gradient
            else:
                w *= 1 - RATE * decay
            first[name] = 0.8 * first[name] + 0.2 * g
            second[name] = 0.9 * second[name] + 0.1 * g**2
            root = np.sqrt(second[name] / (1 - 0.9**t)) + 1e-6
            w -= RATE * first[name] / (1 - 0.8**t) / root
    for name, w in weights(model).items():
        np.testing.assert_allclose(w, now[name], rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("keys", [MUON, {"kind": "adamw", "weight_decay": 0.1}])
def test_what_has_no_gradient_rests_and_then_begins(keys: dict[str, Any]) -> None:
    model, other = small(), small()
    optimizer, before = optimizer_of(model, **keys), weights(model)
    complete_state(optimizer)
    still = {"model.embed_tokens.weight", "model.norm.weight", hidden(model)[0]}
    for t in range(3):
        step(model, optimizer, t, without=still)
    for name, value in weights(model).items():
        assert (value == before[name]).all() == (name in still)
    thawed = step(model, optimizer, 9)
    fresh = step(other, optimizer_of(other, **keys), 9)
    for name in still:
        assert torch.equal(thawed[name], fresh[name]), "as in the first step of a stage"


@pytest.mark.parametrize("keys", [MUON, {"kind": "adamw"}, {"kind": "adam"}])
def test_a_state_that_goes_on(keys: dict[str, Any]) -> None:
    model = small()
    optimizer = optimizer_of(model, **keys)
    for t in range(3):
        step(model, optimizer, t)
    names = {id(p): name for name, p in model.named_parameters()}
    known = {names[id(p)]: dict(state) for p, state in optimizer.state.items()}
    table, drawn = "model.embed_tokens.weight", hidden(model)[0]
    other = small()
    later = optimizer_of(other, **keys)
    parameters = dict(other.named_parameters())
    keep_state(later, parameters, known, {table: [(0, 7), (50, 60)], drawn: []})
    for name, parameter in parameters.items():
        for key, value in later.state[parameter].items():
            wanted = known[name][key]
            if name == drawn or (name == table and key == "step"):
                wanted = torch.zeros_like(wanted)
            elif name == table:
                assert wanted[7:50].abs().min() > 0
                wanted = wanted.clone()
                wanted[7:50] = 0
            assert torch.equal(value, wanted), (name, key)
            assert value.data_ptr() != known[name][key].data_ptr()


def test_muons_settings_may_go_through_json() -> None:
    models = small(), small()
    optimizers = [optimizer_of(model, **MUON) for model in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        step(model, optimizer, 0)
    known = copy.deepcopy(optimizers[0].state_dict())
    groups = json.loads(json.dumps(known["param_groups"]))
    optimizers[1].load_state_dict({"state": known["state"], "param_groups": groups})
    one, other = (step(model, o, 1) for model, o in zip(models, optimizers, strict=True))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_muon_and_averages_of_a_model_that_ranks_share() -> None:
    file = Path(__file__).with_name("sharded_optimizer.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [*launch, "--master-port", free_port(), str(file)]
    path = os.pathsep.join([str(file.parent), str(file.parent.parent)])
    process = started(
        command, file.parent, {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    )
    output = output_of(process)
    assert process.returncode == 0 and "same" in output.split(), output
