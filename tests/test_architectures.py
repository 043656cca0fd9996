"""Causal models of Hugging Face, tiny: their groups, losses, first values and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from ncamix.errors import UserError
from ncamix.groups import GROUPS, all_parts
from ncamix.models import HuggingFaceModel, Llama
from ncamix.training.architectures import layer_of, masks, parameter_groups, places_within
from ncamix.training.loss import MASKED, ActiveIds
from ncamix.training.model import CurriculumModel, build_model
from ncamix.training.transitions import reinitialize

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, LENGTH = 50, 12
MODERN: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "vocab_size": ROWS,
}
FEW: dict[str, Any] = MODERN | {"num_key_value_heads": 1, "head_dim": 8}
GPT2: dict[str, Any] = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": FEW | {"tie_word_embeddings": False},
    "gpt2": GPT2 | {"vocab_size": ROWS, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "mistral": FEW | {"tie_word_embeddings": False, "sliding_window": 3},
    "qwen2": FEW | {"tie_word_embeddings": True},
    "qwen3": FEW | {"tie_word_embeddings": False},
    "gpt_neox": MODERN | {"tie_word_embeddings": False},
    "mixtral": FEW | {"num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": 3},
    "qwen2_moe": FEW
    | {
        "num_experts": 3,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
        "decoder_sparse_step": 1,
    },
    "phi": MODERN | {"tie_word_embeddings": False, "resid_pdrop": 0.0},
    "olmo": MODERN | {"tie_word_embeddings": False, "clip_qkv": 3.0},
    "gemma": FEW,
    "gemma2": FEW
    | {
        "final_logit_softcapping": 0.05,
        "attn_logit_softcapping": 0.5,
        "query_pre_attn_scalar": 8,
        "sliding_window": 3,
    },
    "gemma3_text": FEW | {"query_pre_attn_scalar": 8, "sliding_window": 3},
    "granite": FEW | {"logits_scaling": 4.0, "embedding_multiplier": 3.0},
    "cohere": FEW | {"logit_scale": 0.25},
    "opt": {
        "hidden_size": 16,
        "ffn_dim": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 32,
        "vocab_size": ROWS,
        "word_embed_proj_dim": 16,
        "dropout": 0.0,
    },
}


def config_file(folder: Path, kind: str, **changes: Any) -> Path:
    """A folder with the config.json that the library writes for a tiny model of a kind."""
    CONFIG_MAPPING[kind](**(CONFIGS[kind] | changes)).save_pretrained(folder)
    return folder


def fresh(folder: Path, kind: str, rows: int = ROWS, seed: int = 1, **changes: Any) -> Any:
    """A tiny model with weights that are drawn."""
    config_file(folder, kind, **changes)
    spec = HuggingFaceModel(kind="huggingface", config=str(folder)).located(folder)
    return build_model(spec, rows, LENGTH, seed)


def saved(folder: Path, kind: str, **changes: Any) -> PreTrainedModel:
    """A tiny model as the library draws and saves it."""
    torch.manual_seed(3)
    model: Any = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**CONFIGS[kind] | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.eval()  # type: ignore[no-any-return]


def pretrained(folder: Path, rows: int, kept: int) -> PreTrainedModel:
    spec = HuggingFaceModel(kind="huggingface", path=str(folder)).located(folder)
    return build_model(spec, rows, LENGTH, 1, kept)


def make_batch(rows: int = ROWS) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(rows, (3, LENGTH + 1), generator=generator)
    labels = tokens[:, 1:].clone()
    labels[0, :5] = MASKED
    return {"input_ids": tokens[:, :-1], "labels": labels, "source": torch.tensor([0, 1, 0])}


@pytest.mark.parametrize("kind", CONFIGS)
def test_any_architecture(kind: str, tmp_path: Path) -> None:
    """Groups partition the parameters; loss and gradients are those of the library's logits;
    packed documents are what each is alone."""
    model = fresh(tmp_path, kind)
    groups = parameter_groups(model)
    assert tuple(groups) == GROUPS
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    tied = model.config.tie_word_embeddings
    assert groups["embedding"] and bool(groups["head"]) != tied
    assert groups["attention"] and groups["mlp"]
    assert {layer_of(name) for name in groups["attention"]} == {0, 1}
    assert {layer_of(name) for name in groups["embedding"] + groups["final_norm"]} == {None}
    assert all("norm" in name or "ln_" in name for name in groups["norms"])

    model.double()
    wrapped, batch = CurriculumModel(model.train()), make_batch()
    wrapped.loss_scale = 0.1
    outputs = wrapped(batch)
    logits = model(input_ids=batch["input_ids"]).logits
    expected = cross_entropy(logits.double().transpose(1, 2), batch["labels"], reduction="none")
    torch.testing.assert_close(outputs["losses"], expected.detach().float())
    assert expected.std() > 1e-4, "logits that differ"
    parameters = list(model.parameters())
    found = torch.autograd.grad(outputs["loss"], parameters, allow_unused=True)
    wanted = torch.autograd.grad(0.1 * expected.sum(), parameters, allow_unused=True)
    for name, a, b in zip(names, found, wanted, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)

    segments = torch.repeat_interleave(torch.arange(3), torch.tensor([5, 4, 3]))[None]
    every, sample = ActiveIds([(0, ROWS)]), batch["input_ids"][:1]
    _, losses = model(sample, targets=sample, active=every, segments=segments)
    alone = [model(d, targets=d, active=every)[1] for d in sample.split([5, 4, 3], 1)]
    torch.testing.assert_close(losses, torch.cat(alone, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_redrawing_keeps_to_its_parts(kind: str, tmp_path: Path) -> None:
    """Everything that is drawn anew differs, but for what begins with a constant."""
    model = fresh(tmp_path, kind)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        for value in model.parameters():
            value.add_(1)
    names = reinitialize(model, all_parts(2), "model", 1, "later")
    assert sorted(names) == sorted(before)
    groups = parameter_groups(model)
    for name, value in model.named_parameters():
        constant = name.endswith("bias") or name in groups["norms"] + groups["final_norm"]
        assert torch.equal(value, before[name]) == constant, name
        assert not constant or len(value.unique()) == 1
    for name in reinitialize(model, all_parts(2), "torch", 1, "later"):
        value, constant = model.get_parameter(name), name in groups["norms"] + groups["final_norm"]
        assert value.isfinite().all() and (len(value.unique()) == 1) == constant, name
    if kind == "gpt2":  # Conv1D holds its weight as [inputs, outputs]
        values = model.transformer.h[0].mlp
        for value, inputs in ((values.c_fc.weight, 16), (values.c_proj.bias, 64)):
            assert 0.8 / inputs**0.5 < value.abs().max() < 1 / inputs**0.5


def test_what_a_norm_begins_with_is_its_architectures(tmp_path: Path) -> None:
    assert (fresh(tmp_path / "a", "gemma").model.norm.weight == 0).all()
    model = fresh(tmp_path / "b", "gpt2")
    assert (model.transformer.ln_f.weight == 1).all() and not model.transformer.ln_f.bias.any()
    assert model.transformer.wte.padding_idx is None
    wide = fresh(tmp_path / "c", "gpt2", initializer_range=0.5)
    torch.testing.assert_close(wide.transformer.wte.weight, 25 * model.transformer.wte.weight)


def test_a_llama_from_its_config_is_the_one_of_the_sizes(tmp_path: Path) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    found = fresh(tmp_path, "llama", rows=60, rms_norm_eps=1e-6)
    assert torch.equal(state, torch.get_rng_state())
    spec = Llama(layers=2, heads=2, kv_heads=1, width=16, mlp_width=24)
    wanted = build_model(spec, 60, LENGTH, 1)
    assert spec.num_parameters(60) == sum(p.numel() for p in found.parameters())
    for (name, a), (other, b) in zip(
        found.named_parameters(), wanted.named_parameters(), strict=True
    ):
        assert name == other and torch.equal(a, b)
    batch = make_batch(60)
    assert torch.equal(
        CurriculumModel(found)(batch)["losses"], CurriculumModel(wanted)(batch)["losses"]
    )


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "phi", "qwen2"])
@pytest.mark.parametrize("rows", [40, 70])
def test_pretrained_weights(kind: str, rows: int, tmp_path: Path) -> None:
    """All but the vocabulary is as it was saved; of that, the rows of the tokenizer."""
    original = saved(tmp_path, kind)
    kept = 37
    torch.manual_seed(7)
    state = torch.get_rng_state()
    model = pretrained(tmp_path, rows, kept)
    assert torch.equal(state, torch.get_rng_state()) and model.training
    assert model.config.vocab_size == rows
    drawn = fresh(tmp_path / "drawn", kind, rows=rows)
    before, values = dict(original.named_parameters()), dict(drawn.named_parameters())
    tables = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    for name, value in model.named_parameters():
        if id(model.get_submodule(name.rpartition(".")[0])) in tables:
            assert torch.equal(value[:kept], before[name][:kept]), name
            assert torch.equal(value[kept:], values[name][kept:]) and len(value) == rows
        else:
            assert torch.equal(value, before[name]), name
    ids = make_batch(kept)["input_ids"]
    torch.testing.assert_close(
        model.eval()(ids).logits[..., :kept], original(ids).logits[..., :kept]
    )
    spec = HuggingFaceModel(kind="huggingface", path=str(tmp_path)).located(tmp_path)
    assert spec.num_parameters(rows) == sum(p.numel() for p in model.parameters())


def test_saved_by_the_library_alone(tmp_path: Path) -> None:
    """What is trained here loads with transformers: names and class are the library's."""
    model = fresh(tmp_path / "a", "gpt_neox")
    again: Any = AutoModelForCausalLM.from_config(model.config)
    again.load_state_dict(model.state_dict())
    ids = make_batch()["input_ids"]
    assert torch.equal(again.eval()(ids).logits, model.eval()(ids).logits)


