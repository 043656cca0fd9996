"""The plan as tables: what `ncamix plan` prints on a terminal, or into a pipe.

Numbers are never broken: names and descriptions wrap instead. Rates and shares are rounded for the
reader; the JSON of `plan_output` has all digits.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ncamix.forecast import (
    Epochs,
    disk,
    epochs_of,
    loss_tokens,
    peak_rate,
)
from ncamix.plan import Plan, PlannedStage, VocabularyPlan
from ncamix.plan_output import words
from ncamix.quantities import counted, format_bytes, format_count, format_fraction, format_seconds
from ncamix.sources import BlendSource
from ncamix.threads import count_threads

SPECIAL_SHOWN = 6  # special ids of a range, at most; the JSON has all
TRANSFORMS = {
    "reverse": "plays its mixture backwards",
    "flatten": "spreads the counts of its mixture evenly",
}


def print_plan(plan: Plan, chosen: str, console: Console) -> None:
    """The plan as tables on a terminal. `chosen` says why the trainer was chosen."""
    trainer, vocabulary = plan.trainer.trainer, plan.vocabulary
    model = trainer.model
    parameters = format_count(model.num_parameters(vocabulary.rows))
    parts: list[RenderableType] = [
        Text.assemble((plan.name, "bold"), f" under {chosen}"),
        Text(
            f"{model.title}, {model.layers} layers x {model.width} wide, {parameters} parameters, "
            f"{trainer.precision}; sequences of {trainer.sequence_length} tokens; "
            f"{format_count(plan.num_tokens)} tokens in all"
        ),
        *(_quiet(line) for line in _averaging_words(plan)),
        Text("\nstages", "bold"),
        _stage_table(plan),
        *(_quiet(line) for stage in plan.stages for line in stage_words(stage)),
        *(_quiet(line) for line in (*_evaluation_words(plan), *_text_words(plan))),
        _quiet("deviation: largest distance, in samples, of a count from its schedule"),
        Text("\nsamples", "bold"),
        _sample_table(plan),
        _quiet("first and last: samples in the first and the last batch of the stage"),
        Text("\nsources", "bold"),
        _source_table(plan),
        _quiet("loss: tokens with a loss, of all tokens of a sample"),
        *(_quiet(line) for key in plan.sources for line in _epoch_words(plan, key)),
        *(_quiet(line) for line in _size_words(plan)),
        Text("\ncosts", "bold"),
        *(_cost_lines(plan)),
        Text(""),
        _vocabulary_title(vocabulary),
        _vocabulary_table(vocabulary),
        Text(""),
        *(Text.assemble(("note  ", "yellow"), warning) for warning in plan.warnings),
        _quiet(f"fingerprint {plan.fingerprint}"),
    ]
    for part in parts:
        console.print(part)


def _averaging_words(plan: Plan) -> list[str]:
    """What stages hand over in place of their last weights, a line."""
    how = plan.trainer.trainer.averaging
    if how is None:
        return []
    over = f"with a decay of {words(how.ema)}" if how.last is None else f"of its last {how.last}"
    return [f"each stage hands over an average of its weights, {over}"]


def _quiet(line: str) -> Text:
    return Text(line, "dim")


def new_table(*columns: str, text: int) -> Table:
    """A table whose first `text` columns may wrap; the others hold numbers, which never do."""
    table = Table(header_style="dim", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        if i < text:
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def add_row(table: Table, *cells: str, style: str = "") -> None:
    """A row of plain text: a glob such as [a-z] is no markup."""
    table.add_row(*map(Text, cells), style=style)


def _stage_table(plan: Plan) -> Table:
    table = new_table("stage", "batches", "of size", "tokens", "peak rate", "deviation", text=1)
    for stage in plan.stages:
        add_row(
            table,
            stage.name,
            f"{stage.num_batches:,}",
            f"{stage.batch_size:,}",
            f"{stage.num_tokens:,}",
            f"{peak_rate(stage):.3g}",
            f"{stage.apportionment.largest_deviation:.2f}",
        )
    return table


def stage_words(stage: PlannedStage) -> list[str]:
    """What a stage does beside its mixture, a line each; names the stage."""
    spec, lines = stage.spec, []
    if spec.transform is not None:
        lines.append(TRANSFORMS[spec.transform])
    if stage.replayed:
        lines.append(f"deals again what earlier stages drew of {', '.join(stage.replayed)}")
    if spec.until is not None:
        lines.append(f"ends early once {spec.until}")
    if stage.clock_batches > stage.num_batches:
        lines.append(f"ended on evidence, {stage.clock_batches:,} batches were planned")
    if spec.sequence_length is not None:
        lines.append(f"has sequences of {spec.sequence_length}")
    if spec.precision is not None:
        lines.append(f"trains in {spec.precision}")
    lines += _enter_words(stage)
    return [f"{stage.name}: {line}" for line in lines]


def _evaluation_words(plan: Plan) -> list[str]:
    """What is evaluated and when, a line; nothing where nothing is."""
    evaluate, first = plan.curriculum.curriculum.evaluate, plan.evaluated(plan.stages[0])
    later = [name for name in evaluate.sources if name not in first]
    if not evaluate.sources:
        return []
    parts = [", ".join(first)] if first else []
    if later:
        parts.append(f"{', '.join(later)} from stage '{plan.stages[plan.text_from].name}' on")
    when = f"as every stage begins and ends, and every {evaluate.every}"
    return [f"evaluated {when}: {'; '.join(parts)}"]


def _text_words(plan: Plan) -> list[str]:
    """Which texts are compiled while earlier stages train, a line a stage."""
    known, lines = set(plan.awaited(plan.stages[0])), []
    for stage in plan.stages[1:]:
        names = [name for name in plan.awaited(stage) if name not in known]
        known |= set(names)
        if names:
            lines.append(
                f"{stage.name}: awaits the text of {', '.join(names)}, compiled while earlier "
                "stages train"
            )
    return lines


def _enter_words(stage: PlannedStage) -> list[str]:
    """What happens on entering a stage."""
    enter = stage.enter
    if enter is None:
        return []
    told = {
        "starts from": _origin_words(stage),
        "re-initialises": enter.reinitialize,
        "re-initialises all but": enter.keep_only,
        "permutes": enter.permute,
        "spares the rows of": enter.spare,
        "freezes": enter.freeze,
    }
    parts = [f"{verb} {words(what)}" for verb, what in told.items() if what]
    way = enter.initializer
    if way != "model":
        normal = isinstance(way, Fraction)
        parts.append(f"draws from {f'normal(0, {words(way)})' if normal else f'{way} defaults'}")
    kept = enter.optimizer_state == "keep"
    parts.append("keeps the optimizer's state" if kept else "starts a fresh optimizer")
    return [f"on entering, {', '.join(parts)}"]


def _origin_words(stage: PlannedStage) -> str:
    """The other run whose weights a stage begins with, and their rows."""
    if stage.origin is None:
        return ""
    origin = stage.origin
    return f"{origin.name} ({'; '.join((origin.content[:12], *origin.told))})"


def _sample_table(plan: Plan) -> Table:
    """What is drawn of each source: stage by stage, and in the whole run."""
    table = new_table("", "samples", "tokens", "with a loss", "share", "first", "last", text=1)
    Numbers = tuple[int, int, int]  # samples, tokens, tokens with a loss

    def block(title: str, drawn: dict[str, Numbers], ends: list[dict[str, int]]) -> None:
        """A line for all, and one a source."""
        whole = [sum(column) for column in zip(*drawn.values(), strict=True)]
        add_row(table, title, *(f"{n:,}" for n in whole), "", "", "")
        for name, numbers in drawn.items():
            share = _percent(numbers[1] / whole[1])
            shown = [f"{end[name]:,}" for end in ends] or ["", ""]
            cells = (f"  {name}", *(f"{n:,}" for n in numbers), share, *shown)
            add_row(table, *cells, style="dim")

    run: dict[str, Numbers] = {}
    names = plan.curriculum.curriculum.sources  # in the order written
    for stage in plan.stages:
        drawn = {}
        for name in (name for name in names if name in stage.sources):
            n = stage.counts[name]
            drawn[name] = (n, n * stage.sequence_length, loss_tokens(plan, stage)[name])
        ends = stage.apportionment.counts[[0, -1]].tolist()
        block(stage.name, drawn, [dict(zip(stage.sources, end, strict=True)) for end in ends])
        for name, numbers in drawn.items():
            samples, tokens, loss = run.get(name, (0, 0, 0))
            run[name] = (samples + numbers[0], tokens + numbers[1], loss + numbers[2])
    if len(plan.stages) > 1:
        block("in all", run, [])
    return table


def _percent(share: float) -> str:
    """A share for a reader; what is there at all is never 0%."""
    if share >= 0.0005 or not share:
        return f"{share:.1%}"
    return f"{100 * share:.0e}%".replace("e-0", "e-")


def _source_table(plan: Plan) -> Table:
    table = new_table("source", "what", "epochs", "loss", "fingerprint", text=2)
    for name, source in plan.sources.items():
        epochs, shown = epochs_of(plan, name), "unknown" if source.spec.finite else "endless"
        if epochs is not None:
            shown = f"{'' if epochs.exact else 'about '}{epochs.used:,.2f}"
        add_row(
            table,
            name,
            source.spec.summary(),
            shown,
            f"{'≤' if source.masked else ''}{source.loss_tokens}/{source.sequence_length}",
            source.fingerprint[:12],
        )
    return table


def _epoch_words(plan: Plan, key: str) -> list[str]:
    """How a finite source is used up, a line; nothing for the others."""
    epochs = epochs_of(plan, key)
    if epochs is None:
        return []
    about = "" if epochs.exact else "about "
    lasts = ", ".join(
        f"{counted(round(n), 'batch', 'batches')} of {stage}" for stage, n in epochs.batches.items()
    )
    lasts = f", {lasts}" if lasts else ""
    head = f"{key}: an epoch is {about}{counted(epochs.num_samples, 'sample')}{lasts}; "
    return [head + _repetition(epochs)]


def _repetition(epochs: Epochs) -> str:
    if epochs.first_end is None:
        return "no sample comes twice"
    token, stage, batch = epochs.first_end
    where = f"after {'' if epochs.exact else 'about '}{counted(token, 'token')} of the run"
    least, most = floor(epochs.used), ceil(epochs.used)
    times = counted(round(epochs.used), "time")
    if least < most and epochs.exact:
        times = f"{least:,} or {most:,} times"
    return (
        f"the first ends {where} ({stage}, batch {batch:,}); each sample comes "
        f"{'' if epochs.exact else 'about '}{times}"
    )


def _size_words(plan: Plan) -> list[str]:
    """What each blend by size comes to, a line each."""
    lines = []
    for name, shares in plan.blends_by_size().items():
        spec = plan.curriculum.curriculum.sources[name]
        assert isinstance(spec, BlendSource)
        temperature = format_fraction(spec.temperature)
        parts = ", ".join(f"{source} {_percent(float(share))}" for source, share in shares.items())
        lines.append(f"{name}: by size of files at temperature {temperature}, {parts}")
    return lines


def _cost_lines(plan: Plan) -> list[Text]:
    """Time and disk that the plan takes."""
    forecast = disk(plan)
    known = [n for n in forecast.compiled.values() if n is not None]
    unknown = [name for name, n in forecast.compiled.items() if n is None]
    guessed = any(s.spec.finite and s.num_samples is None for s in plan.sources.values())
    lines = [_generation(plan)] if plan.generation_seconds else []
    if known:
        size = f"{'about ' if guessed else ''}{format_bytes(sum(known))} before compression"
        beside = f", and {', '.join(unknown)}, of unknown size" if unknown else ""
        lines.append(f"compiling writes {size}{beside}")
    if forecast.generated:
        lines.append(
            f"a run generates up to {format_bytes(forecast.generated)} for a stage, and deletes it "
            "when the stage ends"
        )
    lines.append(
        f"a checkpoint takes {format_bytes(forecast.checkpoint)}; a run holds up to "
        f"{forecast.num_checkpoints} at once, and the weights that each stage hands over, "
        f"{format_bytes(forecast.num_checkpoints * forecast.checkpoint + forecast.weights)} in all"
    )
    return [Text(line) for line in lines]


def _generation(plan: Plan) -> str:
    """How long the endless sources take to generate, in words."""
    cores = count_threads()
    seconds = {name: s / cores for name, s in plan.generation_seconds.items()}
    total = f"generating takes about {format_seconds(sum(seconds.values()))}"
    if sum(seconds.values()) < 1:
        return "generating takes under a second"
    slowest = max(seconds, key=seconds.__getitem__)
    most = f"most of it '{slowest}' ({format_seconds(seconds[slowest])})"
    return f"{total} on {counted(cores, 'core')}, {most}"


def _vocabulary_title(vocabulary: VocabularyPlan) -> Text:
    over = "the ids that a stage can emit" if vocabulary.softmax == "active" else "all rows"
    facts = f": {counted(vocabulary.rows, 'row')}, {vocabulary.layout}, softmax over {over}"
    return Text.assemble(("vocabulary", "bold"), facts)


def _vocabulary_table(vocabulary: VocabularyPlan) -> Table:
    table = new_table("range", "special ids", "first id", "ids", text=2)
    for name, (first, size) in vocabulary.ranges.items():
        special = vocabulary.special.get(name, {})
        told = [f"{token} {i:,}" for token, i in list(special.items())[:SPECIAL_SHOWN]]
        if len(special) > SPECIAL_SHOWN:
            told.append(f"and {len(special) - SPECIAL_SHOWN:,} more")
        add_row(table, name, ", ".join(told), f"{first:,}", f"{size:,}")
    return table
