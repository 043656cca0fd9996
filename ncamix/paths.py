"""Paths in settings: relative ones become absolute, and mean the same in every folder.

    --set of a command, the folder that it is typed in -> settings for processes in another folder

What may be a name as well, such as that of a model on a hub, stays one where no such file exists.
"""

from __future__ import annotations

import glob
import os
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from ncamix.composition import Setting
from ncamix.sources.corpus import STDLIB
from ncamix.stores import is_url
from ncamix.tree import Tree

_PATTERNS = ("sources.*.files", "evaluate.benchmarks")  # globs
_PLACES = ("sources.*.local", "sources.*.remote", "stages.*.enter.from")
_OR_NAMES = ("tokenizer.pretrained", "trainer.model.path", "trainer.model.config")


def anchored(setting: Setting, folder: Path) -> Setting:
    """A setting whose relative paths start at `folder`, an absolute one, wherever it is read."""
    return replace(setting, value=_anchored(setting.value, ".".join(setting.path), folder))


def _anchored(tree: Tree, path: str, folder: Path) -> Tree:
    """`tree`, which stands at `path`; entries of a list stand where the list does."""
    if isinstance(tree.value, dict):
        found = {key: _anchored(t, f"{path}.{key}", folder) for key, t in tree.value.items()}
        return replace(tree, value=found)
    if isinstance(tree.value, list):
        below = "stages.*" if path == "stages" else path
        return replace(tree, value=[_anchored(t, below, folder) for t in tree.value])
    if not isinstance(tree.value, str):
        return tree
    written = _absolute(tree.value, path, folder)
    return tree if written == tree.value else replace(tree, value=written, text=written)


def _absolute(written: str, path: str, folder: Path) -> str:
    """A text that stands at `path`, made absolute if it is a relative path."""
    if written == STDLIB or is_url(written) or os.path.isabs(os.path.expanduser(written)):
        return written
    if any(fnmatchcase(path, pattern) for pattern in _PATTERNS):
        return os.path.join(glob.escape(str(folder)), written)
    known = any(fnmatchcase(path, place) for place in _PLACES)
    if known or (path in _OR_NAMES and (folder / written).exists()):
        return str(folder / written)
    return written
