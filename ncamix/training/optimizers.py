"""Optimizers: a stage's optimizer over the parameters of its model."""

from __future__ import annotations

import torch

from ncamix.plan import PlannedStage


def make_optimizer(model: torch.nn.Module, stage: PlannedStage) -> torch.optim.Optimizer:
    """The stage's optimizer; weight decay on matrices alone. The recorder sets its rate."""
    o = stage.optimizer
    decay = float(o.weight_decay or 0)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    betas = tuple(map(float, o.betas)) if o.betas else (0.9, 0.999)
    kind = torch.optim.Adam if o.kind == "adam" else torch.optim.AdamW
    return kind(groups, lr=1.0, betas=betas, eps=float(o.eps or 1e-8))  # type: ignore[arg-type]
