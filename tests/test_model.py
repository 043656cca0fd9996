"""Models, their initial values, and the Composer wrapper."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from composer import DataSpec, Trainer
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ncamix.groups import GROUPS
from ncamix.training.architectures import attention_mask
from ncamix.training.loss import MASKED, ActiveIds
from ncamix.training.model import (
    CurriculumModel,
    build_llama,
    normal_values,
    parameter_groups,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def spec(**changes: Any) -> Any:
    plain = {
        "layers": 2,
        "heads": 2,
        "kv_heads": None,
        "width": 16,
        "mlp_width": None,
        "rope_theta": 1e4,
        "tie_embeddings": True,
        "attention": "sdpa",
        "dropout": 0.0,
    }
    return SimpleNamespace(**(plain | changes))


def small(rows: int = 50, seed: int = 1, **changes: Any) -> PreTrainedModel:
    return build_llama(spec(**changes), rows, sequence_length=12, seed=seed)


def make_batch(size: int = 4, length: int = 12, first: int = 0, last: int = 50) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(first, last, (size, length + 1), generator=generator)
    labels = tokens[:, 1:].clone()
    labels[0, :5] = MASKED
    source = torch.arange(size) % 2
    return {"input_ids": tokens[:, :-1], "labels": labels, "source": source}


def test_built_as_asked() -> None:
    model = small(kv_heads=1, tie_embeddings=False)
    assert model.config.intermediate_size == 64 and model.config.rope_theta == 1e4
    assert model.model.layers[0].self_attn.k_proj.weight.shape == (8, 16)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert not any("bias" in name for name, _ in model.named_parameters())
    tied = small()
    assert tied.lm_head.weight is tied.model.embed_tokens.weight


def test_widths_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="width 16"):
        small(heads=3)
    with pytest.raises(ValueError, match="kv_heads 3"):
        small(heads=4, kv_heads=3)


def test_initial_values_are_keyed_by_name() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    model = small(width=64, heads=4)
    assert torch.equal(before, torch.get_rng_state()), "the global generator is not touched"
    values = dict(model.named_parameters())
    for name, value in values.items():
        if "norm" in name:
            assert (value == 1).all()
        else:
            assert 0.017 < value.std() < 0.023 and value.mean().abs() < 0.003
    assert not torch.equal(
        values["model.layers.0.self_attn.q_proj.weight"],
        values["model.layers.1.self_attn.q_proj.weight"],
    )

    # Other shapes and layers elsewhere change nothing, and more rows keep the first ones.
    other = dict(small(rows=80, width=64, heads=4, mlp_width=32, layers=3).named_parameters())
    name = "model.layers.1.self_attn.v_proj.weight"
    assert torch.equal(values[name], other[name])
    assert torch.equal(values["model.embed_tokens.weight"], other["model.embed_tokens.weight"][:50])
    reseeded = dict(small(seed=2, width=64, heads=4).named_parameters())
    assert not torch.equal(values[name], reseeded[name])


def test_initial_values_never_change() -> None:
    values = normal_values((2, 2), (17, "init", "lm_head.weight"))
    pinned = [
        [-0.0024821702390909195, -0.017620759084820747],
        [0.02171676605939865, -0.02066624164581299],
    ]
    assert values.tolist() == pinned


@pytest.mark.parametrize("tied", [True, False])
def test_groups_partition_all_parameters(tied: bool) -> None:
    model = small(tie_embeddings=tied)
    groups = parameter_groups(model)
    assert tuple(groups) == GROUPS
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert {group: len(members) for group, members in groups.items()} == {
        "embedding": 1,
        "head": 0 if tied else 1,
        "attention": 8,
        "mlp": 6,
        "norms": 4,
        "final_norm": 1,
    }


def test_unknown_parameter_fits_no_group() -> None:
    model = small()
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"extra\.weight"):
        parameter_groups(model)


@pytest.mark.parametrize("tied", [True, False])
def test_loss_equals_full_logits(tied: bool) -> None:
    model = small(tie_embeddings=tied)
    wrapped = CurriculumModel(model)
    wrapped.loss_scale = 0.1
    batch = make_batch()
    outputs = wrapped(batch)
    loss = wrapped.loss(outputs, batch)
    logits = model(input_ids=batch["input_ids"]).logits
    expected = cross_entropy(logits.transpose(1, 2), batch["labels"], reduction="none")
    torch.testing.assert_close(outputs["losses"], expected.detach())
    torch.testing.assert_close(loss, 0.1 * expected.sum())
    parameters = list(model.parameters())
    found = torch.autograd.grad(loss, parameters)
    wanted = torch.autograd.grad(0.1 * expected.sum(), parameters)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def packed() -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Documents of 5, 4 and 3 ids, one sample of them, and its segments."""
    documents = list(make_batch(1)["input_ids"][0].split([5, 4, 3]))
    segments = torch.repeat_interleave(torch.arange(3), torch.tensor([5, 4, 3]))
    return documents, torch.cat(documents)[None], segments[None]


