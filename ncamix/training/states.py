"""The state of training: what a stage goes on from, taken out of Composer and put back.

    Composer's State, the model -> weights, moments by parameter name, clock, callbacks, random
    numbers of each rank -> tree -> the State of a Trainer on as many ranks, or others

Composer's own loading would run what a checkpoint says (it evaluates the text of algorithms), and
stores the optimizer by a way that knows no parameter without moments.
"""

from __future__ import annotations

from typing import Any

import torch
from composer.core import State
from composer.core.time import Timestamp
from composer.utils import dist
from torch import Tensor, nn

from ncamix import __version__
from ncamix.errors import fail
from ncamix.training.state_files import Tree

FORMAT = 1


def state_of(state: State, model: nn.Module) -> Tree:
    """The state of training, its tensors as each rank holds them. All ranks call it.

    model: what is trained, whose parameters have the names that stand in the state.
    """
    (optimizer,) = state.optimizers
    names = {parameter: name for name, parameter in model.named_parameters()}
    clock = state.timestamp
    return {
        "format": FORMAT,
        "ncamix": __version__,
        "model": weights_of(model),
        "moments": {names[p]: dict(known) for p, known in optimizer.state.items() if known},
        "groups": {
            str(i): {key: value for key, value in group.items() if key != "params"}
            for i, group in enumerate(optimizer.param_groups)
        },
        "scaler": dict(state.scaler.state_dict()) if state.scaler is not None else {},
        "callbacks": {
            type(callback).__qualname__: saved
            for callback in state.callbacks
            if (saved := callback.state_dict())
        },
        "clock": {
            "batch": clock.batch.value,
            "sample": clock.sample.value,
            "token": clock.token.value,
        },
        "random": _random_states(),
    }


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers of a model by name, each once."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        found.setdefault(id(value), (name, value))
    return {name: value.detach() for name, value in found.values()}


def put_back(state: State, model: nn.Module, tree: Tree) -> None:
    """Make a new Trainer's State go on from a tree, whose tensors are placed as the model's are.

    Raises:
        UserError: it is the state of another model, or of another version of ncamix.
    """
    if tree.get("format") != FORMAT:
        raise fail(
            "the checkpoint was written by another version of ncamix",
            "go on with that version, or start over with --fresh",
        )
    weights = weights_of(model)
    if {n: w.shape for n, w in weights.items()} != {n: w.shape for n, w in tree["model"].items()}:
        raise fail(
            "the checkpoint is that of another model",
            "go on with the trainer that it was started with, or start over with --fresh",
        )
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(tree["model"][name])
    _put_back_moments(state.optimizers[0], model, tree)
    if state.scaler is not None and tree["scaler"]:
        state.scaler.load_state_dict(tree["scaler"])
    for callback in state.callbacks:
        saved = tree["callbacks"].get(type(callback).__qualname__)
        if saved is not None:
            callback.load_state_dict(saved)
    batch, sample, token = (tree["clock"][unit] for unit in ("batch", "sample", "token"))
    state.timestamp = Timestamp(
        batch=batch,
        sample=sample,
        token=token,
        batch_in_epoch=batch,
        sample_in_epoch=sample,
        token_in_epoch=token,
        token_in_iteration=token,
    )
    resume_data(state.train_dataloader.dataset, sample)  # type: ignore[union-attr]
    state.dataset_resumption["train"] = True


def resume_data(dataset: Any, sample: int) -> None:
    """Have a dataset go on behind so many samples of the stage. All ranks call it.

    Streaming keeps that in memory that the ranks of a node share: none may look into it while
    another one makes it, or it finds nothing there.
    """
    # The one epoch of a stage; a dataset that nothing was read of believes to be before it.
    known = {**dataset.state_dict(sample, True), "epoch": 0}
    dist.barrier()
    first = dist.get_local_rank() == 0
    if first:
        dataset.load_state_dict(known)
    dist.barrier()
    if not first:
        dataset.load_state_dict(known)


def _put_back_moments(optimizer: torch.optim.Optimizer, model: nn.Module, tree: Tree) -> None:
    """Give an optimizer the moments of its parameters, by way of torch, which places them."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    inside = optimizer.state_dict()
    groups = zip(optimizer.param_groups, inside["param_groups"], strict=True)
    moments = {}
    for i, (group, packed) in enumerate(groups):
        packed |= tree["groups"].get(str(i), {})
        for parameter, number in zip(group["params"], packed["params"], strict=True):
            known = tree["moments"].get(names[parameter])
            if known:
                # not what lies in the file, which stays open as long
                moments[number] = {
                    key: value.clone() if isinstance(value, Tensor) else value
                    for key, value in known.items()
                }
    optimizer.load_state_dict({"state": moments, "param_groups": inside["param_groups"]})


def _random_states() -> Tree:
    """The states of torch's random numbers on each rank, by rank: what drops out depends on it."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        own["cuda"] = torch.cuda.get_rng_state()
    return {str(rank): state for rank, state in enumerate(dist.all_gather_object(own))}


def put_back_random(tree: Tree) -> None:
    """Go on with the random numbers of this rank, if there were as many ranks."""
    saved = tree["random"]
    if len(saved) != dist.get_world_size():
        return
    own = saved[str(dist.get_global_rank())]
    torch.set_rng_state(own["cpu"].cpu())
    if "cuda" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["cuda"].cpu())
