"""The plan for readers: as JSON for machines, and in a line or two for people."""

from __future__ import annotations

from dataclasses import is_dataclass
from fractions import Fraction
from typing import Any

from pydantic import BaseModel
from rich.markup import escape

from ncamix.forecast import (
    disk,
    drawn_samples,
    epochs_of,
    even_batches,
    loss_tokens,
    peak_rate,
    rate_batches,
)
from ncamix.mixture import weights_as_floats
from ncamix.models import Model
from ncamix.origins import tokenizer_fingerprint
from ncamix.plan import Plan, PlannedStage
from ncamix.planned_source import PlannedSource
from ncamix.quantities import format_count, format_fraction
from ncamix.schedule import Keyframe

CURVE_POINTS = 101


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON: what `ncamix plan --json` prints and `plan.json` holds."""
    trainer = plan.trainer.trainer
    vocabulary, evaluate = plan.vocabulary, plan.curriculum.curriculum.evaluate
    drawn = drawn_samples(plan)
    return {
        "ncamix": 1,
        "name": plan.name,
        "fingerprint": plan.fingerprint,
        "curriculum_fingerprint": plan.curriculum.curriculum.fingerprint(),
        "curriculum_file": plan.curriculum.document.file,
        "trainer": {
            "name": trainer.name,
            "file": plan.trainer.document.file,
            "model": model_json(trainer.model),
            "parameters": trainer.model.num_parameters(vocabulary.rows),
            "sequence_length": trainer.sequence_length,
            "batch_size": trainer.batch_size,
            "budget_tokens": int(trainer.budget.value),
            "precision": trainer.precision,
            "parallelism": trainer.parallelism,
            "canonical_nodes": trainer.canonical_nodes,
            "averaging": words(trainer.averaging) or None,
        },
        "seeds": vars(plan.seeds),
        "vocabulary": {
            "rows": vocabulary.rows,
            "layout": vocabulary.layout,
            "softmax": vocabulary.softmax,
            "tokenizer": tokenizer_fingerprint(plan.tokenizer),
            "ranges": vocabulary.id_map(),
        },
        "evaluate": {
            "every": str(evaluate.every),
            "sources": list(evaluate.sources),
            "samples": evaluate.samples,
            "test": evaluate.test_samples,
            "benchmarks": {benchmark.name: len(benchmark.files) for benchmark in plan.benchmarks},
        },
        "num_tokens": plan.num_tokens,
        "disk": _disk(plan),
        "sources": {
            key: _source(plan, key, source, drawn[key]) for key, source in plan.sources.items()
        },
        "blends_by_size": {
            name: {source: float(share) for source, share in shares.items()}
            for name, shares in plan.blends_by_size().items()
        },
        "stages": [_stage(plan, stage) for stage in plan.stages],
        "warnings": list(plan.warnings),
    }


def model_json(model: Model) -> dict[str, Any]:
    """A model's keys as plain JSON, and what its files say; exact numbers become floats."""
    written = {key: float(v) if isinstance(v, Fraction) else v for key, v in model}
    return written if model.files is None else {**written, **model.files.facts()}


def _disk(plan: Plan) -> dict[str, Any]:
    forecast = disk(plan)
    return {
        "compiled_bytes": forecast.compiled,
        "generated_bytes_at_once": forecast.generated,
        "checkpoint_bytes": forecast.checkpoint,
        "checkpoints_at_once": forecast.num_checkpoints,
        "handed_over_bytes": forecast.weights,
    }


def _source(plan: Plan, key: str, source: PlannedSource, drawn: int) -> dict[str, Any]:
    epochs = epochs_of(plan, key)
    end = epochs.first_end if epochs else None
    return {
        "source": source.name,
        "sequence_length": source.sequence_length,
        "kind": source.kind,
        "summary": source.spec.summary(),
        "fingerprint": source.fingerprint,
        "limit": source.limit,
        "samples_needed": source.samples_needed,
        "tokens_needed": source.samples_needed * source.sequence_length,
        "samples_drawn": drawn,
        "loss_tokens_drawn": drawn * source.loss_tokens,
        "epochs": epochs.used if epochs else None,
        "epochs_exact": source.num_samples is not None if source.spec.finite else None,
        "num_samples": source.num_samples,
        "estimated_samples": source.estimated_samples,
        "first_epoch_ends": dict(zip(("token", "stage", "batch"), end, strict=True))
        if end
        else None,
        "batches_per_epoch": epochs.batches if epochs else None,
        "first_id": source.first_id,
        "num_ids": source.num_ids,
        "loss_tokens_per_sample": source.loss_tokens,
        "masked": source.masked,  # loss tokens are then the most that there can be
        "generation_core_seconds": plan.generation_seconds.get(key),
    }


