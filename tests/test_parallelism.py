"""Models spread over ranks and made smaller: the same gradients, under the same names."""

from __future__ import annotations

import os
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import free_port, output_of, started
from transformers import PreTrainedModel

from ncamix.errors import UserError
from ncamix.trainer import Trainer
from ncamix.training.loss import MASKED, ActiveIds
from ncamix.training.model import build_model
from ncamix.training.parallelism import check_compiler, microbatch, spread
from ncamix.training.state_files import check, read

ROWS, LENGTH = 24, 8


def trainer(**keys: Any) -> Trainer:
    model = {"layers": 2, "heads": 2, "width": 16, "tie_embeddings": True}
    return Trainer.model_validate(
        {
            "ncamix": 1,
            "name": "t",
            "model": model,
            "sequence_length": LENGTH,
            "batch_size": 4,
            "budget": "1ktok",
            "optimizer": {"lr": "1e-3"},
            **keys,
        }
    )


def model(made: Trainer) -> PreTrainedModel:
    return build_model(made.model, ROWS, LENGTH, 3)


def losses(found: PreTrainedModel, seed: int = 0) -> torch.Tensor:
    """The sum of losses over a batch that depends on the seed."""
    ids = torch.randint(ROWS, (2, LENGTH + 1), generator=torch.Generator().manual_seed(seed))
    targets = ids[:, 1:].clone()
    targets[0, :3] = MASKED
    total, _ = found(input_ids=ids[:, :-1], targets=targets, active=ActiveIds([(0, ROWS)]))
    return total


def gradients(found: PreTrainedModel, seed: int = 0) -> dict[str, torch.Tensor]:
    found.zero_grad()
    losses(found, seed).backward()
    return {name: p.grad.clone() for name, p in found.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("key", ["activation_checkpointing", "compile"])
def test_what_saves_memory_or_time_changes_no_gradient(key: str) -> None:
    plain = model(trainer())
    wanted, names = gradients(plain), list(plain.state_dict())
    made = trainer(**{key: True})
    found = model(made).train()
    spread(found, made, "fp32", "cpu")
    got = gradients(found)
    assert list(got) == list(wanted) and list(found.state_dict()) == names
    for name, value in got.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-6)


def test_later_stages_are_compiled_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """All sizes, modes and formats of a run are many; past a limit torch would compile no more."""
    stock, made = torch.compile, trainer(compile=True)
    monkeypatch.setattr(torch, "compile", lambda code: stock(code, backend="eager"))
    every = ActiveIds([(0, ROWS)])
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for precision, length in (("fp32", 8), ("bf16", 12), ("fp32", 16)):
            found = model(made)
            spread(found, made, precision, "cpu")
            for training, samples, packed in product((True, False), (4, 3, 1), (True, False)):
                ids = torch.ones(samples, length, dtype=torch.int64)
                segments = (torch.arange(length) // 5).expand(samples, -1) if packed else None
                with torch.set_grad_enabled(training):
                    found.train(training)(ids, targets=ids, active=every, segments=segments)


def test_bf16_multiplies_in_bf16_and_keeps_its_weights() -> None:
    made = trainer(precision="bf16")
    found, whole = model(made), model(made)
    spread(found, made, "bf16", "cpu")
    kinds = []
    found.model.layers[0].mlp.up_proj.register_forward_hook(
        lambda m, a, out: kinds.append(out.dtype)
    )
    total = losses(found)
    assert kinds == [torch.bfloat16] and total.dtype == torch.float32
    assert {p.dtype for p in found.parameters()} == {torch.float32}
    assert total.item() == pytest.approx(losses(whole).item(), rel=1e-2)
    assert total.item() != losses(whole).item()


def test_a_machine_without_a_compiler_is_told() -> None:
    from torch._inductor import config
    from torch._inductor.utils import fresh_inductor_cache

    missing = config.patch({"cpp.cxx": ("no-such-compiler",)})
    told = pytest.raises(UserError, match=r"(?s)torch.compile does not work.*compile: false")
    with fresh_inductor_cache(), missing, told:
        check_compiler("cpu")


def test_portions() -> None:
    assert microbatch(trainer(), 4, "gpu") == "auto"
    assert microbatch(trainer(), 4, "cpu") == 4
    assert microbatch(trainer(parallelism="fsdp"), 4, "gpu") == 4
    assert microbatch(trainer(microbatch=3), 4, "gpu") == 3
    assert microbatch(trainer(microbatch=9), 4, "cpu") == 4


RANK = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path

import torch
from composer.utils import dist
from torch.distributed.tensor import DTensor

dist.initialize_dist("cpu")
from test_parallelism import gradients, losses, model, trainer
from ncamix.training.parallelism import is_sharded, spread, whole
from ncamix.training.state_files import complete_folder, write_shards

rank, made = dist.get_global_rank(), trainer(parallelism="fsdp")
plain, found = model(made), model(made)
spread(found, made, "fp32", "cpu")
assert is_sharded(found) and not is_sharded(plain)
with torch.no_grad():
    assert abs(losses(found, rank) - losses(plain, rank)) < 1e-4
assert all(isinstance(p, DTensor) for p in found.parameters())
wanted = [gradients(plain, seed) for seed in range(2)]
for _ in range(2):
    got = gradients(found, rank)
    assert list(got) == list(wanted[0])
    for name, value in got.items():
        average = (wanted[0][name] + wanted[1][name]) / 2
        torch.testing.assert_close(whole(value), average, rtol=1e-4, atol=1e-6)
    assert all(isinstance(p, DTensor) for p in found.parameters())
made = trainer(parallelism="fsdp", precision="bf16", activation_checkpointing=True)
brief = model(made).train()
spread(brief, made, "bf16", "cpu")
for name, value in gradients(brief, rank).items():
    average = (wanted[0][name] + wanted[1][name]) / 2
    error = (whole(value) - average).norm() / average.norm()
    assert value.dtype == torch.float32 and error < 0.05, (name, error)
folder = Path({folder!r})
if rank == 0:
    folder.mkdir()
dist.barrier()
tree = {{"model": dict(found.named_parameters()), "moments": {{}}, "n": [1]}}
plain = write_shards(folder, tree)
if rank == 0:
    complete_folder(folder, plain)
dist.barrier()
"""


def test_two_ranks_have_the_average_of_their_gradients(tmp_path: Path) -> None:
    code = RANK.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "state"))
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [
        started(
            [sys.executable, "-c", code],
            tmp_path,
            {**os.environ, **common, **meeting, "RANK": str(i), "LOCAL_RANK": str(i)},
        )
        for i in range(2)
    ]
    for rank in ranks:
        output = output_of(rank)
        assert rank.returncode == 0, output
    check(tmp_path / "state")
    tree = read(tmp_path / "state", {})
    assert tree["n"] == [1] and len(list((tmp_path / "state").glob("*.distcp"))) == 2
    for name, value in model(trainer()).named_parameters():
        assert torch.equal(tree["model"][name], value)
