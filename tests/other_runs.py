"""Runs that others begin with, as far as a plan looks into them: their plan and their weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ncamix.models import Llama
from ncamix.plan import Plan
from ncamix.plan_output import plan_json
from ncamix.run_folder import WEIGHTS


def finish(run: Path, plan: Plan, *stages: str, value: float = 1.0) -> None:
    """Make `run` the folder of a run of `plan` that has finished some stages, all weights alike."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "plan.json").write_text(json.dumps(plan_json(plan)))
    for stage in plan.stages:
        if stage.name in stages:
            folder = run / "checkpoints" / f"{stage.index}-{stage.name}"
            folder.mkdir(parents=True, exist_ok=True)
            model = plan.trainer.trainer.model
            assert isinstance(model, Llama)
            shapes = shapes_of(model, plan.vocabulary.rows)
            weights = {name: np.full(shape, value, "f4") for name, shape in shapes.items()}
            save_file(weights, folder / WEIGHTS, {"stage": stage.name})


def shapes_of(model: Llama, rows: int) -> dict[str, tuple[int, ...]]:
    """Parameters of a Llama with as many heads of keys as others, and untied embeddings."""
    width, mlp = model.width, model.mlp_width or 4 * model.width
    assert model.kv_heads is None and not model.tie_embeddings
    layer: dict[str, tuple[int, ...]] = {
        **{f"self_attn.{x}_proj": (width, width) for x in "qkvo"},
        **{f"mlp.{x}_proj": (mlp, width) for x in ("gate", "up")},
        "mlp.down_proj": (width, mlp),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    return {
        "model.embed_tokens.weight": (rows, width),
        **{
            f"model.layers.{i}.{name}.weight": shape
            for i in range(model.layers)
            for name, shape in layer.items()
        },
        "model.norm.weight": (width,),
        "lm_head.weight": (rows, width),
    }
