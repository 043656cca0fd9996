"""How a model is spread over ranks, and how it saves memory and time.

    whole model -> experts that all have gradients -> layers that compute their activations again
      -> compiled layers -> number format
      -> ddp: every rank has all of it, as Composer arranges
      -> fsdp: decoder layers, then the rest as one, each rank holding a part of every parameter

Parameters keep their names and order throughout. Under fsdp a parameter is a DTensor wherever the
model is at rest: outside of forward and backward passes.
"""

from __future__ import annotations

from typing import Any

import torch
from composer.utils import dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from ncamix.errors import fail
from ncamix.trainer import Trainer
from ncamix.training.architectures import decoder_layers
from ncamix.training.experts import reach_experts

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_MOST_GRAPHS = 32  # of a layer: training or not, packed or not, of many sizes, one sample, ...


def spread(model: PreTrainedModel, trainer: Trainer, precision: str, device: str) -> None:
    """Arrange a whole model on the CPU for training, in place; its optimizer is made afterwards.

    precision: of the stage. device: 'cpu' or 'gpu'. Every rank calls it with the same values.

    Raises:
        UserError: the model cannot compute activations again.
    """
    _, layers = decoder_layers(model)
    reach_experts(layers)
    if trainer.activation_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise fail(
                f"a {type(model).__name__} cannot compute its activations again",
                "write activation_checkpointing: false",
            )
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if trainer.compile:
        torch.compiler.reset()  # what earlier stages compiled counts against the limit, too
        torch._dynamo.config.recompile_limit = _MOST_GRAPHS
        for layer in layers:  # not the whole: the loss depends on data, and layers are alike
            layer.forward = torch.compile(layer.forward)
    kind = "cuda" if device == "gpu" else "cpu"
    dtype = _DTYPES.get(precision)
    if dtype is not None:  # here, since Composer's own serves training on GPUs alone
        model.forward = torch.autocast(kind, dtype=dtype)(model.forward)
    if trainer.parallelism == "fsdp":
        _shard(model, layers, kind, dtype)


def _shard(
    model: PreTrainedModel, layers: nn.ModuleList, kind: str, dtype: torch.dtype | None
) -> None:
    """Share every parameter out over all ranks, along its first axis: one layer after the other is
    moved to this rank's device and cut there, so that none ever holds the whole model."""
    mesh = init_device_mesh(kind, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(  # autocast sees to inputs, which may be weights of losses
        param_dtype=dtype,
        reduce_dtype=None if dtype is None else torch.float32,
        cast_forward_inputs=False,
    )
    for module in (*layers, model):  # embedding, head and norm are one, as they may share weights
        sharded: Any = fully_shard(module, mesh=mesh, mp_policy=policy)
        if kind == "cpu":  # gloo sums where NCCL averages
            sharded.set_all_reduce_hook(_average)
    model.register_forward_hook(_rest)


def _average(gradients: Tensor) -> None:
    gradients.div_(dist.get_world_size())


def _rest(model: Any, args: Any, output: Any) -> None:
    """Without a backward pass to come, nothing else would give up what was gathered."""
    if not torch.is_grad_enabled():
        model.reshard()


def is_sharded(model: nn.Module) -> bool:
    """Whether ranks share the parameters of a model."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def whole(value: Tensor) -> Tensor:
    """A tensor as a whole, detached, on the CPU. All ranks call it if it is shared."""
    value = value.detach()
    return (value.full_tensor() if isinstance(value, DTensor) else value).cpu()


def shared_like(value: Tensor, pattern: Tensor) -> Tensor:
    """A whole value that every rank has: of a shared pattern of its shape, this rank's part."""
    if not isinstance(pattern, DTensor) or value.shape != pattern.shape:
        return value
    mesh = pattern.device_mesh
    value = value.to(mesh.device_type)
    return distribute_tensor(value, mesh, pattern.placements, src_data_rank=None)


def microbatch(trainer: Trainer, share: int, device: str) -> int | str:
    """Samples that a device takes at once of its share of a batch, or 'auto' for as many as fit.

    Composer tries sizes on GPUs until one fits; where ranks share the model, one that ran out of
    memory would leave the others waiting, so auto is the share there, as it is on CPUs.
    """
    if trainer.microbatch is not None:
        return min(trainer.microbatch, share)
    return "auto" if device == "gpu" and trainer.parallelism == "ddp" else share


def composer_precision(precision: str, device: str) -> str:
    """The precision that Composer is told: it knows fp32 alone on CPUs, and scales losses in fp16.

    The number format itself is the model's own, see `spread`.
    """
    return (
        "fp32"
        if device == "cpu"
        else {"bf16": "amp_bf16", "fp16": "amp_fp16"}.get(precision, "fp32")
    )


def check_compiler(device: str) -> None:
    """See that torch.compile works here, on a function of one line.

    Raises:
        UserError: it does not.
    """
    try:
        ones = torch.ones(8, device="cuda" if device == "gpu" else "cpu")
        torch.compile(lambda values: values.sin() + 1)(ones)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise fail(
            f"torch.compile does not work on this machine: {reason}",
            "install a C++ compiler (g++), and Triton for a GPU, or write compile: false",
        ) from None
