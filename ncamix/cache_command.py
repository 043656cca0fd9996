"""The command that looks after the cache: `ncamix cache`."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ncamix.errors import fail

if TYPE_CHECKING:
    from ncamix.cache import Entry

_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}


def cache(
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="AGE",
            help="Only what was last used so long ago or longer: 30m, 12h, 30d, 8w (minutes, "
            "hours, days, weeks).",
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            metavar="SIZE",
            help="Only what must go for the rest to fit into SIZE: 500MB, 20GB, 1TB. What was used "
            "last stays.",
            show_default=False,
        ),
    ] = None,
    curriculum: Annotated[
        str | None,
        typer.Option(
            "--curriculum",
            metavar="NAME",
            help="Only what this curriculum has used, and no other.",
            show_default=False,
        ),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove what is listed; what is in use stays.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """List the cache of compiled text and tokenizers, or what of it could go.

    Without options, everything is listed. With conditions, what meets all of
    them and is not in use; --remove then removes it. Nothing is lost: what is
    needed again is compiled or fetched again, byte for byte. The cache lies in
    NCAMIX_CACHE, or in ~/.cache/ncamix.

    What was fetched from a URL, or is on its way to one, is listed with it. A
    --curriculum that has used nothing in the cache is an error (status 2).
    Examples:

    ncamix cache --older-than 30d

    ncamix cache --keep 20GB --remove
    """
    from ncamix import cache as cached
    from ncamix import pruning
    from ncamix.quantities import counted, format_bytes

    choice = pruning.Choice(
        None if older_than is None else _age(older_than),
        None if keep is None else _size(keep),
        curriculum,
    )
    if remove and not choice.is_given:
        raise fail(
            "--remove needs a condition",
            "write --older-than 30d, --keep 20GB or --curriculum NAME (--keep 0GB: everything)",
        )
    entries = cached.entries()
    spared = pruning.why_spared(entries, curriculum) if curriculum is not None else ""
    shown = pruning.choose(entries, choice) if choice.is_given else entries
    if remove:
        shown = pruning.prune(shown)
    if as_json:
        print(json.dumps([{**asdict(entry), "age": entry.age} for entry in shown], indent=1))
        return
    console = Console()
    if shown:
        console.print(_table(shown))
    total = format_bytes(sum(entry.num_bytes for entry in shown))
    what = "removed" if remove else "could go" if choice.is_given else "in the cache"
    number = counted(len(shown), "entry", "entries")
    line = f"{number}, {total} {what}: {cached.cache_root()}"
    if spared:
        line += f"; spared of '{curriculum}': {spared}"
    if choice.is_given and not remove and shown:
        line += f"; --remove removes {'it' if len(shown) == 1 else 'them'}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _table(entries: list[Entry]) -> object:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from ncamix.quantities import format_bytes

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("entry", "kind", "source"):
        table.add_column(name, no_wrap=name == "entry", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("last used", justify="right", no_wrap=True)
    table.add_column("curricula")
    for entry in entries:
        used = "in use" if entry.in_use else _ago(entry.age)
        size = format_bytes(entry.num_bytes)
        curricula = ", ".join(entry.curricula)
        source = Text("\n".join(filter(None, (entry.name, entry.url))))
        name = entry.fingerprint.rpartition("/")[2][:12]
        table.add_row(name, entry.kind, source, size, used, Text(curricula))
    return table


def _ago(seconds: float) -> str:
    """How long ago, in the units that --older-than takes."""
    for unit in ("w", "d", "h"):
        if seconds >= 2 * _SECONDS[unit]:
            return f"{seconds // _SECONDS[unit]:.0f} {unit} ago"
    return f"{seconds // 60:.0f} m ago" if seconds >= 60 else "just now"


def _age(written: str) -> float:
    """Seconds of an age such as 30d."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([mhdw])\s*", written)
    if found is None:
        raise fail(f"--older-than: '{written}' is no age", "write it like 30m, 12h, 30d or 8w")
    return float(found[1]) * _SECONDS[found[2]]


def _size(written: str) -> int:
    """Bytes of a size such as 20GB, in powers of 1000."""
    from pydantic_core import PydanticCustomError

    from ncamix.quantities import parse_quantity

    with suppress(PydanticCustomError):
        found = parse_quantity(written)
        if found is not None and found.unit == "B" and found.value >= 0:
            return int(found.value)
    raise fail(f"--keep: '{written}' is no size", "write it like 500MB or 20GB")