def _stage(plan: Plan, stage: PlannedStage) -> dict[str, Any]:
    points = even_batches(stage, CURVE_POINTS)
    weights = [weights_as_floats(stage.mixture, t) for t in points]
    rated = rate_batches(stage, CURVE_POINTS)
    first, last = stage.apportionment.counts[[0, -1]].tolist()
    spec, enter = stage.spec, stage.enter
    return {
        "name": stage.name,
        "num_batches": stage.num_batches,
        "num_batches_planned": stage.clock_batches,
        "batch_size": stage.batch_size,
        "sequence_length": stage.sequence_length,
        "num_samples": stage.num_samples,
        "num_tokens": stage.num_tokens,
        "num_loss_tokens": sum(loss_tokens(plan, stage).values()),
        "loss_tokens_at_most": any(plan.dataset_of(n, stage).masked for n in stage.sources),
        "first_token": stage.first_token,
        "counts": stage.counts,
        "counts_of_first_batch": dict(zip(stage.sources, first, strict=True)),
        "counts_of_last_batch": dict(zip(stage.sources, last, strict=True)),
        "first_sample": stage.first_sample,
        "replayed": stage.replayed,
        "spared_rows": stage.spared,
        "frozen_batches": {str(group): batches for group, batches in stage.frozen},
        "origin": _origin(stage),
        "largest_deviation_samples": stage.apportionment.largest_deviation,
        "evaluate_after_batches": list(stage.evaluations),
        "evaluates": list(plan.evaluated(stage)),
        "awaits_text": list(plan.awaited(stage)),
        "transform": spec.transform,
        "until": str(spec.until) if spec.until else None,
        "mixture_curve": {
            "progress": [(t + 0.5) / stage.num_batches for t in points],
            "weights": {name: [w[name] for w in weights] for name in stage.sources},
        },
        "peak_learning_rate": peak_rate(stage),
        "learning_rate_curve": {
            "progress": [(t + 0.5) / stage.num_batches for t in rated],
            "rate": [stage.rate.at(t) for t in rated],
        },
        "enter": {key: _told(value) for key, value in enter} if enter else None,
    }


def _origin(stage: PlannedStage) -> dict[str, Any] | None:
    """The other run's weights that a stage begins with."""
    origin = stage.origin
    if origin is None:
        return None
    rows = [dict(zip(("first", "from", "number"), span, strict=True)) for span in origin.rows]
    return {"stage": origin.name, "content": origin.content, "rows": rows}


def _told(value: Any) -> Any:
    """A key's value for JSON: lists stay lists, everything else has its words."""
    if isinstance(value, tuple | list):
        return [words(item) for item in value]
    return words(value) or None


def words(value: Any) -> str:
    """A checked value as a reader writes it; nothing for what was not given."""
    if isinstance(value, Fraction):
        return format_fraction(value)
    if isinstance(value, Keyframe):
        ease = "" if value.ease == "linear" else f" {value.ease}"
        return f"{value.at}: {_mixture(value.value)}{ease}"
    if isinstance(value, tuple | list):
        between = "; " if any(isinstance(item, Keyframe) for item in value) else ", "
        return between.join(map(words, value))
    if isinstance(value, BaseModel):
        return _keys(dict(value))
    if is_dataclass(value) and type(value).__str__ is object.__str__:
        parts = vars(value)
        return _keys(parts) if len(parts) > 1 else words(*parts.values())
    return "" if value is None else str(value)


def _mixture(value: Any) -> str:
    if not isinstance(value, dict):
        return words(value)
    return " + ".join(f"{format_fraction(100 * w)}% {name}" for name, w in value.items() if w)


def _keys(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {words(value)}" for key, value in values.items() if words(value))


def plan_line(plan: Plan, chosen: str) -> str:
    """One line on what is about to run."""
    stages = ", then ".join(
        f"{stage.name} ({format_count(stage.num_tokens)} tokens)" for stage in plan.stages
    )
    return f"[bold]{plan.name}[/] under {escape(chosen)}: {stages}"


def summary_lines(summary: dict[str, Any], folder: Any) -> list[str]:
    """What a finished run came to, a line an evaluated source."""
    lines: list[str] = []
    if not summary:
        return lines
    last = summary["stages"][-1]
    for name, both in last["evaluation"].items():
        after = both["after"]
        bits = after["bits_per_byte"]
        lines.append(
            f"{name:>12}  evaluation loss {after['loss']:.3f} nats, perplexity "
            f"{after['perplexity']:.1f}" + (f", {bits:.3f} bits per byte" if bits else "")
        )
    export = folder / "export"
    model = f"the model is in {export}" if export.is_dir() else "without text, nothing to export"
    lines.append(f"see {folder}/report.html; {model}")
    return lines
