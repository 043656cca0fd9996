"""Forking a run: another run's first stages, taken over in place of training them again.

    a run whose first stages are over -> their ends, their records -> the folder of a new run

What begins alike (`Plan.beginning`) is alike to the last bit, so the new run's folder is what it
would be had it trained these stages itself; only `speed.jsonl` tells of another time.
`forked.json` says where they came from.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from ncamix.files import RUN_LOCK, beside, write_whole
from ncamix.plan import Plan
from ncamix.run_folder import DECISIONS, RunFolder, checkpoints_in
from ncamix.run_log import RECORDS
from ncamix.running import write_files

FORKED = "forked.json"

Stages = tuple[tuple[str, int], ...]
"""Names and batches of a run's stages, in their order."""


def finished_stages(folder: Path, stages: Stages) -> int:
    """How many of a run's first stages are over, and can be gone on from: each has the weights that
    it hands over, and its last checkpoint."""
    run = RunFolder(folder)
    ended = run.decisions()
    for index, (name, num_batches) in enumerate(stages):
        num_batches = ended.get(name, num_batches)
        saved = checkpoints_in(run.checkpoints(index, name))
        if not saved or run.finished_weights(index, name, num_batches) is None:
            return index
        if saved[-1][0] < num_batches:
            return index
    return len(stages)


def fork(donor: Path, plan: Plan, num_stages: int, folder: Path) -> None:
    """Make `folder` that of a run of `plan` which has trained its first stages: those of the run in
    `donor`, which begins alike. The folder appears whole or not at all, and must not be there yet.

    Raises:
        OSError: the donor's files are gone, or there is no room.
    """
    there, made = RunFolder(donor), RunFolder(beside(folder))
    names = [stage.name for stage in plan.stages[:num_stages]]
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        for index, name in enumerate(names):
            home = made.checkpoints(index, name)
            home.mkdir(parents=True)
            last = checkpoints_in(there.checkpoints(index, name))[-1][1]
            _link(last, home / last.name)
            for file in (there.weights(index, name), last.with_name("stage.json")):
                _link(file, home / file.name)
        for record in RECORDS:
            _copy_rows(there.file(record), made.file(record), names)
        if there.file(DECISIONS).is_file():
            decided = json.loads(there.file(DECISIONS).read_text())
            kept = {name: decided[name] for name in names if name in decided}
            if kept:
                write_whole(made.file(DECISIONS), json.dumps(kept, indent=1).encode())
        made.file(RUN_LOCK).touch()
        write_files(plan, made)
        origin = {"run": os.path.relpath(donor, folder), "stages": names}
        write_whole(made.file(FORKED), json.dumps(origin, indent=1).encode())
        os.rename(made.path, folder)
    except BaseException:
        shutil.rmtree(made.path, ignore_errors=True)
        raise


def drop_checkpoints(folder: Path, index: int, stage: str) -> None:
    """Remove the training states of a finished run's stage; the weights that it hands over stay."""
    for _, saved in checkpoints_in(RunFolder(folder).checkpoints(index, stage)):
        shutil.rmtree(saved) if saved.is_dir() else saved.unlink()


def _link(source: Path, target: Path) -> None:
    """The same file or folder under another name: files of checkpoints are never written into."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file)
    else:
        _link_file(source, target)


def _link_file(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links, or with too many
        shutil.copy2(source, target)


def _copy_rows(source: Path, target: Path, stages: list[str]) -> None:
    """Copy the first rows of a record, as long as they are of these stages."""
    if not source.is_file():
        return
    with source.open("rb") as rows, target.open("wb") as kept:
        for row in rows:
            if not row.endswith(b"\n") or json.loads(row)["stage"] not in stages:
                break
            kept.write(row)
        kept.flush()
        os.fsync(kept.fileno())
