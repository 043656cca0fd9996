"""The plan for readers: JSON for machines, tables for people."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ncamix.plan import Plan, PlannedSource, PlannedStage, weights_as_floats
from ncamix.quantities import format_count
from ncamix.trainer import Model

CURVE_POINTS = 101


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain JSON: what `ncamix plan --json` prints and `plan.json` holds."""
    trainer = plan.trainer.trainer
    vocabulary = plan.vocabulary
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
        },
        "seeds": vars(plan.seeds),
        "vocabulary": {
            "rows": vocabulary.rows,
            "layout": vocabulary.layout,
            "softmax": vocabulary.softmax,
            "ranges": [
                {"name": name, "first": first, "size": size}
                for name, (first, size) in vocabulary.ranges.items()
            ],
        },
        "num_tokens": plan.num_tokens,
        "sources": {name: _source(source) for name, source in plan.sources.items()},
        "stages": [_stage(plan, stage) for stage in plan.stages],
        "warnings": list(plan.warnings),
    }


def model_json(model: Model) -> dict[str, Any]:
    """A model's keys as plain JSON; exact numbers become floats."""
    return {
        key: float(value) if isinstance(value, Fraction) else value
        for key, value in ((name, getattr(model, name)) for name in Model.model_fields)
    }


def _source(source: PlannedSource) -> dict[str, Any]:
    return {
        "kind": source.kind,
        "summary": source.spec.summary(),
        "fingerprint": source.fingerprint,
        "samples_needed": source.samples_needed,
        "tokens_needed": source.samples_needed * source.sequence_length,
        "epochs": source.epochs(),
        "epochs_exact": source.num_samples is not None if source.text else None,
        "num_samples": source.num_samples,
        "first_id": source.first_id,
        "num_ids": source.num_ids,
        "loss_tokens_per_sample": source.loss_tokens,
    }


def _stage(plan: Plan, stage: PlannedStage) -> dict[str, Any]:
    points = sorted(
        {i * (stage.num_batches - 1) // (CURVE_POINTS - 1) for i in range(CURVE_POINTS)}
    )
    progress = [(t + 0.5) / stage.num_batches for t in points]
    weights = [weights_as_floats(stage.mixture, t) for t in points]
    enter = stage.enter
    return {
        "name": stage.name,
        "num_batches": stage.num_batches,
        "batch_size": stage.batch_size,
        "sequence_length": stage.sequence_length,
        "num_samples": stage.num_samples,
        "num_tokens": stage.num_tokens,
        "num_loss_tokens": sum(n * plan.sources[s].loss_tokens for s, n in stage.counts.items()),
        "first_token": stage.first_token,
        "counts": stage.counts,
        "first_sample": stage.first_sample,
        "largest_deviation_samples": stage.apportionment.largest_deviation,
        "evaluate_after_batches": list(stage.evaluations),
        "mixture_curve": {
            "progress": progress,
            "weights": {name: [w[name] for w in weights] for name in stage.sources},
        },
        "learning_rate_curve": {
            "progress": progress,
            "rate": [stage.rate.at(t) for t in points],
        },
        "enter": {
            "reinitialize": list(enter.reinitialize),
            "initializer": str(enter.initializer),
            "optimizer_state": enter.optimizer_state,
        }
        if enter
        else None,
    }


def print_plan(plan: Plan, chosen: str, console: Console) -> None:
    """The plan as tables on a terminal. `chosen` says why the trainer was chosen."""
    trainer, vocabulary = plan.trainer.trainer, plan.vocabulary
    model = trainer.model
    parameters = format_count(model.num_parameters(vocabulary.rows))
    console.print(
        Text.assemble(
            (plan.name, "bold"),
            f" under {chosen}\n",
            f"{model.kind}, {model.layers} layers x {model.width} wide, {parameters} parameters, "
            f"{trainer.precision}; sequences of {trainer.sequence_length} tokens; "
            f"{format_count(plan.num_tokens)} tokens in all",
        )
    )
    console.print(Group(_stage_table(plan), _source_table(plan), _vocabulary_table(plan)))
    for warning in plan.warnings:
        console.print(Text.assemble(("note  ", "yellow"), warning))
    console.print(f"fingerprint {plan.fingerprint}", style="dim")


def _table(title: str, *columns: str, left: int = 1) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for i, column in enumerate(columns):
        table.add_column(
            column,
            justify="left" if i < left else "right",
            overflow="fold" if i < left else "ellipsis",
        )
    return table


def _stage_table(plan: Plan) -> Table:
    table = _table(
        "\nstages",
        "stage",
        "batches",
        "batch size",
        "samples",
        "tokens",
        "peak rate",
        "samples by source",
        "deviation",
    )
    for stage in plan.stages:
        peak = max(
            stage.rate.at(t) for t in range(0, stage.num_batches, max(1, stage.num_batches // 200))
        )
        counts = "\n".join(f"{name} {count:,}" for name, count in stage.counts.items())
        table.add_row(
            stage.name,
            f"{stage.num_batches:,}",
            f"{stage.batch_size:,}",
            f"{stage.num_samples:,}",
            f"{stage.num_tokens:,}",
            f"{peak:.3g}",
            counts,
            f"{stage.apportionment.largest_deviation:.2f}",
        )
    table.caption = (
        "deviation: largest distance, in samples, between a source's count and its schedule after "
        "any batch"
    )
    table.caption_justify = "left"
    return table


def _source_table(plan: Plan) -> Table:
    table = _table(
        "\nsources",
        "source",
        "what",
        "fingerprint",
        "samples needed",
        "epochs",
        "ids",
        "loss tokens",
        left=3,
    )
    for name, source in plan.sources.items():
        epochs = source.epochs()
        shown = "endless" if source.text is None else "unknown"
        if epochs is not None:
            shown = f"{'' if source.num_samples else 'about '}{epochs:.2f}"
        table.add_row(
            name,
            source.spec.summary(),
            source.fingerprint[:12],
            f"{source.samples_needed:,}",
            shown,
            f"{source.first_id:,}-{source.first_id + source.num_ids - 1:,}",
            f"{source.loss_tokens}/{source.sequence_length}",
        )
    return table


def _vocabulary_table(plan: Plan) -> Table:
    v = plan.vocabulary
    table = _table(
        f"\nvocabulary: {v.rows:,} rows, {v.layout}, softmax over "
        f"{'the ids a stage can emit' if v.softmax == 'active' else 'all rows'}",
        "range",
        "first id",
        "ids",
    )
    for name, (first, size) in v.ranges.items():
        table.add_row(name, f"{first:,}", f"{size:,}")
    return table


def plan_line(plan: Plan, chosen: str) -> str:
    """One line on what is about to run."""
    stages = ", then ".join(
        f"{stage.name} ({format_count(stage.num_tokens)} tokens)" for stage in plan.stages
    )
    return f"[bold]{plan.name}[/] under {chosen}: {stages}"


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
    lines.append(f"see {folder}/report.html; the model is in {folder}/export")
    return lines
