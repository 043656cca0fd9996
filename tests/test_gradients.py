"""Gradients: norms by group as autograd has them, clipped as torch clips, whole or sharded."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from processes import free_port, output_of, started
from test_model import small

from ncamix.training.architectures import parameter_groups
from ncamix.training.gradients import Gradients, norms_of
from ncamix.training.model import CurriculumModel


def trained(rows: int = 40) -> CurriculumModel:
    """A model with gradients of a random batch."""
    model = CurriculumModel(small(rows=rows))
    ids = torch.randint(0, rows, (4, 17), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids[:, :-1], "labels": ids[:, 1:], "source": torch.zeros(4).long()}
    model(batch)["loss"].backward()
    return model


def expected(model: CurriculumModel) -> dict[str, float]:
    found = {}
    for group, names in parameter_groups(model.model).items():
        held = [model.model.get_parameter(name).grad for name in names]
        flat = [g.flatten() for g in held if g is not None]
        if flat:
            found[group] = torch.cat(flat).norm().item()
    return found


def measured(gradients: Gradients) -> dict[str, float | None]:
    return dict(zip(gradients.groups, norms_of(gradients.squares.tolist()), strict=True))


@pytest.mark.parametrize("clip", [None, 1e-3, 1e3])
def test_norms_are_those_before_clipping_and_torch_clips_the_same(clip: float | None) -> None:
    model, twin = trained(), trained()
    wanted = expected(model)
    gradients = Gradients(model, clip)
    gradients.measure()
    assert measured(gradients) == pytest.approx(wanted, rel=1e-5)
    assert {"embedding", "attention", "mlp", "norms", "final_norm"} <= wanted.keys()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(twin.parameters(), clip)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-12)


def test_what_has_no_gradient_has_no_norm_and_thaws() -> None:
    model = trained()
    gradients = Gradients(model, None)
    held = {}
    for name in parameter_groups(model.model)["attention"]:
        parameter = model.model.get_parameter(name)
        held[name], parameter.grad = parameter.grad, None
    gradients.measure()
    assert measured(gradients) == pytest.approx(expected(model), rel=1e-5)
    assert "attention" not in gradients.groups
    for name, gradient in held.items():
        model.model.get_parameter(name).grad = gradient
    gradients.measure()
    assert measured(gradients) == pytest.approx(expected(model), rel=1e-5)
    model.zero_grad()
    gradients.measure()
    assert measured(gradients) == {}


def test_without_any_gradient_the_sums_lie_on_the_device() -> None:
    """Where all groups are frozen; they are read together with what does lie there."""
    model = CurriculumModel(small()).to("meta")
    gradients = Gradients(model, 1.0)
    gradients.measure()
    assert gradients.squares.device.type == "meta" and gradients.squares.shape == (0,)


def test_a_norm_that_is_no_number_is_none() -> None:
    assert norms_of([4.0, float("inf"), float("nan")]) == [2.0, None, None]


SHARDED = """
import sys
import torch
from composer.utils import dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor

sys.path.insert(0, {tests!r})
from test_gradients import expected, measured, trained
from ncamix.training.gradients import Gradients

dist.initialize_dist("cpu", timeout=200.0)
whole = trained()
wanted = expected(whole)
model = trained()
values = {{n: p.grad for n, p in model.model.named_parameters()}}
gradients = Gradients(model, 1e-3)
for layer in model.model.model.layers:
    fully_shard(layer)
fully_shard(model.model)
for name, parameter in model.model.named_parameters():
    parameter.grad = distribute_tensor(values[name], parameter.device_mesh, parameter.placements)
gradients.measure()
found = measured(gradients)
assert found.keys() == wanted.keys()
for group, norm in wanted.items():
    assert abs(found[group] - norm) < 1e-5 * norm, (group, found[group], norm)
torch.nn.utils.clip_grad_norm_(whole.parameters(), 1e-3)
for name, parameter in model.model.named_parameters():
    torch.testing.assert_close(
        parameter.grad.full_tensor(), whole.model.get_parameter(name).grad, rtol=1e-5, atol=1e-12
    )
print("sharded alike")
"""


def test_shards_have_the_norms_of_the_whole(tmp_path: Path) -> None:
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED.format(tests=str(Path(__file__).parent)))
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "NODE_RANK": "0"}
    group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    ranks = [
        started(
            [sys.executable, str(script)],
            tmp_path,
            {**os.environ, **group, "RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in "01"
    ]
    for process in ranks:
        output = output_of(process)
        assert process.returncode == 0 and "sharded alike" in output, output
