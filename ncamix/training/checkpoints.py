"""Checkpoints of a stage: Composer's, written whole or not at all, at planned batches or on demand.

`checkpoints/<stage>/ba000050.pt` is a Composer checkpoint taken after 50 batches of the stage. The
last one of a stage stays for good; of the others the newest few.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import checkpoint, dist
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from ncamix.disk import free_bytes
from ncamix.errors import fail
from ncamix.files import replaced
from ncamix.origins import WEIGHTS
from ncamix.quantities import format_bytes

_FULL_BELOW = 1 << 16  # bytes free: what failed to write has met a full disk
_NAME = re.compile(r"ba(\d{6,})\.pt\Z")


def checkpoint_path(folder: Path, batch: int) -> Path:
    """The checkpoint taken after `batch` batches of its stage."""
    return folder / f"ba{batch:06}.pt"


def latest_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The newest checkpoint of a stage and its batch, or None."""
    found = checkpoints(folder)
    return (found[-1][1], found[-1][0]) if found else None


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(batch, checkpoint) of a stage, in the order of batches."""
    return sorted((int(m[1]), p) for p in folder.glob("ba*.pt") if (m := _NAME.match(p.name)))


class Checkpointer(Callback):
    """Saves at every `every`-th batch, at the stage's last one, and whenever `wanted` says so.

    hand_over: writes down what the stage hands over; called before its last checkpoint is there.

    Raises (through Composer):
        Stopped: after the checkpoint that `wanted` asked for.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        keep: int,
        wanted: Callable[[], BaseException | None],
        hand_over: Callable[[], None],
    ) -> None:
        self.folder, self.every, self.keep = folder, every, keep
        self.wanted, self.hand_over = wanted, hand_over

    def fit_start(self, state: State, logger: Logger) -> None:
        if dist.get_global_rank() == 0:
            for torn in self.folder.glob(".saving-*"):  # left by a process that was killed
                torn.unlink()

    def batch_checkpoint(self, state: State, logger: Logger) -> None:
        batch = state.timestamp.batch.value
        stop = self.wanted()
        assert state.max_duration is not None
        last = batch == state.max_duration.value  # evidence may have brought it forward
        if batch % self.every == 0 or last or stop is not None:
            self.save(state, batch, last)
        if stop is not None and not last:
            raise stop

    def save(self, state: State, batch: int, last: bool) -> None:
        """Save the training state after `batch` batches, and prune older checkpoints."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".saving-{batch:06}.pt"
        try:
            if last:
                self.hand_over()
            checkpoint.save_checkpoint(state, str(temporary))
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            left = free_bytes(self.folder)
            size = temporary.stat().st_size if temporary.exists() else 0
            temporary.unlink(missing_ok=True)
            if left < _FULL_BELOW:
                raise fail(
                    f"there is no room left in {self.folder} for a checkpoint: it takes more than "
                    f"{format_bytes(size)}, and {format_bytes(free_bytes(self.folder))} are free",
                    "make room there and run the same command again: it resumes from the "
                    "checkpoint before, if there is one",
                ) from None
            line = str(error).splitlines()[0] if str(error) else repr(error)
            raise fail(
                f"the checkpoint in {self.folder} cannot be written: {line}",
                "free some disk space; the run resumes from the checkpoint before",
            ) from None
        if dist.get_global_rank() == 0:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, checkpoint_path(self.folder, batch))
            keep = 1 if last else self.keep
            for _, old in checkpoints(self.folder)[:-keep]:
                old.unlink()
        dist.barrier()


def write_weights(model: PreTrainedModel, folder: Path, metadata: Mapping[str, str]) -> None:
    """Write a model's weights whole, by Hugging Face's names and without a tied head, into
    `folder`: `weights.safetensors`, whole or not at all. metadata: what they are of.

    The same weights and metadata give the same bytes.
    """
    if dist.get_global_rank():
        return
    weights = {name: value.detach().cpu() for name, value in model.named_parameters()}
    folder.mkdir(parents=True, exist_ok=True)
    with replaced(folder / WEIGHTS) as temporary:
        save_file(weights, temporary, dict(metadata))
        _sort_metadata(temporary)


def _sort_metadata(file: Path) -> None:
    """Sort the metadata of a safetensors file, which its library writes in a random order."""
    with file.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(text) <= length, "the library writes no shorter JSON"
        stream.seek(8)
        stream.write(text.ljust(length))
        stream.flush()
        os.fsync(stream.fileno())


def optimizer_state(path: Path) -> dict[str, dict[str, Tensor]]:
    """What the optimizer of a checkpoint knows of each parameter, whole, by its usual name."""
    saved = torch.load(path, map_location="cpu", weights_only=False)["state"]["optimizers"]
    (optimizer,) = saved.values()
    return {name.removeprefix("model."): state for name, state in optimizer["state"].items()}
