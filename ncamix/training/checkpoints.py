"""Checkpoints of a stage: Composer's, written whole or not at all, at planned batches or on demand.

`checkpoints/<stage>/ba000050.pt` is a Composer checkpoint taken after 50 batches of the stage. The
last one of a stage stays for good; of the others the newest few.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import checkpoint, dist

from ncamix.disk import free_bytes
from ncamix.errors import fail
from ncamix.files import write_whole
from ncamix.quantities import format_bytes

WEIGHTS = "weights.safetensors"  # of a stage, at its end
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


def write_weights(model: Any, folder: Path, metadata: dict[str, str]) -> None:
    """Write all weights of a model by name, but for tied ones, whole or not at all."""
    from safetensors.torch import save

    model = getattr(model, "module", model)
    tied = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
    weights = {n: w.detach().cpu().contiguous() for n, w in model.state_dict().items()}
    if dist.get_global_rank() == 0:
        kept = {n: w for n, w in weights.items() if n not in tied}
        write_whole(folder / WEIGHTS, save(kept, metadata))


class Checkpointer(Callback):
    """Saves at every `every`-th batch, at the stage's last one, and whenever `wanted` says so.

    Raises (through Composer):
        Stopped: after the checkpoint that `wanted` asked for.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        keep: int,
        wanted: Callable[[], BaseException | None],
    ) -> None:
        self.folder, self.every, self.keep = folder, every, keep
        self.wanted = wanted

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
        if last:
            write_weights(state.model.model, self.folder, {})
        temporary = self.folder / f".saving-{batch:06}.pt"
        try:
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
