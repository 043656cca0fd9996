"""A batch for readers: JSON for machines, tables for people, a picture."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ncamix.batches import Placed
from ncamix.errors import fail
from ncamix.files import write_whole
from ncamix.inspection import Decoded, Inspection

EXCERPT = 160  # characters of a sample's text in a table, at most
WIDE = 1000  # columns where nothing is to be cut


def write_picture(found: Inspection, out: Path) -> Path | None:
    """Write the picture, if there is one, into a folder; where it is.

    Raises:
        UserError: the folder cannot be written.
    """
    if found.decoded is None or found.decoded.picture is None:
        return None
    path = out / found.picture_name
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(path, found.decoded.picture)
    except OSError as error:
        raise fail(
            f"{path} cannot be written ({error.strerror})", "choose another folder with --out"
        ) from None
    return path


# ---- for machines


def batch_json(found: Inspection, picture: Path | None) -> dict[str, Any]:
    """A batch as plain JSON; ids of samples where they were decoded."""
    batch, stage, record = found.batch, found.batch.stage, found.record
    return {
        "curriculum": found.plan.name,
        "plan_fingerprint": found.plan.fingerprint,
        "run": str(found.run) if found.run is not None else None,
        "plan_differs": found.difference or None,
        "stage": stage.name,
        "batch": batch.number,
        "num_batches": stage.num_batches,
        "batch_size": stage.batch_size,
        "first_token": batch.first_token,
        "tokens": batch.end_token,
        "lr": batch.rate,
        "counts": batch.counts,
        "mixture": batch.mixture,
        "recorded": record.row if record is not None else None,
        "digest": found.digest,
        "as_trained": found.as_trained,
        "picture": str(picture) if picture is not None else None,
        "samples": [_sample_json(found, sample) for sample in found.samples],
    }


def _sample_json(found: Inspection, sample: Placed) -> dict[str, Any]:
    facts: dict[str, Any] = asdict(sample)
    if found.request.ranks is not None:
        facts["rank"] = found.rank(sample.place)
    if found.decoded is not None:
        facts["ids"] = found.decoded.ids[sample.place].tolist()
        for key, known in (("text", found.decoded.texts), ("score", found.decoded.scores)):
            if sample.place in known:
                facts[key] = known[sample.place]
    return facts


# ---- for people


def print_batch(found: Inspection, picture: Path | None, console: Console) -> None:
    """A batch as tables; text in full where places were chosen. picture: where it was written."""
    batch, stage = found.batch, found.batch.stage
    if not console.is_terminal:  # a file or a program has no edge to wrap at
        console.width = WIDE
    place = f", stage {stage.name}, batch {batch.number:,} (of 0 to {stage.num_batches - 1:,})"
    console.print(Text.assemble((found.plan.name, "bold"), place))
    console.print(
        Text(
            f"tokens {batch.first_token + 1:,} to {batch.end_token:,} of the run, "
            f"learning rate {batch.rate:.4g}"
        )
    )
    for verdict in _verdicts(found):
        console.print(verdict)
    console.print()
    console.print(_source_table(found))
    console.print()
    in_full = found.decoded is not None and found.request.places is not None
    console.print(_sample_table(found, console.is_terminal, in_full))
    hidden = len(batch.samples) - len(found.samples)
    if found.request.places is None and hidden:
        console.print(Text(f"and {hidden:,} more: --all lists them, --place some", "dim"))
    if in_full:
        _print_texts(found, console)
    if found.decoded is not None and picture is not None:
        total, undrawn = len(found.decoded.scores), found.decoded.undrawn
        part = f" (the first {total - undrawn:,} of {total:,} samples of automata)"
        console.print()
        console.print(Text(f"wrote {picture}{part if undrawn else ''}"), soft_wrap=True)


def _verdicts(found: Inspection) -> list[Text]:
    """What a run recorded, and whether these are the samples that it trained on."""
    record, lines = found.record, []
    if found.difference:
        what = f"planned again, this run comes out differently: {found.difference}"
        lines.append(Text.assemble(("note  ", "yellow"), what))
    if record is None:
        return lines
    if record.row is None:
        reached = "it holds no batch yet"
        if record.reached is not None:
            reached = "it ends with batch {1:,} of stage {0}".format(*record.reached)
        what = f"not in the run's metrics.jsonl: {reached}"
        return [*lines, Text.assemble(("note  ", "yellow"), what)]
    value, before = record.row["loss"], (record.before or {}).get("loss")
    loss = f"loss {value:.4f} nats per token" if value is not None else "no token had a loss"
    if before is not None:
        loss += f", {before:.4f} in the batch before"
    lines.append(Text(loss))
    if found.as_trained:
        lines.append(
            Text.assemble(("as trained", "green"), f": digest {found.digest}, as recorded")
        )
    elif found.as_trained is not None:
        what = f": its digest is {record.digest}, that of the samples below is {found.digest}"
        lines.append(Text.assemble(("not what the run trained on", "bold red"), what))
    return lines


def _table(*columns: str, left: tuple[str, ...]) -> Table:
    """A table of numbers, but for the columns `left`. Nothing wraps."""
    table = Table(header_style="dim", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right", no_wrap=True)
    return table


def _source_table(found: Inspection) -> Table:
    """A row a source: how many samples it has here, and what it cost."""
    batch, record = found.batch, found.record
    row = record.row if record is not None else None
    table = _table(
        "source",
        "samples",
        "scheduled",
        *(("loss", "loss before") if row is not None else ()),
        left=("source",),
    )
    for name, count in batch.counts.items():
        quota = batch.mixture[name] * batch.stage.batch_size
        if not count and not quota:
            continue
        cells = [name, f"{count:,}", f"{quota:.2f}"]
        if record is not None and row is not None:
            both = row.get(f"loss/{name}"), record.last_losses.get(name)
            cells += ["" if loss is None else f"{loss:.4f}" for loss in both]
        table.add_row(*map(Text, cells))
    return table


def _sample_table(found: Inspection, fit: bool, in_full: bool) -> Table:
    """A row a sample. fit: cut what they hold to the width of the terminal."""
    counted = any(s.epoch is not None or s.round is not None for s in found.samples)
    ranks, decoded = found.request.ranks is not None, found.decoded
    what = decoded is not None and not in_full
    columns = ("place", *(["rank"] if ranks else []), "source", "sample", "shard", "row")
    columns = (*columns, *(["epoch"] if counted else []))
    table = _table(*columns, left=("source", "shard"))
    if what:
        table.expand = fit
        table.add_column("holds", no_wrap=True, overflow="ellipsis", ratio=1 if fit else None)
    for s in found.samples:
        cells = [f"{s.place:,}", *([f"{found.rank(s.place)}"] if ranks else []), s.dataset]
        cells += [f"{s.sample:,}", s.shard, f"{s.row:,}"]
        cells += [_pass(s)] if counted else []
        if decoded is not None and what:
            cells.append(_holds(decoded, s.place))
        table.add_row(*map(Text, cells))
    return table


def _pass(sample: Placed) -> str:
    """Which time a sample comes, where that can be told."""
    if sample.round is not None:
        return f"replayed, round {sample.round:,}"
    return "" if sample.epoch is None else f"{sample.epoch:,}"


def _holds(decoded: Decoded, place: int) -> str:
    """What a sample holds, in a line."""
    if place in decoded.scores:
        return f"frames of a rule scored {decoded.scores[place]:.3f}"
    line = re.sub(r"\s*\n\s*", " ↵ ", decoded.texts[place][: 4 * EXCERPT])
    line = re.sub(r"\s+", " ", line).strip()
    return line if len(line) <= EXCERPT else line[: EXCERPT - 1] + "…"


def _print_texts(found: Inspection, console: Console) -> None:
    assert found.decoded is not None
    for s in found.samples:
        console.print()
        console.print(Text(f"place {s.place:,}: {s.dataset}, sample {s.sample:,}", "bold"))
        if s.place in found.decoded.scores:
            console.print(f"frames of a rule scored {found.decoded.scores[s.place]:.3f}")
        else:
            text = Text(found.decoded.texts[s.place])
            console.print(text, soft_wrap=True)
