"""Optimizers: a stage's optimizer over the parameters of its model, and states that go on.

    parameters -> groups: those decayed (matrices) and not, those that Muon turns -> optimizer
    the state of another stage's optimizer, by parameter name -> this one's, changed rows at zero

Rates are set before every batch from outside: an optimizer is made with rates that are shares of
the stage's own (`SHARE`), 1 but for what AdamW trains beside Muon.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytorch_optimizer
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from ncamix.plan import PlannedStage
from ncamix.training.model import parameter_groups

SHARE = "share"  # of a group: its rate is so much of the stage's
TURNED = ("attention", "mlp")  # groups whose matrices Muon trains
_STEP = "step"

Moments = Mapping[str, Tensor]
"""What an optimizer knows of a parameter, by name; `step` is a number of batches, 0-d."""


def make_optimizer(model: torch.nn.Module, stage: PlannedStage) -> torch.optim.Optimizer:
    """The stage's optimizer; weight decay on matrices alone. The recorder sets its rates.

    model: a CurriculumModel.
    """
    o = stage.optimizer
    decay, eps = float(o.meant("weight_decay")), float(o.meant("eps"))
    usual: dict[str, Any] = {"betas": tuple(map(float, o.meant("betas"))), "eps": eps, "lr": 1.0}
    turned = _hidden_matrices(model.model) if o.algorithm == "muon" else set()  # type: ignore[arg-type]
    trained = [p for p in model.parameters() if p.requires_grad and id(p) not in turned]
    share = float(o.meant("adam_ratio")) if o.algorithm == "muon" else 1.0
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": decay, SHARE: share},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0, SHARE: share},
    ]
    if o.algorithm == "adam":
        return torch.optim.Adam(groups, **usual)
    if o.algorithm == "adamw":
        return torch.optim.AdamW(groups, **usual)
    groups.append(
        {
            "params": [p for p in model.parameters() if p.requires_grad and id(p) in turned],
            "weight_decay": decay,
            "momentum": float(o.meant("momentum")),
            "use_muon": True,
            SHARE: 1.0,
        }
    )
    return Muon(groups, **usual)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the stage's rate."""
    for group in optimizer.param_groups:
        group["lr"] = group[SHARE] * rate


class Muon(torch.optim.Optimizer):
    """Muon for the groups that say `use_muon`, torch's AdamW for all others, as one optimizer.

    pytorch_optimizer's Muon has an AdamW of its own, but counts steps by group, and on while a
    parameter is frozen; torch's counts them by parameter.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], **usual: Any) -> None:
        turned = [group for group in groups if group.get("use_muon")]
        self._muon = pytorch_optimizer.Muon([{"lr": usual["lr"], **g} for g in turned])
        self._adamw = torch.optim.AdamW([g for g in groups if not g.get("use_muon")], **usual)
        super().__init__([*self._adamw.param_groups, *self._muon.param_groups], {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a state, also one that went through JSON, which knows no tuples."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            if group.get("use_muon"):
                group["ns_coeffs"] = [tuple(three) for three in group["ns_coeffs"]]

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        """One step. Gradients of Muon's groups are overwritten."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # Bound anew each time: loading a state, and sharding, replace what these hold.
        for part, turned in ((self._adamw, False), (self._muon, True)):
            part.param_groups = [g for g in self.param_groups if bool(g.get("use_muon")) == turned]
            part.state = self.state
            part.step()
        return loss


def _hidden_matrices(model: Any) -> set[int]:
    """The matrices of a model's layers, by `id`."""
    groups = parameter_groups(model)
    known = dict(model.named_parameters())
    found = [known[name] for group in TURNED for name in groups[group]]
    return {id(parameter) for parameter in found if parameter.ndim == 2}


def complete_state(optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter that has none yet the state of a first step: moments of zero.

    Optimizers make it when a parameter has its first gradient, and a checkpoint holds it of all.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state[parameter]:
                optimizer.state[parameter] = _fresh(parameter, group)


def _fresh(parameter: Tensor, group: Mapping[str, Any]) -> dict[str, Tensor]:
    if group.get("use_muon"):
        return {"momentum_buffer": torch.zeros_like(parameter)}
    return {
        _STEP: torch.tensor(0.0),
        "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
        "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
    }


def keep_state(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    known: Mapping[str, Moments],
    changed: Mapping[str, Iterable[tuple[int, int]]],
) -> None:
    """Go on with the state that another optimizer of this kind had.

    parameters: of the optimizer, by name. known: states by name, whole. changed: the parameters
    drawn anew or permuted, and the rows [first, last) of each that were not; moments of all other
    rows become zero, and so does the parameter's number of steps, by which Adam corrects moments
    that began at zero. (Rows that stayed then move less than usual at first.)
    """
    complete_state(optimizer)
    for name, parameter in parameters.items():
        if name not in known:
            continue
        spared = tuple(changed.get(name, ()))
        if name in changed and not spared:
            continue
        for key, own in optimizer.state[parameter].items():
            value = known[name][key]
            if name in changed:
                value = torch.zeros_like(value) if key == _STEP else _only(value, spared)
            own.copy_(_as(own, value.to(own.device, own.dtype)))


def _only(value: Tensor, rows: Iterable[tuple[int, int]]) -> Tensor:
    """A value with zero everywhere but in some rows."""
    kept = torch.zeros_like(value)
    for first, last in rows:
        kept[first:last] = value[first:last]
    return kept


def _as(own: Tensor, value: Tensor) -> Tensor:
    """A whole value, sharded as `own` is."""
    if isinstance(own, DTensor):
        return distribute_tensor(value, own.device_mesh, own.placements)
    return value