@pytest.mark.parametrize("kv_heads", [2, 1])
def test_packed_documents_are_what_each_is_alone(kv_heads: int) -> None:
    """Logits and gradients, to what float32 tables of rotary angles allow: positions are relative,
    so those of a sample may run on."""
    model = small(kv_heads=kv_heads).double()
    documents, sample, segments = packed()
    logits = model(sample, attention_mask=attention_mask(segments)).logits
    alone = [model(document[None]).logits for document in documents]
    torch.testing.assert_close(logits, torch.cat(alone, 1), atol=1e-8, rtol=1e-6)
    assert not torch.allclose(logits, model(sample).logits, atol=1e-3)

    every = ActiveIds([(0, 50)])
    parameters = list(model.parameters())
    total, losses = model(sample, targets=sample, active=every, segments=segments)
    found = torch.autograd.grad(total, parameters)
    parts = [model(d[None], targets=d[None], active=every) for d in documents]
    wanted = torch.autograd.grad(torch.stack([part for part, _ in parts]).sum(), parameters)
    torch.testing.assert_close(losses, torch.cat([own for _, own in parts], 1))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-6)


def test_one_segment_is_whole_attention() -> None:
    wrapped, batch = CurriculumModel(small()), make_batch()
    whole = {**batch, "segments": torch.zeros_like(batch["input_ids"])}
    torch.testing.assert_close(wrapped(whole)["losses"], wrapped(batch)["losses"])
    every = ActiveIds([(0, 50)])
    torch.testing.assert_close(wrapped.eval_losses(whole, every), wrapped(whole)["losses"])


def test_a_batch_without_targets_moves_nothing() -> None:
    wrapped, batch = CurriculumModel(small()), make_batch()
    wrapped.reset_sums(2)
    batch["labels"][:] = MASKED
    outputs = wrapped(batch)
    outputs["loss"].backward()
    assert outputs["loss"] == 0 and wrapped.source_loss_counts.tolist() == [0, 0]
    assert all(p.grad is not None and not p.grad.any() for p in wrapped.parameters())


