"""The model that is trained: a causal model of Hugging Face, and its Composer wrapper.

    sizes, or config and weights -> model, its fresh values keyed by name
    batch {input_ids, labels, source} -> decoder body -> hidden states -> chunked loss
      -> scalar for Composer, losses per position, sums per source

Labels arrive shifted and masked by the data. Where a batch carries `segments`, attention stays
within them; relative positions run on over a whole sample, learned ones begin anew. Losses are in
nats; the scalar is their sum times a factor set from outside, so that the divisor can be the count
of the global batch whatever the microbatches and ranks.

Initial values are drawn by name: each parameter has its own stream of random numbers, keyed by
seed, purpose and parameter name, from a counter-based generator on the CPU. A value therefore
depends on no other parameter, device, rank or instruction set, and rows added to an embedding
leave those before them unchanged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, SupportsFloat

import numpy as np
import torch
from composer.models import ComposerModel
from torch import Tensor
from transformers import CONFIG_MAPPING, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.modeling_utils import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ncamix.errors import fail
from ncamix.model_files import ModelFiles, fetched
from ncamix.models import Llama, Model
from ncamix.training.architectures import (
    check_forward,
    constant_of,
    layer_of,
    parameter_groups,
    with_loss,
)
from ncamix.training.attention import attention_of
from ncamix.training.loss import MASKED, ActiveIds

__all__ = [
    "CurriculumModel",
    "build_llama",
    "build_model",
    "fresh_values",
    "layer_of",
    "normal_values",
    "parameter_groups",
    "random_stream",
]

INITIAL_STD = 0.02


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


def build_model(
    spec: Model, rows: int, sequence_length: int, seed: int, kept_rows: int = 0
) -> PreTrainedModel:
    """The model that `spec` says, float32 on the CPU, with `rows` vocabulary rows.

    What it does not read is drawn, keyed by `seed`. Of a pretrained model the first `kept_rows`
    rows of embedding and head are its own, all others are drawn; its other parameters are its own.
    The global random state is untouched.

    Raises:
        UserError: transformers has no such model, its weights cannot be had or do not fit it, or
            its loss would not be ours.
    """
    if isinstance(spec, Llama):
        return build_llama(spec, rows, sequence_length, seed)
    assert spec.files is not None
    config, base = _architecture(spec.files)
    if not spec.pretrained:
        config.vocab_size = rows
        model = _fresh(base, config, seed)
    else:
        with torch.random.fork_rng(devices=[]):
            model = _pretrained(base, config, spec.files)
            _resize(model, rows, seed, kept_rows)
    try:
        parameter_groups(model)
    except ValueError as error:
        raise fail(str(error), "choose another architecture") from None
    check_forward(model)
    return model


def _architecture(files: ModelFiles) -> tuple[Any, Any]:
    """Config and class of a model, which attends by SDPA where that computes what it means."""
    kind = files.config["model_type"]
    try:
        config = CONFIG_MAPPING[kind].from_dict(files.config)
        base: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    except KeyError:
        raise fail(
            f"the installed transformers has no causal language model of type '{kind}'",
            "install a newer one, or choose another model",
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise fail(f"the config of '{kind}' is not understood: {error}", "mend it") from None
    # Ids of another vocabulary; the row of a padding id would never be trained.
    config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    config.use_cache = False
    capped = getattr(config, "attn_logit_softcapping", None)
    usual = "sdpa" if base._supports_sdpa and not capped else "eager"
    config._attn_implementation = attention_of(config, usual)
    return config, base


def _fresh(base: Any, config: Any, seed: int) -> PreTrainedModel:
    with no_init_weights():
        model: PreTrainedModel = with_loss(base)(config)
    model.tie_weights()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(fresh_values(model, name, (seed, "init", name)))
    return model


def _pretrained(base: Any, config: Any, files: ModelFiles) -> PreTrainedModel:
    """The model with its own weights and vocabulary, from safetensors alone."""
    folder = fetched(files)[0].parent
    try:
        model, told = with_loss(base).from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise fail(
            f"the weights in {folder} cannot be loaded: {reason}", "fetch them anew"
        ) from None
    lacking = [*told["missing_keys"], *(each[0] for each in told["mismatched_keys"])]
    if lacking:
        raise fail(
            f"the weights in {folder} lack {sorted(lacking)[0]} of the architecture, or have it in "
            "another shape",
            "are they whole, and is config.json theirs?",
        )
    loaded: PreTrainedModel = model.train()
    return loaded


@torch.no_grad()
def _resize(model: PreTrainedModel, rows: int, seed: int, kept: int) -> None:
    """Give the vocabulary so many rows, of which the first `kept` keep their values."""
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    own = [[p.detach()[:kept].clone() for p in table.parameters()] for table in tables]
    model.resize_token_embeddings(rows, mean_resizing=False)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for table, before in zip(
        [model.get_input_embeddings(), model.get_output_embeddings()], own, strict=True
    ):
        for parameter, values in zip(table.parameters(), before, strict=True):
            name = names[id(parameter)]
            parameter.copy_(fresh_values(model, name, (seed, "init", name)))
            parameter[:kept] = values


def build_llama(
    spec: LlamaSpec, vocabulary_rows: int, sequence_length: int, seed: int
) -> PreTrainedModel:
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
    )
    config._attn_implementation = attention_of(config, spec.attention)
    return _fresh(LlamaForCausalLM, config, seed)


def fresh_values(
    model: PreTrainedModel, name: str, key: Sequence[int | str], std: float | None = None
) -> Tensor:
    """The values that parameter `name` of `model` begins with: float32, on the CPU.

    What the architecture begins with a constant (norms, biases) has that; all else is
    normal(0, `std`) from the stream of `key`, by default with the config's own deviation.
    """
    shape, constant = model.get_parameter(name).shape, constant_of(model, name)
    if constant is not None:
        return torch.full(shape, constant)
    usual = getattr(model.config, "initializer_range", None) or INITIAL_STD
    return normal_values(shape, key, usual if std is None else std)


def random_stream(key: Sequence[int | str]) -> np.random.Generator:
    """The stream of random numbers that belongs to `key`, the same on every machine."""
    digest = hashlib.blake2b(json.dumps(list(key)).encode(), digest_size=16).digest()
    # Not torch's: that keeps 32 bits of a seed, and its normal numbers vary with the vector unit.
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def normal_values(
    shape: Sequence[int], key: Sequence[int | str], std: float = INITIAL_STD
) -> Tensor:
    """normal(0, `std`) from the stream of `key`, filled in row-major order: float32, on the CPU."""
    values = random_stream(key).standard_normal(tuple(shape), dtype=np.float32)
    return torch.from_numpy(values * np.float32(std))


class CurriculumModel(ComposerModel):
    """Composer's view of a Llama: batches in, a scaled sum of losses out, sums kept per source.

    A batch is a dict of `input_ids` int64 [B, L], `labels` int64 [B, L], shifted already
    (labels[b, j] is the target of position j) and MASKED where there is no loss, `source` int64
    [B], and, if attention stays within documents in some row, `segments` int64 [B, L]. Before each
    batch the caller sets

    - `active`: the ids that the softmax runs over; all rows until set
    - `loss_scale`: what the sum of losses is multiplied by; Composer further multiplies each
      microbatch by its share of the rank's batch, and averages gradients over ranks

    and, once, `z_loss`, its coefficient, and `source_weights`, what the losses of each source count
    in the sum (both change the scalar alone, never the losses that are recorded);

    to have losses by source, it calls `reset_sums`. In training mode every forward pass adds to
    `source_loss_sums` (float64 [num_sources], nats) and `source_loss_counts` (int64, unmasked
    targets), of this rank alone. They are no buffers: neither saved nor synchronised.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        self.z_loss = 0.0
        self.source_weights: Sequence[float] = ()
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
            weights=self._weights(batch),
            z_loss=self.z_loss,
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

    def _weights(self, batch: Mapping[str, Tensor]) -> Tensor | None:
        """What each loss counts: float32 [B, L]; None if every one counts once."""
        if all(weight == 1 for weight in self.source_weights):
            return None
        weights = torch.tensor(self.source_weights, device=batch["source"].device)
        return weights[batch["source"], None].expand_as(batch["labels"])

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
