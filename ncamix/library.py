"""The shipped curricula and trainers, and how a name on the command line becomes a file.

A name is a path, or the name of a file in `./curricula` or `./trainers`, or of one shipped with
ncamix. A file that names another sees its own folder in place of those two.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path

from ncamix.errors import fail, nearest

SORTS = {"curricula": "curriculum", "trainers": "trainer"}  # by folder, what its files are
_PACKAGE = Path(__file__).parent


def shipped(folder: str) -> Path:
    """The folder of shipped YAML: inside an installed package, beside it in a checkout."""
    inside = _PACKAGE / folder
    return inside if inside.is_dir() else _PACKAGE.parent / folder


def sort_of(keys: Collection[str]) -> str:
    """What a file is by its keys: "curriculum", "trainer" or "study"; empty if they do not tell."""
    if "base" in keys and "stages" not in keys:
        return "study"
    told = [sort for key, sort in (("stages", "curriculum"), ("model", "trainer")) if key in keys]
    return told[0] if len(told) == 1 else ""


def not_taken(name: str, sort: str, wanted: str) -> str:
    """What is wrong where a file of one sort is named in the place of another."""
    return f"'{name}' is a {sort}, and this takes a {wanted}"


def find(folder: str, name: str, beside: Path | None = None) -> Path:
    """The YAML file that `name` means, on the command line or in a file of the folder `beside`.

    folder: "curricula" or "trainers". Raises UserError when there is none.
    """
    near = Path(folder) if beside is None else beside
    candidates = [(beside or Path()) / os.path.expanduser(name)]
    if "/" not in name and not name.endswith((".yaml", ".yml")):
        candidates += [near / f"{name}.yaml", shipped(folder) / f"{name}.yaml"]
    if name.startswith(f"{folder}/"):
        candidates.append(shipped(folder) / Path(name).name)
    for path in candidates:
        if os.path.isfile(path):  # unlike Path.is_file, False for a name that no file can have
            return path
    what = SORTS[folder]
    if name and os.path.exists(candidates[0]):
        kind = "a folder" if os.path.isdir(candidates[0]) else "no ordinary file"
        raise fail(
            f"'{name}' is {kind}, and a {what} is a YAML file", _way_out(candidates[0], what)
        )
    is_path = name.endswith((".yaml", ".yml")) or "/" in name
    looked = f"{_looked_in(candidates[0])}; " if is_path else ""
    told = candidates[0].parent if is_path else None  # its files are named already
    places = [where for where in (near, shipped(folder)) if where != told]
    known = sorted({p.stem for where in places for p in where.glob("*.y*ml")})
    way_out = nearest("" if "did you mean" in looked else Path(name).stem, known, "known ones")
    raise fail(f"no such {what}: '{name}'", looked + way_out)


def _looked_in(path: Path) -> str:
    """Where a file was looked for, and what lies there."""
    folder = path.parent.absolute()
    if not os.path.isdir(folder):
        return f"there is no folder {folder}"
    there = sorted(p.name for p in folder.glob("*.y*ml"))
    return f"looked in {folder}, " + nearest(path.name, there, "files there")


def _way_out(path: Path, what: str) -> str:
    """What to name instead of a path that is there, and no file."""
    files = sorted(path.glob("*.y*ml")) if path.is_dir() else []
    if (path / "plan.json").is_file() and path / f"{what}.yaml" in files:
        began = _began_with(path / "plan.json", what)
        if began:
            return f"this is the folder of a run, which was started with {began}: name that"
        return f"this is the folder of a run; its {what} is {path / f'{what}.yaml'}"
    return nearest("", map(str, files), "files there") if files else "name a file, or a shipped one"


def _began_with(plan: Path, what: str) -> str:
    """The curriculum or trainer that a run was started with, where its plan tells."""
    try:
        told = json.loads(plan.read_bytes())
        return str(told["trainer"]["file"] if what == "trainer" else told["curriculum_file"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def choose_trainer(name: str | None) -> tuple[Path, str]:
    """A trainer's file, and one sentence on why it was chosen."""
    if name is not None:
        path = find("trainers", name)
        return path, f"trainer {path.stem}, as asked"
    if has_gpu():
        return find("trainers", "gpu"), "trainer gpu, since this machine has a GPU"
    return find("trainers", "cpu"), "trainer cpu, since this machine has no GPU"


def has_gpu() -> bool:
    """Whether this machine shows a CUDA device, found out without importing torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1", "NoDevFiles"):
        return False
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
