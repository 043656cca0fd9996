"""Data of lm-eval's tasks from files of one's own, where the hub is out of reach.

    DIR/TASK.jsonl            the problems of a task: the split that it evaluates
    DIR/TASK/SPLIT.jsonl      each split by its name; examples for the prompt come from `train`
    DIR/OWNER/NAME/           a copy of a dataset's repository on the hub, for all tasks that use it

`.json` and `.parquet` serve as well; JSON holds an object a line. The columns are those of the
dataset on the hub, which the task's templates read. No code of a dataset is run.
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncamix.errors import UserError, fail
from ncamix.hashing import file_hashes

_SUFFIXES = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_SECONDS = 5.0  # for the hub to answer
_HUB = "https://huggingface.co"
_OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


@dataclass(frozen=True)
class TaskData:
    """Where a task's data come from, as keys of its configuration; digest: of files of one's own.

    Without any of them it is what the hub holds, or the hub's cache.
    """

    keys: dict[str, Any]
    digest: str | None = None


def settle_hub() -> bool:
    """Whether the hub can be reached; if not, its libraries are told so, and ask no more.

    To be called before any of them is imported.
    """
    if any(os.environ.get(name, "").upper() in ("1", "TRUE", "YES", "ON") for name in _OFFLINE):
        reached = False
    else:
        try:
            urllib.request.urlopen(os.environ.get("HF_ENDPOINT", _HUB), timeout=_SECONDS).close()
            reached = True
        except urllib.error.HTTPError:
            reached = True
        except (OSError, ValueError):
            reached = False
    if not reached:
        for name in _OFFLINE:
            os.environ[name] = "1"
    return reached


def local_data(name: str, config: dict[str, Any], shots: int, folder: Path) -> TaskData | None:
    """The data of a task in a folder; None where the folder has none for it.

    config: the task's, as lm-eval reads it. shots: examples in each prompt.

    Raises:
        UserError: a split is missing.
    """
    wanted = config.get("test_split") or config.get("validation_split")
    if wanted is None:
        return None
    files: dict[str, Path] = {}
    own = folder / name
    if (single := _file(folder, name)) is not None:
        files[wanted] = single
    elif own.is_dir():
        splits = [config.get(f"{s}_split") for s in ("training", "validation", "test", "fewshot")]
        for split in filter(None, splits):
            if (found := _file(own, split)) is not None:
                files[split] = found
        if not files and not (copy := _repository(folder, config)):
            raise fail(
                f"{own} holds no data of the task '{name}'", f"put {own}/{wanted}.jsonl there"
            )
    if not files:
        copy = _repository(folder, config)
        if copy is None:
            return None
        digest = _digest([p for p in sorted(copy.rglob("*")) if p.is_file()])
        return TaskData({"dataset_path": str(copy)}, digest)
    if wanted not in files:
        raise fail(
            f"{own} lacks the split '{wanted}', which the task '{name}' evaluates",
            f"put {own}/{wanted}.jsonl there",
        )
    return TaskData(_keys(name, config, shots, files, folder), _digest(list(files.values())))


def _keys(
    name: str, config: dict[str, Any], shots: int, files: dict[str, Path], folder: Path
) -> dict[str, Any]:
    """A task's configuration for files by split, without the splits that there are none of."""
    kinds = {_SUFFIXES[file.suffix] for file in files.values()}
    if len(kinds) > 1:
        raise fail(f"the data of the task '{name}' are in files of two kinds", "write all as JSON")
    keys: dict[str, Any] = {
        "dataset_path": kinds.pop(),
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {s: str(file) for s, file in files.items()}},
    }
    for split in ("training_split", "validation_split", "test_split", "fewshot_split"):
        if config.get(split) not in files:
            keys[split] = None
    sampled = (config.get("fewshot_config") or {}).get("samples")
    places = ("fewshot_split", "training_split", "validation_split")
    source = next((config[place] for place in places if config.get(place)), None)
    if shots and not sampled and source not in files:
        raise fail(
            f"the task '{name}' shows {shots} examples in each prompt, from the split '{source}', "
            f"of which {folder} holds nothing",
            f"put {folder / name}/{source}.jsonl beside the other splits, or ask without examples: "
            "--shots 0",
        )
    return keys


def _file(folder: Path, stem: str) -> Path | None:
    found = [p for suffix in _SUFFIXES if (p := folder / f"{stem}{suffix}").is_file()]
    return found[0].resolve() if found else None


def _repository(folder: Path, config: dict[str, Any]) -> Path | None:
    """The copy of a task's dataset in a folder, by its whole name on the hub or the last part."""
    dataset = config.get("dataset_path")
    if not isinstance(dataset, str):
        return None
    for place in (folder / dataset, folder / dataset.split("/")[-1]):
        if place.is_dir() and any(place.iterdir()):
            return place.resolve()
    return None


def _digest(files: list[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for found in file_hashes(files):
        digest.update(found.digest)
    return digest.hexdigest()


def not_to_be_had(name: str, config: dict[str, Any], reached: bool, error: Exception) -> UserError:
    """The error of a task whose data could not be loaded."""
    dataset = config.get("dataset_path")
    where = f"{dataset} ({config['dataset_name']})" if config.get("dataset_name") else f"{dataset}"
    split = config.get("test_split") or config.get("validation_split") or "test"
    reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
    if not reached:
        reason = "the Hugging Face hub is out of reach, and its cache does not hold it"
    return fail(
        f"the task '{name}' needs the dataset {where}: {reason}",
        f"on a machine with the hub, download it and copy it to DIR/{dataset}, or write its "
        f"problems to DIR/{name}/{split}.jsonl, and name the folder: --task-data DIR",
    )
