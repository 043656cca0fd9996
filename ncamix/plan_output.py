"""The plan for readers: JSON for machines, tables for people."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ncamix.mixture import weights_as_floats
from ncamix.plan import Plan, PlannedSource, PlannedStage, VocabularyPlan
from ncamix.quantities import format_count, format_seconds
from ncamix.sources.base import plain
from ncamix.threads import count_threads
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
        "evaluate": plain(plan.curriculum.curriculum.evaluate),
        "num_tokens": plan.num_tokens,
        "sources": {name: _source(plan, source) for name, source in plan.sources.items()},
        "stages": [_stage(plan, stage) for stage in plan.stages],
        "warnings": list(plan.warnings),
    }


def model_json(model: Model) -> dict[str, Any]:
    """A model's keys as plain JSON; exact numbers become floats."""
    return {
        key: float(value) if isinstance(value, Fraction) else value
        for key, value in ((name, getattr(model, name)) for name in Model.model_fields)
    }


def _source(plan: Plan, source: PlannedSource) -> dict[str, Any]:
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
        "generation_core_seconds": plan.generation_seconds.get(source.name),
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
            "reinitialize": [str(group) for group in enter.reinitialize],
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
    blank = Text("")
    console.print(
        Group(
            blank,
            Text("stages", "bold"),
            _stage_table(plan),
            Text("deviation: largest distance, in samples, of a count from its schedule", "dim"),
            blank,
            Text("sources", "bold"),
            _source_table(plan),
            Text("loss: tokens with a loss, of all tokens of a sample", "dim"),
            Text(_generation(plan), "dim"),
            blank,
            _vocabulary_title(vocabulary),
            _vocabulary_table(vocabulary),
            blank,
        )
    )
    for warning in plan.warnings:
        console.print(Text.assemble(("note  ", "yellow"), warning))
    console.print(Text(f"fingerprint {plan.fingerprint}", "dim"))


def _table(*columns: str, text: int) -> Table:
    """A table whose first `text` columns may wrap; the others hold numbers, which never do."""
    table = Table(header_style="dim", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        if i < text:
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def _add_row(table: Table, *cells: str, style: str = "") -> None:
    table.add_row(*map(Text, cells), style=style)  # Text: a glob such as [a-z] is no markup


def _stage_table(plan: Plan) -> Table:
    """A row a stage, and below it one for each source that it draws from."""
    table = _table(
        "stage", "batches", "of size", "samples", "tokens", "peak rate", "deviation", text=1
    )
    for stage in plan.stages:
        peak = max(
            stage.rate.at(t) for t in range(0, stage.num_batches, max(1, stage.num_batches // 200))
        )
        _add_row(
            table,
            stage.name,
            f"{stage.num_batches:,}",
            f"{stage.batch_size:,}",
            f"{stage.num_samples:,}",
            f"{stage.num_tokens:,}",
            f"{peak:.3g}",
            f"{stage.apportionment.largest_deviation:.2f}",
        )
        for name, count in stage.counts.items():
            tokens = count * stage.sequence_length
            _add_row(table, f"  {name}", "", "", f"{count:,}", f"{tokens:,}", style="dim")
    return table


def _source_table(plan: Plan) -> Table:
    table = _table("source", "what", "samples", "epochs", "loss", "fingerprint", text=2)
    for name, source in plan.sources.items():
        epochs = source.epochs()
        shown = "endless" if source.text is None else "unknown"
        if epochs is not None:
            shown = f"{'' if source.num_samples else 'about '}{epochs:.2f}"
        _add_row(
            table,
            name,
            source.spec.summary(),
            f"{source.samples_needed:,}",
            shown,
            f"{source.loss_tokens}/{source.sequence_length}",
            source.fingerprint[:12],
        )
    return table


def _generation(plan: Plan) -> str:
    """How long the endless sources take to generate, in words."""
    cores = count_threads()
    seconds = {name: s / cores for name, s in plan.generation_seconds.items()}
    total = f"generating takes about {format_seconds(sum(seconds.values()))} on {cores} cores"
    if sum(seconds.values()) < 1:
        return "generating takes under a second"
    slowest = max(seconds, key=seconds.__getitem__)
    return f"{total}, most of it '{slowest}' ({format_seconds(seconds[slowest])})"


def _vocabulary_title(vocabulary: VocabularyPlan) -> Text:
    over = "the ids that a stage can emit" if vocabulary.softmax == "active" else "all rows"
    facts = f": {vocabulary.rows:,} rows, {vocabulary.layout}, softmax over {over}"
    return Text.assemble(("vocabulary", "bold"), facts)


def _vocabulary_table(vocabulary: VocabularyPlan) -> Table:
    table = _table("range", "first id", "ids", text=1)
    for name, (first, size) in vocabulary.ranges.items():
        _add_row(table, name, f"{first:,}", f"{size:,}")
    return table


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
