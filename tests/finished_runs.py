"""Run folders as a finished run leaves them, without the training: weights are drawn at random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ncamix.loading import load_curriculum
from ncamix.plan import Plan
from ncamix.plan_output import plan_json
from ncamix.planning import make_plan
from ncamix.run_folder import RunFolder
from ncamix.trainer import load_trainer

CURRICULUM = """\
ncamix: 1
name: tiny
seed: 3
tokenizer: bytes
sources:
  still: {kind: nca, alphabet: 2, grid: 6, band: {gzip: [0.0, 0.30]}}
  words: {kind: text, files: ["corpus/*.txt"], holdout: {share: 0.2}, repeat: free}
stages:
  - {name: warm, duration: 8ba, mixture: {still: 1}}
  - {name: text, duration: 8ba, mixture: {words: 1}, enter: {reinitialize: [embeddings]}}
  - {name: late, duration: 8ba, mixture: {words: 1, still: 1}}
evaluate: {every: 50%, sources: [words], samples: 8}
"""
TRAINER = """\
ncamix: 1
name: small
model: {layers: 1, heads: 2, width: 16, tie_embeddings: true}
sequence_length: 64
batch_size: 4
budget: 10ktok
optimizer: {lr: 1e-3}
"""


def finished_run(
    folder: Path,
    curriculum: str = CURRICULUM,
    trainer: str = TRAINER,
    finished: tuple[str, ...] = ("warm", "text", "late"),
) -> tuple[Path, Plan]:
    """A run's folder below `folder`, with the weights of its finished stages, and its plan."""
    (folder / "corpus").mkdir(parents=True)
    for i in range(30):
        lines = (f"line {j} of {i}: the quick brown fox {i * j}" for j in range(15))
        (folder / "corpus" / f"{i}.txt").write_text("\n".join(lines))
    (folder / "tiny.yaml").write_text(curriculum)
    (folder / "small.yaml").write_text(trainer)
    plan = make_plan(load_curriculum(folder / "tiny.yaml"), load_trainer(folder / "small.yaml"))
    run = RunFolder(folder / "runs" / plan.name)
    run.path.mkdir(parents=True)
    (run.path / "curriculum.yaml").write_text(plan.curriculum.document.text)
    (run.path / "trainer.yaml").write_text(plan.trainer.document.text)
    run.file("plan.json").write_text(json.dumps(plan_json(plan)))
    done = [stage for stage in plan.stages if stage.name in finished]
    rows = [{"stage": s.name, "loss": 4.0 + i} for s in done for i in range(40)]
    run.file("metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    row = {"source": "words", "loss": 3.25, "perplexity": 25.79, "bits_per_byte": 4.688}
    rows = [{"stage": s.name, "when": when, **row} for s in done for when in ("start", "end")]
    run.file("evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for stage in done:
        write_weights(run, plan, stage.index)
    return run.path, plan


def write_weights(run: RunFolder, plan: Plan, index: int) -> Any:
    """Write random weights as those of a stage; the model that has them."""
    from ncamix.training import checkpoints
    from ncamix.training.model import build_llama

    stage = plan.stages[index]
    model = build_llama(
        plan.trainer.trainer.model, plan.vocabulary.rows, stage.sequence_length, seed=index
    )
    home = run.checkpoints(stage.index, stage.name)
    home.mkdir(parents=True, exist_ok=True)
    checkpoints.write_weights(model, home, {"stage": stage.name})
    return model
