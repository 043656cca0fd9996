"""Weights of other runs, which a stage may begin with: `from: RUN/STAGE`.

    RUN/plan.json -> its stages, its model, its vocabulary
    RUN/checkpoints/<stage>/weights.safetensors -> content hash, number of parameters
        + this model, this vocabulary -> Origin: which rows come from which | what is wrong

A run is known by what its weights are, not by where they lie: the hash stands in the plan's
fingerprint. Only JSON and hashes are read here, and nothing is unpickled anywhere.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ncamix.entry import RunStage
from ncamix.errors import UserError
from ncamix.hashing import file_hashes
from ncamix.keys import fingerprint
from ncamix.quantities import Refusal, counted
from ncamix.run_folder import RunFolder

_SHAPE = ("kind", "layers", "heads", "kv_heads", "width", "mlp_width", "tie_embeddings")
_LARGEST_HEADER = 100_000_000  # bytes; the format's own limit

Rows = tuple[tuple[int, int, int], ...]
"""Vocabulary rows of one model that another takes: (first here, first there, number)."""


class Sizes(Protocol):
    """The model that is begun with other weights."""

    @property
    def kind(self) -> str: ...

    def num_parameters(self, rows: int) -> int: ...


@dataclass(frozen=True)
class Vocabulary:
    """Where ids stand; ranges: by name, (first id, number of ids). tokenizer: its fingerprint."""

    rows: int
    layout: str
    ranges: Mapping[str, tuple[int, int]]
    tokenizer: str | None


@dataclass(frozen=True)
class Origin:
    """Weights that a stage begins with.

    name: as written. content: hash of the file. rows: what is taken of the vocabulary's rows; all
    others are a fresh model's. told: the rows in words, a range each.
    """

    name: str
    file: Path
    content: str
    rows: Rows
    told: tuple[str, ...]

    def meaning(self) -> list[Any]:
        """What decides over the weights, as plain JSON."""
        return [self.content, self.rows]


class _Wrong(Exception):
    """What is wrong, and the way out."""


def tokenizer_fingerprint(tokenizer: Mapping[str, Any] | None) -> str | None:
    """What tells a tokenizer from others, wherever its file lies; None where there is none."""
    if tokenizer is None:
        return None
    return fingerprint({key: value for key, value in tokenizer.items() if key != "file"})


def find_origin(
    origin: RunStage, folder: Path, model: Sizes, vocabulary: Vocabulary, redrawn: bool
) -> tuple[Origin | None, list[Refusal], list[str]]:
    """The weights of another run's stage, or what is wrong with them; and remarks.

    folder: which a relative path starts from. redrawn: embedding and head are drawn anew, all rows
    of them, so that no row of the other vocabulary matters.
    """
    run = Path(os.path.abspath(folder / os.path.expanduser(origin.run)))
    try:
        _check_is_no_run(run / origin.stage)
        stages, other_model, there = _read_plan(run, folder)
        file = _weights_of(run, stages, origin.stage)
        _check_model(other_model, model)
        _check_parameters(file, model, there.rows)
        rows: Rows = ()
        if not redrawn:
            rows = _rows(there, vocabulary)
        content = file_hashes([file])[0].digest.hex()
    except _Wrong as error:
        return None, [(("from",), *error.args)], []
    except UserError as error:
        return (
            None,
            [(("from",), error.problems[0].what, "mend the run, or start from another")],
            [],
        )
    remarks = []
    texts = there.tokenizer, vocabulary.tokenizer
    if rows and None not in texts and texts[0] != texts[1]:
        remarks.append(
            f"the text of {origin} has another tokenizer: its rows are taken by their position, "
            "and stand for other tokens; reinitialize: embeddings draws them anew"
        )
    told = () if redrawn else tuple(_told(rows, vocabulary))
    return Origin(str(origin), file, content, rows, told), [], remarks


def _check_is_no_run(path: Path) -> None:
    """A run itself where a stage of one is asked for."""
    if (path / "plan.json").is_file():
        stages = ", ".join(_read_plan(path, path.parent)[0])
        raise _Wrong(f"{path} is a run, without a stage of it", f"write RUN/STAGE, of {stages}")


def _read_plan(run: Path, folder: Path) -> tuple[Mapping[str, int], Mapping[str, Any], Vocabulary]:
    """A run's stages in order, by name, with their batches, its model's keys, its vocabulary."""
    plan = run / "plan.json"
    if not plan.is_file():
        raise _Wrong(
            f"there is no run in {run}",
            f"train that run first, or mend the path, which is relative to {folder}",
        )
    try:
        known = json.loads(plan.read_text())
        vocabulary = known["vocabulary"]
        ranges = {r["name"]: (int(r["first"]), int(r["size"])) for r in vocabulary["ranges"]}
        there = Vocabulary(
            int(vocabulary["rows"]), vocabulary["layout"], ranges, vocabulary.get("tokenizer")
        )
        stages = {str(s["name"]): int(s["num_batches"]) for s in known["stages"]}
        ended = RunFolder(run).decisions()
        stages |= {stage: ended[stage] for stage in stages.keys() & ended.keys()}
        return stages, dict(known["trainer"]["model"]), there
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise _Wrong(f"{plan} is no plan of a run, or damaged", "start from another run") from None


def _weights_of(run: Path, stages: Mapping[str, int], stage: str) -> Path:
    if stage not in stages:
        raise _Wrong(f"the run in {run} has no stage '{stage}'", f"it has {', '.join(stages)}")
    file = RunFolder(run).finished_weights(list(stages).index(stage), stage, stages[stage])
    if file is None:
        raise _Wrong(
            f"the run in {run} has not finished its stage '{stage}'",
            "run it on until that stage has ended: `ncamix run` resumes it",
        )
    return file


def _check_model(other: Mapping[str, Any], model: Any) -> None:
    """Models of other sizes, told by the keys that say them."""
    there, here = _whole(other), _whole({key: getattr(model, key, None) for key in _SHAPE})
    told = [key for key in _SHAPE if None not in (there.get(key), here.get(key))]
    unlike = [f"{k} {there[k]} there, {here[k]} here" for k in told if there[k] != here[k]]
    if unlike:
        raise _Wrong(
            f"that run's model is not of this trainer's architecture ({', '.join(unlike)})",
            "choose the trainer that the run was trained with, or another run",
        )


def _check_parameters(file: Path, model: Sizes, rows: int) -> None:
    """Weights of another number than the model has; of other kinds than Llama that is a guess."""
    found, wanted = _num_parameters(file), model.num_parameters(rows)
    if model.kind == "llama" and found != wanted:
        raise _Wrong(
            f"{file} holds {counted(found, 'parameter')}, and this trainer's model has {wanted:,} "
            "with as many rows",
            "choose the trainer that the run was trained with, or another run",
        )


def _whole(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's keys with those filled in that follow from others."""
    filled = dict(model)
    if filled.get("kv_heads") is None:
        filled["kv_heads"] = filled.get("heads")
    if filled.get("mlp_width") is None and filled.get("width"):
        filled["mlp_width"] = 4 * filled["width"]
    return filled


