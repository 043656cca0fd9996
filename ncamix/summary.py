"""The summary of a finished run: planned and realised, losses, speed, fingerprints and versions."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from statistics import fmean, median
from typing import Any

from ncamix.files import write_whole
from ncamix.plan import Plan
from ncamix.run_folder import SUMMARY, TEST, RunFolder, read_rows

_PACKAGES = (
    "ncamix",
    "torch",
    "mosaicml",
    "mosaicml-streaming",
    "transformers",
    "tokenizers",
    "numpy",
    "numba",
    "pydantic",
)
FINAL_SHARE = 20  # the final train loss is the mean over the last 1/20 of a stage's batches


def write_summary(plan: Plan, folder: RunFolder, device: str) -> dict[str, Any]:
    """Write `summary.json` from the run's own records, its `test.json` among them, and return
    it."""
    metrics = read_rows(folder.file("metrics.jsonl"))
    evaluations = read_rows(folder.file("evaluations.jsonl"))
    times, probes = (read_rows(folder.file(f"{name}.jsonl")) for name in ("speed", "induction"))
    stages = []
    for stage in plan.stages:
        facts = json.loads((folder.checkpoints(stage.index, stage.name) / "stage.json").read_text())
        losses = [row["loss"] for row in metrics if row["stage"] == stage.name]
        last = losses[-max(1, len(losses) // FINAL_SHARE) :]
        found = [loss for loss in last if loss is not None]  # none where all was masked
        evaluation: dict[str, dict[str, Any]] = {}
        for row in evaluations:
            when = {"start": "before", "end": "after"}.get(row["when"])
            if row["stage"] == stage.name and when:
                shown = {
                    k: v
                    for k, v in row.items()
                    if k not in ("stage", "batch", "tokens", "when", "source")
                }
                evaluation.setdefault(row["source"], {})[when] = shown
        induction = {
            ("before" if row["when"] == "start" else "after"): {
                k: v for k, v in row.items() if k not in ("stage", "batch", "tokens", "when")
            }
            for row in probes
            if row["stage"] == stage.name and row["when"] in ("start", "end")
        }
        timed = [r for r in times if r["stage"] == stage.name]
        waits = [r["data_wait"] / max(r["seconds"], 1e-9) for r in timed]
        used = [(r["mfu"], r["seconds"]) for r in timed if "mfu" in r]
        stages.append(
            {
                "name": stage.name,
                "planned": stage.counts,
                "realised": facts["realised"],
                "num_batches": stage.num_batches,
                "num_batches_planned": stage.clock_batches,
                "num_tokens": stage.num_tokens,
                "loss_tokens": facts["loss_tokens"],
                "train_loss": fmean(found) if found else None,
                "seconds": facts["seconds"],
                "tokens_per_second": stage.num_tokens / max(facts["seconds"], 1e-9),
                "data_wait_seconds": facts.get("data_wait"),
                "data_wait_share": median(waits) if waits else None,  # of a step
                "mfu": fmean([u for u, _ in used], [s for _, s in used]) if used else None,
                "evaluation": evaluation,
                "induction": induction,
            }
        )
    summary = {
        "name": plan.name,
        "finished": True,
        "trainer": plan.trainer.trainer.name,
        "device": device,
        "num_tokens": plan.num_tokens,
        "stages": stages,
        "test": _tested(folder),
        "curriculum_fingerprint": plan.curriculum.curriculum.fingerprint(),
        "plan_fingerprint": plan.fingerprint,
        "versions": versions(),
    }
    write_whole(folder.file(SUMMARY), json.dumps(summary, indent=1).encode())
    return summary


def _tested(folder: RunFolder) -> dict[str, dict[str, Any] | None]:
    """The figures of the run's test by source, without those of documents; None of a source that
    holds nothing out for it."""
    found = json.loads(folder.file(TEST).read_text())["sources"]
    return {
        name: figures and {k: v for k, v in figures.items() if k != "documents"}
        for name, figures in found.items()
    }


def versions() -> dict[str, str]:
    """Versions of everything that a result may depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def device_name(device: str) -> str:
    """The hardware in words."""
    if device == "gpu":
        import torch

        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"{len(os.sched_getaffinity(0))} CPU cores"
