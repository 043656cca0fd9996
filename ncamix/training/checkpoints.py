"""Checkpoints of a stage: written whole or not at all, at planned batches or on demand, and found.

    batch -> state -> ba000050.pt, or, where ranks share the model, the folder ba000050/
    the newest that is sound -> state, on as many ranks or others; one that is not is set aside
    the stage's end -> weights.safetensors, then the last checkpoint

`checkpoints/<stage>/ba000050` stands for the state after 50 batches of the stage. The last one of a
stage stays for good; of the others the newest few.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint import CheckpointException

from ncamix.disk import free_bytes
from ncamix.errors import Problem, UserError, fail
from ncamix.quantities import format_bytes
from ncamix.run_folder import WEIGHTS, checkpoints_in
from ncamix.training.parallelism import is_sharded
from ncamix.training.state_files import (
    Damaged,
    Tree,
    check,
    complete_folder,
    gathered,
    read,
    sync,
    write_file,
    write_shards,
)
from ncamix.training.states import put_back, put_back_random, state_of, weights_of

_FULL_BELOW = 1 << 16  # bytes free: what failed to write has met a full disk
_SAVING, _DAMAGED = ".saving-", ".damaged"

T = TypeVar("T")


def sound_checkpoint(folder: Path, say: Callable[[str], None]) -> Path | None:
    """The newest checkpoint of a stage that is sound; None if there never was one. Those that are
    not are set aside. All ranks call it, and get the same.

    Raises (on all ranks):
        UserError: none of them is sound, or the newest may run code and is not trusted.
    """
    return _first_rank(lambda: _sound_checkpoint(folder, say))


def _sound_checkpoint(folder: Path, say: Callable[[str], None]) -> Path | None:
    found = checkpoints_in(folder)
    for batch, path in reversed(found):
        try:
            check(path)
        except Damaged as error:
            aside = path.with_name(path.name + _DAMAGED)
            what = f"the checkpoint {path} is damaged ({error})"
            if (batch, path) == found[0]:
                raise fail(
                    f"{what}, and there is none before it",
                    f"remove it and run the same command again, which begins stage "
                    f"'{folder.name.partition('-')[2]}' anew; or start over with --fresh",
                ) from None
            _remove(aside)
            path.rename(aside)
            say(f"{what}: it is now {aside.name}, and the run goes on from the one before")
        else:
            return path
    return None


class Checkpointer(Callback):
    """Saves at every `every`-th batch, at the stage's last one, and whenever `wanted` says so.

    model: what is trained. hand_over: writes down what the stage hands over; called by all ranks
    before the last checkpoint is there. settle: has the records of the batches so far on the disk;
    called by the first rank before a checkpoint is there. begin: a sound checkpoint to go on from.

    Raises (through Composer):
        Stopped: after the checkpoint that `wanted` asked for. UserError: a checkpoint cannot be
            written, or `begin` is another model's.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        keep: int,
        wanted: Callable[[], BaseException | None],
        hand_over: Callable[[], None],
        settle: Callable[[], None],
        model: nn.Module,
        begin: Path | None,
    ) -> None:
        self.folder, self.every, self.keep = folder, every, keep
        self.wanted, self.hand_over, self.settle = wanted, hand_over, settle
        self.model, self.begin = model, begin
        self._random: Tree | None = None

    def before_load(self, state: State, logger: Logger) -> None:
        """Go on from a checkpoint: where Composer would, before it wraps the model."""
        if self.begin is not None:
            tree = read(self.begin, dict(self.model.named_parameters()))
            put_back(state, self.model, tree)
            self._random = tree

    def fit_start(self, state: State, logger: Logger) -> None:
        if dist.get_global_rank() == 0:
            for torn in self.folder.glob(f"{_SAVING}*"):  # left by a process that was killed
                _remove(torn)

    def batch_start(self, state: State, logger: Logger) -> None:
        if self._random is not None:  # now, since beginning to load data draws from them
            put_back_random(self._random)
            self._random = None

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
        if last:
            self.hand_over()
        name = f"ba{batch:06}"
        temporary = self.folder / f"{_SAVING}{name}"
        tree = state_of(state, self.model)
        if is_sharded(self.model) and dist.get_world_size() > 1:
            _first_rank(lambda: _make_empty(temporary))
            try:
                plain = write_shards(temporary, tree)
            except CheckpointException as error:  # of any rank, on all of them
                cause = next((failure[0] for failure in error.failures.values()), error)
                _first_rank(lambda: _give_up(temporary, cause))
            _first_rank(lambda: _write(temporary, plain, complete_folder))
        else:
            temporary, name = temporary.with_suffix(".pt"), f"{name}.pt"
            tree = gathered(tree)
            _first_rank(lambda: _write(temporary, tree, write_file))
        _first_rank(lambda: self._put_in_place(temporary, name, 1 if last else self.keep))

    def _put_in_place(self, temporary: Path, name: str, keep: int) -> None:
        """Name a checkpoint that is written, and prune those before it."""
        self.settle()
        path = self.folder / name
        if path.is_dir():  # of a run that found a later one damaged
            _remove(path.with_name(path.name + _DAMAGED))
            path.rename(path.with_name(path.name + _DAMAGED))
        os.replace(temporary, path)
        sync(self.folder)
        other = path.with_suffix("" if path.suffix else ".pt")
        if other.exists():
            _remove(other)
        for _, old in checkpoints_in(self.folder)[:-keep]:
            _remove(old)
        for old in self.folder.glob(f"*{_DAMAGED}"):
            _remove(old)


