"""The shipped curricula and trainers, and how a name on the command line becomes a file.

A name is a path, or the name of a file in `./curricula` or `./trainers`, or of one shipped with
ncamix.
"""

from __future__ import annotations

import os
from pathlib import Path

from ncamix.errors import fail, nearest
from ncamix.trainer import has_gpu

FOLDERS = ("curricula", "trainers")
_PACKAGE = Path(__file__).parent


def shipped(folder: str) -> Path:
    """The folder of shipped YAML: inside an installed package, beside it in a checkout."""
    inside = _PACKAGE / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder


def find(folder: str, name: str) -> Path:
    """The YAML file that `name` means. Raises UserError when there is none."""
    candidates = [Path(name)]
    if "/" not in name and not name.endswith((".yaml", ".yml")):
        candidates += [Path(folder) / f"{name}.yaml", shipped(folder) / f"{name}.yaml"]
    for path in candidates:
        if os.path.isfile(path):  # unlike Path.is_file, False for a name that no file can have
            return path
    in_package = shipped(folder) / Path(name).name
    if name.startswith(f"{folder}/") and os.path.isfile(in_package):
        return in_package
    known = sorted(
        {p.stem for where in (Path(folder), shipped(folder)) for p in where.glob("*.y*ml")}
    )
    raise fail(
        f"no such {folder[:-1] if folder != 'curricula' else 'curriculum'}: '{name}'",
        nearest(Path(name).stem, known, "shipped ones"),
    )


def choose_trainer(name: str | None) -> tuple[Path, str]:
    """A trainer's file, and one sentence on why it was chosen."""
    if name is not None:
        path = find("trainers", name)
        return path, f"trainer {path.stem}, as asked"
    if has_gpu():
        return find("trainers", "gpu"), "trainer gpu, since this machine has a GPU"
    return find("trainers", "cpu"), "trainer cpu, since this machine has no GPU"
