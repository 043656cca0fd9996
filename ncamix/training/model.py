"""The model that is trained: a Hugging Face Llama, and its Composer wrapper.

    batch {input_ids, labels, source} -> decoder body -> hidden states -> chunked loss
      -> scalar for Composer, losses per position, sums per source

Labels arrive shifted and masked by the data. Where a batch carries `segments`, attention stays
within them; rotary positions are relative, so they run on over a whole sample. Losses are in nats;
the scalar is their sum times a factor set from outside, so that the divisor can be the count of the
global batch whatever the microbatches and ranks.

Initial values are drawn by name: each parameter has its own stream of random numbers, keyed by
seed, purpose and parameter name, from a counter-based generator on the CPU. A value therefore
depends on no other parameter, device, rank or instruction set, and rows added to an embedding
leave those before them unchanged.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, SupportsFloat

import numpy as np
import torch
from composer.models import ComposerModel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import no_init_weights

from ncamix.groups import GROUPS
from ncamix.training.loss import MASKED, ActiveIds, linear_cross_entropy

INITIAL_STD = 0.02

_GROUP_PATTERNS = {
    "embedding": r"model\.embed_tokens\.weight",
    "head": r"lm_head\.weight",
    "attention": r"model\.layers\.\d+\.self_attn\..+",
    "mlp": r"model\.layers\.\d+\.mlp\..+",
    "norms": r"model\.layers\.\d+\.(input|post_attention)_layernorm\.weight",
    "final_norm": r"model\.norm\.weight",
}


class LlamaSpec(Protocol):
    """What a model is built from; any object with these attributes will do.

    `kv_heads` None means as many as `heads`, `mlp_width` None means 4 * `width`.
    """

    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int | None: ...
    @property
    def width(self) -> int: ...
    @property
    def mlp_width(self) -> int | None: ...
    @property
    def rope_theta(self) -> SupportsFloat: ...
    @property
    def tie_embeddings(self) -> bool: ...
    @property
    def attention(self) -> str: ...
    @property
    def dropout(self) -> float: ...


class LossLlama(LlamaForCausalLM):
    """A Llama whose forward pass can end in losses instead of logits.

    The loss is computed inside this module's own forward pass, since sharded training gathers the
    output head there. Parameter names, and every other use, are Hugging Face's.
    """

    # `generate` reads the signature to learn what it may pass.
    @functools.wraps(LlamaForCausalLM.forward, assigned=())
    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        *args: Any,
        targets: Tensor | None = None,
        active: ActiveIds | None = None,
        scale: float = 1.0,
        segments: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """With `targets` (int64 [B, L], MASKED where no loss): (scale * sum, losses [B, L]).

        `input_ids` is int64 [B, L], and so are `segments`: a position attends to those before it
        of the same number; without them, to all before it. The sum is a 0-d tensor, the losses
        float32, detached, in nats. Without `targets`, everything is passed on to Hugging Face.
        Raises ValueError if a target is not among the `active` ids.
        """
        if targets is None:
            return super().forward(input_ids, *args, **kwargs)
        assert input_ids is not None and active is not None
        mask = None if segments is None else attention_mask(segments)
        hidden = self.model(
            input_ids=input_ids, attention_mask=mask, use_cache=False
        ).last_hidden_state
        total, losses = linear_cross_entropy(
            hidden.flatten(0, 1), self.lm_head.weight, targets.flatten(), active, scale
        )
        return total, losses.view(targets.shape)


def attention_mask(segments: Tensor) -> Tensor:
    """Which positions attend to which: bool [B, 1, L, L] of `segments` int64 [B, L].

    True where a query (third axis) sees a key (last axis). Hugging Face takes a mask of four axes
    as it is, and scaled dot product attention one of booleans.
    """
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return (segments[:, None, :, None] == segments[:, None, None, :]) & causal


def build_llama(
    spec: LlamaSpec, vocabulary_rows: int, sequence_length: int, seed: int
) -> LossLlama:
    """A float32 Llama on the CPU with `vocabulary_rows` rows, initialised by `seed`, without bias.

    Values follow Hugging Face: normal(0, 0.02), norms one. The global random state is untouched.
    Raises ValueError if the widths and head counts of `spec` do not divide.
    """
    kv_heads = spec.kv_heads or spec.heads
    if spec.width % (2 * spec.heads):
        raise ValueError(
            f"width {spec.width} must be an even multiple of heads {spec.heads} (rotary positions)"
        )
    if spec.heads % kv_heads:
        raise ValueError(f"heads {spec.heads} must be a multiple of kv_heads {kv_heads}")
    config = LlamaConfig(
        vocab_size=vocabulary_rows,
        hidden_size=spec.width,
        intermediate_size=spec.mlp_width or 4 * spec.width,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=sequence_length,
        rope_theta=float(spec.rope_theta),
        attention_dropout=spec.dropout,
        tie_word_embeddings=spec.tie_embeddings,
        initializer_range=INITIAL_STD,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
        attn_implementation=spec.attention,
    )
    with no_init_weights():
        model = LossLlama(config)
    model.tie_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(initial_values(name, parameter.shape, (seed, "init", name)))
    return model


def parameter_groups(model: LlamaForCausalLM) -> dict[str, list[str]]:
    """All parameter names of `model` by group, each in exactly one, in the model's order.

    A tied head has no parameter of its own: its group is empty. Raises ValueError if a parameter
    fits no group.
    """
    groups: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name, _ in model.named_parameters():
        fitting = [group for group in GROUPS if re.fullmatch(_GROUP_PATTERNS[group], name)]
        if len(fitting) != 1:
            raise ValueError(f"parameter {name} belongs to no group: not a Llama without biases?")
        groups[fitting[0]].append(name)
    return groups


def random_stream(key: Sequence[int | str]) -> np.random.Generator:
    """The stream of random numbers that belongs to `key`, the same on every machine."""
    digest = hashlib.blake2b(json.dumps(list(key)).encode(), digest_size=16).digest()
    # Not torch's: that keeps 32 bits of a seed, and its normal numbers vary with the vector unit.
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def initial_values(
    name: str, shape: Sequence[int], key: Sequence[int | str], std: float = INITIAL_STD
) -> Tensor:
    """The model's own initial values of parameter `name`: float32 `shape`, on the CPU.

    Ones for norms, else normal(0, `std`) from the stream of `key`, filled in row-major order.
    """
    if is_norm(name):
        return torch.ones(*shape)
    values = random_stream(key).standard_normal(tuple(shape), dtype=np.float32)
    return torch.from_numpy(values * np.float32(std))


def is_norm(name: str) -> bool:
    """Whether the parameter `name` is the scale of a norm."""
    return name.endswith("norm.weight")


class CurriculumModel(ComposerModel):
    """Composer's view of a Llama: batches in, a scaled sum of losses out, sums kept per source.

    A batch is a dict of `input_ids` int64 [B, L], `labels` int64 [B, L], shifted already
    (labels[b, j] is the target of position j) and MASKED where there is no loss, `source` int64
    [B], and, if attention stays within documents in some row, `segments` int64 [B, L]. Before each
    batch the caller sets

    - `active`: the ids that the softmax runs over; all rows until set
    - `loss_scale`: what the sum of losses is multiplied by; Composer further multiplies each
      microbatch by its share of the rank's batch, and averages gradients over ranks

    and, to have losses by source, calls `reset_sums`. In training mode every forward pass adds to
    `source_loss_sums` (float64 [num_sources], nats) and `source_loss_counts` (int64, unmasked
    targets), of this rank alone. They are no buffers: neither saved nor synchronised.
    """

    def __init__(self, model: LossLlama) -> None:
        super().__init__()
        self.model = model
        self.active = ActiveIds([(0, model.config.vocab_size)])
        self.loss_scale = 1.0
        self.reset_sums(0)

    def reset_sums(self, num_sources: int) -> None:
        """Start the sums of `num_sources` sources from zero; 0 switches them off."""
        self.source_loss_sums = torch.zeros(num_sources, dtype=torch.float64)
        self.source_loss_counts = torch.zeros(num_sources, dtype=torch.int64)

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`loss` (0-d, differentiable: loss_scale times the sum) and `losses` float32 [B, L].

        Raises ValueError if a target is not active, or a source has no sum.
        """
        total, losses = self.model(
            input_ids=batch["input_ids"],
            targets=batch["labels"],
            active=self.active,
            scale=self.loss_scale,
            segments=batch.get("segments"),
        )
        if self.training and len(self.source_loss_sums):
            self._add_to_sums(batch["source"], batch["labels"], losses)
        return {"loss": total, "losses": losses}

    def loss(self, outputs: Mapping[str, Tensor], batch: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The scalar that `forward` returned."""
        return outputs["loss"]

    @torch.no_grad()
    def eval_losses(self, batch: Mapping[str, Tensor], active: ActiveIds) -> Tensor:
        """Losses in nats of `batch` over the `active` ids: float32 [B, L], 0 where masked.

        Runs in evaluation mode and leaves sums and mode as they were. Raises ValueError if a
        target is not active.
        """
        was_training = self.training
        self.eval()
        try:
            _, losses = self.model(
                input_ids=batch["input_ids"],
                targets=batch["labels"],
                active=active,
                segments=batch.get("segments"),
            )
        finally:
            self.train(was_training)
        return losses

    def _add_to_sums(self, source: Tensor, labels: Tensor, losses: Tensor) -> None:
        num_sources, device = len(self.source_loss_sums), losses.device
        if bool(((source < 0) | (source >= num_sources)).any()):
            raise ValueError(f"batch has sources {source.tolist()}, but sums for {num_sources}")
        # Unlike scattered adds, a masked sum has a fixed order on every device.
        member = source[None, :] == torch.arange(num_sources, device=device)[:, None]
        sums = torch.where(member, losses.double().sum(1), 0.0).sum(1)
        counts = torch.where(member, (labels != MASKED).sum(1), 0).sum(1)
        self.source_loss_sums = self.source_loss_sums.to(device) + sums
        self.source_loss_counts = self.source_loss_counts.to(device) + counts
