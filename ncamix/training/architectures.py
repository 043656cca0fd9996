"""Causal language models of Hugging Face, whatever their architecture.

    class of the library -> the same class, whose forward pass can end in losses instead of logits
    its structure (layers, embeddings, norms, names of modules) -> group and layer of a parameter
                                                                -> how it begins

What an architecture does between hidden states and logits (a bias, a scale, a cap) is taken from
its config; a model that does anything else is found out by trying, on four tokens, and refused.
"""

from __future__ import annotations

import copy
import functools
import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ncamix.errors import fail
from ncamix.groups import GROUPS
from ncamix.training.loss import ActiveIds, linear_cross_entropy

_MLP = re.compile(r"\w*(mlp|ffn|feed_?forward|moe|expert|router)\w*|fc\d|fc_(in|out)|gate")
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


@functools.cache
def with_loss(base: Any) -> Any:
    """`base`, a causal model class of Hugging Face, as one whose forward pass can end in losses.

    The loss is computed inside the model's own forward pass, since sharded training gathers the
    output head there. Parameter names, and every other use, are those of `base`.
    """

    # `generate` reads the signature to learn what it may pass.
    @functools.wraps(base.forward, assigned=())
    def forward(
        self: Any,
        input_ids: Tensor | None = None,
        *args: Any,
        targets: Tensor | None = None,
        active: ActiveIds | None = None,
        scale: Tensor | float = 1.0,
        segments: Tensor | None = None,
        weights: Tensor | None = None,
        z_loss: float = 0.0,
        **kwargs: Any,
    ) -> Any:
        """With `targets` (int64 [B, L], MASKED where no loss): (scale * sum, losses [B, L]).

        `input_ids` is int64 [B, L], and so are `segments`: a position attends to those before it
        of the same number; without them, to all before it. `weights` float [B, L] are what the
        losses count in the sum. The sum is a 0-d tensor, the losses float32, detached, in nats.
        Without `targets`, everything is passed on to Hugging Face. Raises ValueError if a target is
        not among the `active` ids.
        """
        if targets is None:
            return base.forward(self, input_ids, *args, **kwargs)
        assert input_ids is not None and active is not None
        head = self.get_output_embeddings()
        total, losses = linear_cross_entropy(
            hidden_states(self, input_ids, segments).flatten(0, 1),
            head.weight,
            targets.flatten(),
            active,
            scale,
            bias=getattr(head, "bias", None),
            weights=None if weights is None else weights.flatten(),
            z_loss=z_loss,
            cap=getattr(self.config, "final_logit_softcapping", None),
        )
        return total, losses.view(targets.shape)

    name = f"Loss{base.__name__}"
    return type(
        name, (base,), {"forward": forward, "__module__": __name__, "__doc__": base.__doc__}
    )


def hidden_states(model: Any, input_ids: Tensor, segments: Tensor | None = None) -> Tensor:
    """What the output head is given: [B, L, D] of `input_ids` int64 [B, L], scaled as the logits of
    the architecture are."""
    more: dict[str, Any] = {}
    if segments is not None:
        more["attention_mask"] = masks(model.config, segments)
        if _has_learned_positions(model):  # unlike relative ones, they begin anew
            more["position_ids"] = places_within(segments)
    body = model.base_model if model.base_model is not model else model.model  # Gemma 3's
    hidden: Tensor = body(input_ids=input_ids, use_cache=False, **more)[0]
    factor = getattr(model.config, "logit_scale", None) or 1.0  # Cohere's
    factor /= getattr(model.config, "logits_scaling", None) or 1.0  # Granite's
    return hidden if factor == 1.0 else hidden * factor


def attention_mask(segments: Tensor) -> Tensor:
    """Which positions attend to which: bool [B, 1, L, L] of `segments` int64 [B, L].

    True where a query (third axis) sees a key (last axis). Hugging Face takes a mask of four axes
    as it is, and scaled dot product attention one of booleans.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return (segments[:, None, :, None] == segments[:, None, None, :]) & causal


def masks(config: Any, segments: Tensor) -> Any:
    """The `attention_mask` that a model of this config takes for `segments` int64 [B, L]: one, or
    one for each kind of layer where some see no further than a window."""
    mask, length = attention_mask(segments), segments.shape[1]
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds <= {"full_attention", "sliding_attention"}:
        raise ValueError(f"attention within documents in layers of {', '.join(sorted(kinds))}")
    window = getattr(config, "sliding_window", None)
    near = mask
    if window is not None and window < length and kinds != {"full_attention"}:
        near = mask & torch.ones_like(mask[0, 0]).triu(1 - window)
    if config._attn_implementation == "eager":  # which adds masks to scores
        mask, near = (_added(each) for each in (mask, near))
    if "sliding_attention" in kinds:
        return {"full_attention": mask, "sliding_attention": near}
    return near


def _added(mask: Tensor) -> Tensor:
    least = torch.finfo(torch.float32).min
    return torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, least)


def places_within(segments: Tensor) -> Tensor:
    """Where each position stands in its run of equal numbers, from 0: int64 [B, L]."""
    place = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    begins = segments != segments.roll(1, 1)
    begins[:, 0] = True
    return place - torch.where(begins, place, 0).cummax(1).values


def decoder_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The list of a model's layers, and its name. Raises ValueError if there is none."""
    count = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise ValueError(f"{type(model).__name__} has no list of {count} layers")