def test_sources_weigh_and_z_loss_adds_but_records_stay_plain() -> None:
    """The factor of a source multiplies its losses in the sum; the divisor is the caller's."""
    model = small()
    wrapped, batch = CurriculumModel(model), make_batch()
    plain = wrapped(batch)
    wrapped.source_weights, wrapped.z_loss, wrapped.loss_scale = (0.5, 3.0), 0.01, 0.1
    wrapped.reset_sums(2)
    outputs = wrapped(batch)
    assert torch.equal(outputs["losses"], plain["losses"])
    logits = model(input_ids=batch["input_ids"]).logits
    spread = torch.logsumexp(logits, -1) ** 2 * (batch["labels"] != MASKED)
    expected = cross_entropy(logits.transpose(1, 2), batch["labels"], reduction="none")
    weights = torch.tensor([0.5, 3.0])[batch["source"], None]
    wanted = 0.1 * (weights * (expected + 0.01 * spread)).sum()
    torch.testing.assert_close(outputs["loss"], wanted)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(outputs["loss"], parameters),
        torch.autograd.grad(wanted, parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    sums = plain["losses"].double().sum(1)
    torch.testing.assert_close(
        wrapped.source_loss_sums, torch.stack([sums[::2].sum(), sums[1::2].sum()])
    )
    assert torch.equal(wrapped.eval_losses(batch, wrapped.active), plain["losses"])


def test_softmax_over_active_ids_only() -> None:
    model = small()
    wrapped = CurriculumModel(model)
    wrapped.active = ActiveIds([(10, 20), (30, 50)])
    batch = make_batch(first=30)
    outputs = wrapped(batch)
    logits = model(input_ids=batch["input_ids"]).logits
    logits[..., :10] = logits[..., 20:30] = -torch.inf
    expected = cross_entropy(logits.transpose(1, 2), batch["labels"], reduction="none")
    torch.testing.assert_close(outputs["losses"], expected.detach())
    losses = wrapped.eval_losses(batch, ActiveIds([(30, 50)]))
    assert (losses <= outputs["losses"]).all() and wrapped.training
    with pytest.raises(ValueError, match="not an active id"):
        wrapped.eval_losses(batch, ActiveIds([(0, 30)]))
    assert wrapped.training


def test_sums_by_source_over_microbatches() -> None:
    wrapped = CurriculumModel(small())
    batch = make_batch()
    wrapped.reset_sums(3)
    whole = wrapped(batch)["losses"].double().sum(1)
    sums, counts = wrapped.source_loss_sums, wrapped.source_loss_counts
    torch.testing.assert_close(
        sums, torch.stack([whole[::2].sum(), whole[1::2].sum(), whole[0] * 0])
    )
    assert counts.tolist() == [19, 24, 0] and counts.dtype == torch.int64

    wrapped.reset_sums(3)
    for part in (slice(0, 1), slice(1, 4)):
        wrapped({name: values[part] for name, values in batch.items()})
    torch.testing.assert_close(wrapped.source_loss_sums, sums)
    wrapped.eval_losses(batch, wrapped.active)
    assert wrapped.source_loss_counts.tolist() == [19, 24, 0], "evaluation is not counted"

    wrapped.reset_sums(1)
    with pytest.raises(ValueError, match="sums for 1"):
        wrapped(batch)


def test_state_is_the_models_alone() -> None:
    wrapped = CurriculumModel(small())
    wrapped.reset_sums(2)
    names = set(wrapped.state_dict())
    assert names == {f"model.{name}" for name in small().state_dict()}
    assert "model.model.layers.0.mlp.up_proj.weight" in names


def test_generates_like_hugging_face() -> None:
    model = small().eval()
    prompt = torch.tensor([[3, 1, 4, 1]])
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    cached = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), use_cache=True, **settings
    )
    for _ in range(5):
        prompt = torch.cat([prompt, model(prompt).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(cached, prompt)


def test_bf16_autocast_is_close() -> None:
    wrapped = CurriculumModel(small())
    batch = make_batch()
    plain = wrapped(batch)["losses"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = wrapped(batch)
    outputs["loss"].backward()
    torch.testing.assert_close(outputs["losses"], plain, atol=0.02, rtol=0.02)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in wrapped.parameters())


def test_trains_under_composer_with_microbatches() -> None:
    """Attention within documents is split with the rows that it belongs to."""
    segments = (torch.arange(48).view(4, 12) % 7 == 0).long().cumsum(1)
    ends = []
    for micro in (4, 2):
        wrapped = CurriculumModel(small())
        wrapped.reset_sums(2)
        # Composer weighs a microbatch by its share: with equal ones that undoes a mean over them.
        wrapped.loss_scale = (4 / micro) / 43
        dataset: Any = [{**make_batch(), "segments": segments}] * 3
        batches: Any = DataLoader(dataset, batch_size=None)
        trainer = Trainer(
            model=wrapped,
            train_dataloader=DataSpec(batches, get_num_samples_in_batch=lambda b: len(b["source"])),
            optimizers=torch.optim.SGD(wrapped.parameters(), lr=0.5),
            max_duration="3ba",
            device="cpu",
            device_train_microbatch_size=micro,
            progress_bar=False,
            log_to_console=False,
        )
        trainer.fit()
        trainer.close()
        assert wrapped.source_loss_counts.tolist() == [3 * 19, 3 * 24]
        ends.append(wrapped.state_dict())
    assert not torch.equal(ends[0]["model.lm_head.weight"], small().lm_head.weight)
    for name, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][name], atol=1e-6, rtol=1e-4)
