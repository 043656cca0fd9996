"""What a stage draws anew, and what it leaves alone."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ncamix.entry import Enter
from ncamix.groups import Group, Part, all_parts, parts
from ncamix.training.model import build_llama, parameter_groups
from ncamix.training.transitions import (
    Freezer,
    permute,
    reinitialize,
    select_parameters,
    vocabulary_parameters,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def small(tied: bool = False, rows: int = 60) -> PreTrainedModel:
    spec = SimpleNamespace(
        layers=3,
        heads=2,
        kv_heads=None,
        width=32,
        mlp_width=None,
        rope_theta=1e4,
        tie_embeddings=tied,
        attention="sdpa",
        dropout=0.0,
    )
    model = build_llama(spec, rows, sequence_length=16, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)  # as if trained: norms differ from one too
    return model


def of(*groups: str) -> set[Part]:
    """The parts of the small model that whole groups mean."""
    return parts(map(Group, groups), 3)


def values(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("initializer", ["model", "torch", ("normal", 0.3)])
@pytest.mark.parametrize(
    "groups",
    [["embedding"], ["head"], ["embeddings"], ["attention", "mlp"], ["norms"], ["final_norm"], []],
)
def test_only_the_named_groups_change(
    groups: list[str], initializer: str | tuple[str, float], tied: bool
) -> None:
    model = small(tied)
    before, members = values(model), parameter_groups(model)
    expected = {
        name
        for group in groups
        for part in (["embedding", "head"] if group == "embeddings" else [group])
        for name in members[part]
    }
    names = reinitialize(model, of(*groups), initializer, seed=5, stage="code")
    assert set(names) == expected and len(names) == len(expected)
    for name, value in values(model).items():
        assert torch.equal(value, before[name]) == (name not in expected)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_draws_are_keyed_by_seed_stage_and_name() -> None:
    drawn = {}
    for key, (seed, stage, groups) in {
        "first": (5, "code", ["attention"]),
        "again": (5, "code", ["mlp", "attention", "norms"]),
        "seed": (6, "code", ["attention"]),
        "stage": (5, "math", ["attention"]),
    }.items():
        model = small()
        reinitialize(model, of(*groups), "model", seed, stage)
        drawn[key] = model.model.layers[1].self_attn.q_proj.weight
    assert torch.equal(drawn["first"], drawn["again"])
    assert not torch.equal(drawn["first"], drawn["seed"])
    assert not torch.equal(drawn["first"], drawn["stage"])


def test_model_initializer() -> None:
    model = small()
    reinitialize(model, of("embeddings", "mlp", "norms", "final_norm"), "model", 1, "s")
    assert (model.model.norm.weight == 1).all()
    assert (model.model.layers[2].input_layernorm.weight == 1).all()
    for weight in (model.lm_head.weight, model.model.layers[0].mlp.up_proj.weight):
        assert 0.018 < weight.std() < 0.022


def test_normal_initializer() -> None:
    model = small()
    reinitialize(model, of("head", "norms"), ("normal", 0.5), 1, "s")
    assert 0.45 < model.lm_head.weight.std() < 0.55
    assert (model.model.layers[0].input_layernorm.weight == 1).all()


@pytest.mark.parametrize("tied", [True, False])
def test_torch_initializer(tied: bool) -> None:
    model = small(tied)
    reinitialize(model, of("embeddings", "attention", "final_norm"), "torch", 1, "s")
    assert 0.9 < model.model.embed_tokens.weight.std() < 1.1
    assert (model.model.norm.weight == 1).all()
    weights = [model.model.layers[0].self_attn.o_proj.weight]
    weights += [] if tied else [model.lm_head.weight]
    for weight in weights:
        bound = 1 / math.sqrt(32)
        assert bound * 0.98 < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.06)


@pytest.mark.parametrize("tied", [True, False])
def test_spared_rows_keep_every_bit(tied: bool) -> None:
    model, free = small(tied), small(tied)
    before = values(model)
    names = reinitialize(model, of("embeddings", "mlp"), "model", 5, "s", spare=[(0, 7), (50, 60)])
    reinitialize(free, of("embeddings", "mlp"), "model", 5, "s")
    drawn = values(free)
    for name, value in values(model).items():
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            assert torch.equal(value[:7], before[name][:7])
            assert torch.equal(value[50:], before[name][50:])
            assert torch.equal(value[7:50], drawn[name][7:50])
        elif name in names:
            assert torch.equal(value, drawn[name])


def test_type_of_the_parameter_is_kept() -> None:
    model, full = small(), small()
    model.bfloat16()
    reinitialize(model, of("head"), "model", 5, "s")
    reinitialize(full, of("head"), "model", 5, "s")
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(model.lm_head.weight, full.lm_head.weight.bfloat16())


def test_layers_of_a_group() -> None:
    model = small()
    groups = [Group("norms", (1, 2)), Group("attention", (0, 0)), Group("head")]
    names = select_parameters(model, parts(groups, 3))
    assert {name.rsplit(".", 2)[0] for name in names} == {
        "model.layers.0.self_attn",
        "model.layers.1",
        "model.layers.2",
        "lm_head",
    }
    assert len(names) == 4 + 4 + 1
    assert select_parameters(model, all_parts(3)) == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize("tied", [True, False])
def test_keeping_some_draws_all_others(tied: bool) -> None:
    model = small(tied)
    before = values(model)
    enter = Enter.model_validate({"keep_only": [{"attention": "0..1"}, "final_norm", "head"]})
    redrawn = reinitialize(model, enter.redrawn(3), "model", 5, "s")
    kept = {name for name in before if name not in redrawn}
    assert len(kept) == 2 * 4 + 1 + (not tied)
    for name, value in values(model).items():
        assert torch.equal(value, before[name]) == (name in kept)


def test_other_mistakes_change_nothing() -> None:
    model = small()
    before = values(model)
    for bad in ("xavier", ("normal", 0.0), ("normal", math.nan), ("uniform", 1.0)):
        with pytest.raises(ValueError, match="initializer"):
            reinitialize(model, of("mlp"), bad, 1, "s")
    with pytest.raises(ValueError, match="spare rows 50 to 61"):
        reinitialize(model, of("embeddings"), "model", 1, "s", spare=[(50, 61)])
    assert all(torch.equal(value, before[name]) for name, value in values(model).items())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("spare", [(), ((0, 7), (50, 60))])
def test_permuted_values_keep_every_bit_and_no_place(
    tied: bool, spare: tuple[tuple[int, int], ...]
) -> None:
    model = small(tied)
    before, chosen = values(model), of("embeddings", "attention") | {("mlp", 1)}
    names = permute(model, chosen, 5, "s", spare)
    assert names == select_parameters(model, chosen) and len(names) == 1 + (not tied) + 3 * 4 + 3
    for name, value in values(model).items():
        was = before[name]
        assert torch.equal(value.flatten().sort().values, was.flatten().sort().values)
        if name not in names:
            assert torch.equal(value, was)
            continue
        kept = torch.zeros(value.shape, dtype=torch.bool)
        for first, last in spare if name in vocabulary_parameters(model) else ():
            kept[first:last] = True
        assert torch.equal(value[kept], was[kept])
        assert (value == was)[~kept].float().mean() < 0.02  # chance leaves one in place
        assert abs(torch.corrcoef(torch.stack([value[~kept], was[~kept]]))[0, 1]) < 0.2
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_places_are_keyed_by_seed_stage_and_name() -> None:
    found = {}
    for key, (seed, stage, groups) in {
        "first": (5, "code", ["attention"]),
        "again": (5, "code", ["mlp", "attention", "norms"]),
        "seed": (6, "code", ["attention"]),
        "stage": (5, "math", ["attention"]),
    }.items():
        model = small()
        projections = model.model.layers[1].self_attn
        with torch.no_grad():
            projections.k_proj.weight.copy_(projections.q_proj.weight)
        permute(model, of(*groups), seed, stage)
        found[key] = projections.q_proj.weight
        assert not torch.equal(found[key], projections.k_proj.weight)
    assert torch.equal(found["first"], found["again"])
    assert not torch.equal(found["first"], found["seed"])
    assert not torch.equal(found["first"], found["stage"])


def test_numbers_of_any_kind_are_permuted() -> None:
    model = small()
    model.bfloat16()
    with torch.no_grad():
        model.lm_head.weight[0, :4] = torch.tensor([math.nan, math.inf, -0.0, 1e-40])
    before = model.lm_head.weight.detach().view(torch.int16).flatten().sort().values.clone()
    permute(model, of("head"), 5, "s")
    after = model.lm_head.weight.detach().view(torch.int16).flatten().sort().values
    assert model.lm_head.weight.dtype == torch.bfloat16 and torch.equal(after, before)
    one = values(model)
    with pytest.raises(ValueError, match="spare rows 50 to 61"):
        permute(model, of("mlp", "head"), 1, "s", spare=[(50, 61)])
    assert all(torch.equal(v, one[n]) for n, v in values(model).items() if n != "lm_head.weight")


def test_tables_are_the_parameters_with_a_row_for_every_id() -> None:
    head = ["model.embed_tokens.weight", "lm_head.weight"]
    assert vocabulary_parameters(small()) == head
    assert vocabulary_parameters(small(tied=True)) == head[:1]


@pytest.mark.parametrize("tied", [True, False])
def test_frozen_groups_have_no_gradient_until_they_thaw(tied: bool) -> None:
    model = small(tied)
    frozen = [(Group("attention"), 3), (Group("mlp", (1, 1)), 5), (Group("head"), 2)]
    freezer, groups = Freezer(model, frozen, 3), parameter_groups(model)
    until = dict.fromkeys(groups["attention"], 3) | dict.fromkeys(groups["head"], 2)
    until |= {name: 5 for name in groups["mlp"] if ".layers.1." in name}
    for batch in range(6):
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        state = SimpleNamespace(timestamp=SimpleNamespace(batch=SimpleNamespace(value=batch)))
        freezer.after_backward(state, None)  # type: ignore[arg-type]
        still = {name for name, parameter in model.named_parameters() if parameter.grad is None}
        assert still == {name for name, end in until.items() if batch < end}