def _has_learned_positions(model: PreTrainedModel) -> bool:
    known = model.__dict__.get("_learned_positions")
    if known is None:
        embedding = model.get_input_embeddings()
        known = any(isinstance(m, nn.Embedding) and m is not embedding for m in model.modules())
        model.__dict__["_learned_positions"] = known
    return bool(known)


def parameter_groups(model: PreTrainedModel) -> dict[str, list[str]]:
    """All parameter names of `model` by group, each in exactly one, in the model's order.

    A tied head has no parameter of its own: its group is empty. Raises ValueError if a parameter
    fits no group.
    """
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    layers, _ = decoder_layers(model)
    for name, _ in model.named_parameters():
        groups[_group(model, name, layers)].append(name)
    return groups


def layer_of(name: str) -> int | None:
    """The layer that the parameter `name` belongs to, counted from 0; None outside of layers."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def _group(model: PreTrainedModel, name: str, layers: str) -> str:
    path = name.split(".")[:-1]
    owner, norm = _owner(model, name), is_norm(model, name)
    if owner is model.get_input_embeddings():
        return "embedding"
    if owner is model.get_output_embeddings():
        return "head"
    if name.startswith(f"{layers}."):
        inner = path[len(layers.split(".")) + 1 :]
        if norm:
            return "norms"
        if any("attn" in step or "attention" in step for step in inner):
            return "attention"
        if any(_MLP.fullmatch(step) for step in inner):
            return "mlp"
    elif isinstance(owner, nn.Embedding) or (norm and "emb" in name):
        return "embedding"
    elif norm:
        return "final_norm"
    raise ValueError(
        f"parameter {name} of {type(model).__name__} belongs to no group: it is no part of an "
        f"embedding, a head, an attention, an MLP or a norm"
    )


def _owner(model: PreTrainedModel, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def is_norm(model: PreTrainedModel, name: str) -> bool:
    """Whether the parameter `name` is a norm's."""
    return "norm" in type(_owner(model, name)).__name__.lower()


def constant_of(model: PreTrainedModel, name: str) -> float | None:
    """The value that all numbers of a parameter begin with: of norms what their architecture says
    (1, or 0 where that is added to 1), 0 of biases; None where they are drawn."""
    if name.endswith("bias"):
        return 0.0
    if not is_norm(model, name):
        return None
    fresh = copy.deepcopy(_owner(model, name))
    model._init_weights(fresh)  # type: ignore[no-untyped-call]
    return float(fresh.get_parameter(name.rpartition(".")[2]).flatten()[0])


def fan_in(model: PreTrainedModel, name: str) -> int:
    """Inputs of the linear map that a parameter belongs to; for its bias, too."""
    owner, parameter = _owner(model, name), model.get_parameter(name)
    weight = getattr(owner, "weight", parameter) if name.endswith("bias") else parameter
    shape: tuple[int, ...] = weight.shape
    return shape[0 if type(owner).__name__ == "Conv1D" else 1]  # GPT-2's is transposed


@torch.no_grad()
def check_forward(model: PreTrainedModel) -> None:
    """Refuse a model that our loss would not be the loss of: on four tokens, its logits must be
    those of its head and nothing else, look back only, and stay within segments.

    Raises:
        UserError: they are not.
    """
    name = type(model).__name__.removeprefix("Loss")
    ids = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 0], [3, 1, 2, 3]]) % model.config.vocab_size
    segments = torch.tensor([[0, 0, 1, 1]]).expand_as(ids)
    was_training = model.training
    model.eval()
    try:
        logits = model(input_ids=ids, use_cache=False).logits
        within = _logits(model, ids, segments)
        same = torch.allclose(logits, _logits(model, ids), atol=1e-4, rtol=1e-3)
    except (ValueError, TypeError, AttributeError, LookupError, RuntimeError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise fail(f"{name} cannot be trained: {reason}", "choose another architecture") from None
    finally:
        model.train(was_training)
    back = torch.allclose(logits[0, :3], logits[1, :3], atol=1e-4, rtol=1e-3)
    apart = torch.allclose(within[0, 2:], within[2, 2:], atol=1e-4, rtol=1e-3)
    for holds, what in (
        (same, "its logits are not its head's alone"),
        (back, "its tokens see those behind them"),
        (apart, "its attention cannot be kept within documents"),
    ):
        if not holds:
            raise fail(f"{name} cannot be trained: {what}", "choose another architecture")


def _logits(model: PreTrainedModel, ids: Tensor, segments: Tensor | None = None) -> Tensor:
    """The logits that our loss is of: [B, L, V]."""
    head: Any = model.get_output_embeddings()
    found = nn.functional.linear(
        hidden_states(model, ids, segments), head.weight, getattr(head, "bias", None)
    )
    cap = getattr(model.config, "final_logit_softcapping", None)
    return found if cap is None else cap * torch.tanh(found / cap)