def _num_parameters(file: Path) -> int:
    """Numbers in a safetensors file, by its header: its length in 8 bytes, then JSON."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _LARGEST_HEADER:
                raise ValueError
            header = json.loads(stream.read(length))
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        return sum(math.prod(entry["shape"]) for entry in entries)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise _Wrong(f"{file} is no safetensors file, or damaged", "start from another") from None


def _rows(there: Vocabulary, here: Vocabulary) -> Rows:
    """The rows that both vocabularies have: a range's by its name, text's by their position."""
    if there.layout != here.layout:
        raise _Wrong(
            f"that run's vocabulary is {there.layout}, this one's {here.layout}, so that rows "
            "cannot be told to stand for the same",
            f"write vocabulary: {{layout: {there.layout}}}, or reinitialize: embeddings",
        )
    if here.layout == "overlay" or (there.rows, there.ranges) == (here.rows, here.ranges):
        return ((0, 0, min(there.rows, here.rows)),)
    return tuple(
        (first, there.ranges[name][0], min(size, there.ranges[name][1]))
        for name, (first, size) in here.ranges.items()
        if name in there.ranges
    )


def _told(rows: Rows, here: Vocabulary) -> list[str]:
    """The rows in words."""
    lines = []
    for first, other, number in rows:
        moved = "" if first == other else f", which were {other:,} to {other + number - 1:,}"
        lines.append(f"rows {first:,} to {first + number - 1:,}{moved}")
    taken = {row for first, _, number in rows for row in range(first, first + number)}
    if len(taken) < here.rows:
        lines.append(f"{counted(here.rows - len(taken), 'row')} as in a fresh model")
    return lines