def write_weights(model: nn.Module, folder: Path, metadata: Mapping[str, str]) -> None:
    """Write a model's weights into `folder`: `weights.safetensors`, whole or not at all.

    They are whole, by the model's own names and in its number formats; one that stands under two
    names, such as a tied head, stands there under the first. All ranks call it; the first holds a
    copy of all. metadata: what they are of. The same weights and metadata give the same bytes.

    Raises (on all ranks):
        UserError: there is no room for them.
    """
    weights = gathered(dict(weights_of(model)))
    temporary = folder / f"{_SAVING}{WEIGHTS}"

    def write() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file({n: w.contiguous() for n, w in weights.items()}, temporary, dict(metadata))
            temporary.chmod(mode)  # safetensors lets nobody else read it
            _sort_metadata(temporary)
            os.replace(temporary, folder / WEIGHTS)
        except Exception as error:  # of safetensors, or the disk
            raise _unwritten(temporary, error, "stage's weights") from None

    _first_rank(write)


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
    """What the optimizer of a checkpoint knows of each parameter, whole, by its name.

    Raises:
        UserError: the checkpoint is damaged, or may run code and is not trusted.
    """
    try:
        check(path)
    except Damaged as error:
        raise fail(
            f"the checkpoint {path} is damaged ({error})", "start over with --fresh"
        ) from None
    return dict(read(path, {})["moments"])


def _first_rank(act: Callable[[], T]) -> T:
    """What the first rank's act comes to, on all ranks; its error, too."""
    told: list[Any] = [None, None]
    error: BaseException | None = None
    if dist.get_global_rank() == 0:
        try:
            told[0] = act()
        except UserError as found:
            error, told[1] = found, found.problems
        except Exception as found:
            error, told[1] = found, [Problem(f"the first rank failed: {found!r}")]
    dist.broadcast_object_list(told)
    if error is not None:
        raise error
    if told[1] is not None:
        raise UserError(told[1])
    result: T = told[0]
    return result


def _write(path: Path, tree: Tree, act: Callable[[Path, Tree], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        act(path, tree)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise _unwritten(path, error) from None


def _give_up(path: Path, error: BaseException) -> None:
    raise _unwritten(path, error)


def _make_empty(folder: Path) -> None:
    _remove(folder)
    folder.mkdir(parents=True)


def _unwritten(path: Path, error: BaseException, what: str = "checkpoint") -> UserError:
    """The error that a file or folder of a checkpoint cannot be written; nothing is left of it."""
    folder, left = path.parent, free_bytes(path.parent)
    size = sum(p.stat().st_size for p in [path, *path.glob("*")] if p.is_file())
    _remove(path)
    if left < _FULL_BELOW:
        return fail(
            f"there is no room left in {folder} for a {what}: it takes more than "
            f"{format_bytes(size)}, and {format_bytes(free_bytes(folder))} are free",
            "make room there and run the same command again: it resumes from the "
            "checkpoint before, if there is one",
        )
    line = str(error).splitlines()[0] if str(error) else repr(error)
    return fail(
        f"the {what} in {folder} cannot be written: {line}",
        "free some disk space; the run resumes from the checkpoint before",
    )


def _remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