@pytest.mark.parametrize(
    ("kind", "changes", "what"),
    [
        ("mamba", {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4}, "mixer"),
        ("bert", {k: v for k, v in MODERN.items() if k != "vocab_size"}, "BertLMHeadModel"),
        ("vit", MODERN, "no causal language model of type 'vit'"),
        ("no_such", MODERN, "no causal language model of type 'no_such'"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    kind: str, changes: dict[str, Any], what: str, tmp_path: Path
) -> None:
    config = {"model_type": kind, "vocab_size": ROWS, "num_attention_heads": 2, **changes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    spec = HuggingFaceModel(kind="huggingface", config=str(tmp_path)).located(tmp_path)
    with pytest.raises(UserError, match=what):
        build_model(spec, ROWS, LENGTH, 1)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    saved(tmp_path, "gpt_neox")
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    for changes, what in (({"num_hidden_layers": 3}, "lack gpt_neox.layers.2"),):
        file.write_text(json.dumps(config | changes))
        with pytest.raises(UserError, match=what):
            pretrained(tmp_path, ROWS, 0)


def test_places_begin_anew_with_each_segment() -> None:
    segments = torch.tensor([[0, 0, 0, 1, 1, 2], [4, 4, 4, 4, 4, 4]])
    assert places_within(segments).tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5]]


def test_masks_of_layers_that_see_a_window() -> None:
    config = CONFIG_MAPPING["gemma3_text"](**CONFIGS["gemma3_text"] | {"sliding_window": 2})
    config._attn_implementation = "sdpa"
    found = masks(config, torch.tensor([[0, 0, 0, 1]]))
    assert found["full_attention"][0, 0].int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [0, 0, 0, 1],
    ]
    assert found["sliding_attention"][0, 0].int().tolist()[2] == [0, 1, 1, 0]
