"""The run folder: one owner at a time, and nothing of a dead one left behind.

The owner holds `flock` on `.lock` and writes there what lies outside the folder: its temporary
directory, and its shared memory by prefix and identity (device and inode). Whoever takes the lock
next, on the same boot of the same machine, waits for the workers of a dead owner to end, and then
removes exactly those. That a process maps a segment says nothing: Streaming maps those of others
in passing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ncamix.errors import UserError, fail, nearest
from ncamix.files import RUN_LOCK, leave_nothing, make_folder, write_whole
from ncamix.locks import lock_own
from ncamix.processes import boot_id

# Names of MosaicML Streaming's shared memory, behind a six-digit prefix.
_SEGMENTS = (
    "locals",
    "barrier",
    "next_epoch",
    "cache_usage",
    "shard_states",
    "shard_access_times",
    "resume",
    "epoch_shape",
    "epoch_data",
)
_FIRST = "locals"  # the segment that takes a prefix; the others come after it
_SHARED_MEMORY = Path("/dev/shm")
DECISIONS = "decisions.json"  # which stages ended on evidence, and on what
DIVERGED = "diverged.json"  # of which plan, and where, the loss ceased to be a number
WEIGHTS = "weights.safetensors"  # what a stage hands over, beside its last checkpoint
SUMMARY = "summary.json"  # says that the run is finished
TEST = "test.json"  # what the finished run makes of the test splits
FREQUENCIES = "frequencies.json"  # how often ids occur in held-out samples
_CHECKPOINT = re.compile(r"ba(\d{6,})(\.pt)?\Z")
_TEMPORARY = "ncamix-"
# Bytes of a temporary directory's path: workers that load data put their sockets below it, under
# `/pymp-xxxxxxxx/listener-xxxxxxxx`, and an address of a socket takes 107.
_LONGEST = 75
_SHORT = Path("/tmp")
_PATIENCE = 20.0
_BLOCK = 1 << 16  # bytes of a file of rows that are read at once


def no_run(folder: Path, missing: str = "plan.json") -> UserError:
    """The error that a folder is not that of a run; offers those that lie about."""
    near = sorted({file.parent for at in (folder.parent, Path("runs")) for file in _plans(at)})
    way_out = nearest(str(folder), map(str, near), "runs near it") if near else "name runs/NAME"
    what = f"this is not the folder of a run: it holds no {missing}"
    return fail(what, way_out, file=str(folder))


def damaged_plan(folder: Path) -> UserError:
    """The error that a run's plan.json is torn, or another file."""
    what = "this is not the plan of a run, or it is damaged"
    way_out = "put the file back, or start the run over: ncamix run ... --fresh"
    return fail(what, way_out, file=str(folder / "plan.json"))


def _plans(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*/plan.json") if file.is_file()]


class RunFolder:
    """A run's folder and the files in it. `hold` makes this process its owner."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._record: dict[str, Any] = {}
        self._lock: Any = None

    def file(self, name: str) -> Path:
        """A file of the run, such as `metrics.jsonl`."""
        return self.path / name

    def checkpoints(self, index: int, stage: str) -> Path:
        """The checkpoint folder of a stage."""
        return self.path / "checkpoints" / f"{index}-{stage}"

    def weights(self, index: int, stage: str) -> Path:
        """The weights that a stage hands over."""
        return self.checkpoints(index, stage) / WEIGHTS

    def finished_weights(self, index: int, stage: str, num_batches: int) -> Path | None:
        """The same of a stage of so many batches; None as long as it is not finished.

        One that was lengthened when it had ended trains on beside the weights of before: all
        checkpoints lie ahead of its end then.
        """
        saved, file = checkpoints_in(self.checkpoints(index, stage)), self.weights(index, stage)
        return file if file.is_file() and (not saved or saved[-1][0] >= num_batches) else None

    def decisions(self) -> dict[str, int]:
        """Batches after which evidence ended stages of this run."""
        if not self.file(DECISIONS).is_file():
            return {}
        decided = json.loads(self.file(DECISIONS).read_text())
        return {stage: int(facts["num_batches"]) for stage, facts in decided.items()}

    def add_decision(
        self, stage: str, num_batches: int, tokens: int, values: dict[str, float]
    ) -> None:
        """Write down that evidence ended a stage, and on which values, after how many tokens."""
        known = {}
        if self.file(DECISIONS).is_file():
            known = json.loads(self.file(DECISIONS).read_text())
        known[stage] = {"num_batches": num_batches, "tokens": tokens, "values": values}
        write_whole(self.file(DECISIONS), json.dumps(known, indent=1).encode())

    def forget_end(self) -> None:
        """Remove what was written as the run ended, since it is to go on."""
        for name in (SUMMARY, TEST, FREQUENCIES):
            self.file(name).unlink(missing_ok=True)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Own the folder: create it, lock it, clean up after a dead owner, and have a temporary
        directory of one's own (TMPDIR; in /tmp, if the path of TMPDIR is too long for sockets).

        Raises:
            UserError: the folder cannot be written, or another process owns it.
        """
        created = make_folder(self.path, RUN_LOCK)
        try:
            descriptor = os.open(self.path / RUN_LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise fail(
                f"the output folder {self.path} cannot be written ({error.strerror})",
                "choose another with --out",
            ) from None
        self._lock = os.fdopen(descriptor, "r+")
        if not lock_own(self._lock, self.path / RUN_LOCK):
            self._lock.close()
            self._lock = None
            raise fail(
                f"another process is working in {self.path}",
                "wait for it, or choose another folder with --out",
            ) from None
        saved = os.environ.get("TMPDIR")
        try:
            self._clean_up(_PATIENCE)
            temporary = _make_temporary()
            self._write({"boot": boot_id(), "temporary": temporary, "prefixes": {}})
            os.environ["TMPDIR"] = temporary
            tempfile.tempdir = None
            yield
        finally:
            if saved is None:
                os.environ.pop("TMPDIR", None)
            else:
                os.environ["TMPDIR"] = saved
            tempfile.tempdir = None
            try:
                self._clean_up()
            finally:  # also where a full disk takes not even the record
                leave_nothing(self.path, created, RUN_LOCK)
                with contextlib.suppress(OSError):
                    self._lock.close()
                self._lock = None

    def add_prefix(self, prefix: int) -> None:
        """Record a shared-memory prefix that this run uses; the owner's business alone."""
        if self._lock is not None:
            known = self._record.get("prefixes", {})
            self._write({**self._record, "prefixes": {**known, f"{prefix:06}": _identity(prefix)}})

    def _write(self, record: dict[str, Any]) -> None:
        """Replace the record: one line, whole at any moment, what is behind it does not count."""
        self._record = record
        self._lock.seek(0)
        self._lock.write(json.dumps(record) + "\n")
        self._lock.flush()
        self._lock.truncate()

    def _clean_up(self, patience: float = 0) -> None:
        """Remove what the lock file names, except segments that this process maps.

        patience: seconds to wait for the workers of a dead owner, which end soon after it.
        """
        self._lock.seek(0)
        try:
            record = json.loads(self._lock.readline())
            boot, prefixes = record["boot"], dict(record["prefixes"])
            temporary = Path(record["temporary"])
        except (ValueError, LookupError, TypeError):  # none, or not one of ours
            boot, prefixes, temporary = None, {}, Path()
        if boot == boot_id():
            until = time.monotonic() + patience
            while _any_process_in(temporary) and time.monotonic() < until:
                time.sleep(0.2)
            for prefix, identity in prefixes.items():
                _remove_shared(prefix, identity)
            if temporary.name.startswith(_TEMPORARY) and temporary.is_dir():
                shutil.rmtree(temporary, ignore_errors=True)
        self._write({})

    def forget_unbegun(self) -> None:
        """Remove what a run wrote that has not trained a batch, so that it may be planned anew."""
        if any(_rows(self.file("metrics.jsonl"))) or any(self.path.glob("checkpoints/*/ba*")):
            return
        for entry in self.path.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != RUN_LOCK:
                entry.unlink()

    def move_aside(self) -> Path | None:
        """Move what the folder holds to `<name>.<time>` beside it; where it went, if anywhere."""
        entries = [p for p in self.path.iterdir() if p.name != RUN_LOCK]
        if not entries:
            return None
        stamp = time.strftime("%Y%m%d-%H%M%S")
        aside = self.path.with_name(f"{self.path.name}.{stamp}")
        number = 1
        while aside.exists():
            aside = self.path.with_name(f"{self.path.name}.{stamp}.{number}")
            number += 1
        aside.mkdir()
        for entry in entries:
            os.replace(entry, aside / entry.name)
        return aside


def cut_rows(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Cut a JSON-lines file behind the last row to keep, in place; a torn last row goes. What stays
    is not read: it takes as long as what goes."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = 0
        for begin, line in _lines_backwards(file):
            with suppress(ValueError):
                if keep(json.loads(line)):
                    end = begin + len(line)
                    break
        file.truncate(end)
        if end and not line.endswith(b"\n"):
            file.seek(end)
            file.write(b"\n")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; none if it is missing. A torn row does not count, nor does one
    that is no object."""
    return list(_rows(path))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with suppress(FileNotFoundError), path.open(encoding="utf-8") as file:
        for line in file:
            with suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row


def _lines_backwards(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines of a file from the last to the first, each with its place; read as they are asked
    for."""
    begin, held = file.seek(0, os.SEEK_END), b""
    while begin:
        size = min(begin, _BLOCK)
        begin -= size
        file.seek(begin)
        held = file.read(size) + held
        while (cut := held.rfind(b"\n", 0, len(held) - 1)) >= 0:
            yield begin + cut + 1, held[cut + 1 :]
            held = held[: cut + 1]
    if held:
        yield 0, held


def _make_temporary() -> str:
    made = tempfile.mkdtemp(prefix=_TEMPORARY)
    if len(os.fsencode(made)) > _LONGEST and os.access(_SHORT, os.W_OK | os.X_OK):
        os.rmdir(made)
        made = tempfile.mkdtemp(prefix=_TEMPORARY, dir=_SHORT)
    return made


def checkpoint_path(folder: Path, batch: int) -> Path:
    """The checkpoint taken after `batch` batches of its stage: a file, or a folder if that is what
    is there."""
    shared = folder / f"ba{batch:06}"
    return shared if shared.is_dir() else shared.with_suffix(".pt")


def checkpoints_in(folder: Path) -> list[tuple[int, Path]]:
    """(batch, checkpoint) of a stage, in the order of batches."""
    found = folder.glob("ba*")
    return sorted((int(m[1]), path) for path in found if (m := _CHECKPOINT.match(path.name)))


def _identity(prefix: int) -> str:
    """What tells the shared memory under a prefix from a later one; empty where it has no files."""
    try:
        status = (_SHARED_MEMORY / f"{prefix:06}_{_FIRST}").stat()
        return f"{status.st_dev}:{status.st_ino}"
    except OSError:
        return ""


def _remove_shared(prefix: str, identity: str) -> None:
    """Remove the segments under a prefix, if they are still those of that identity."""
    if not identity or _identity(int(prefix)) != identity:
        return
    mine = _read(Path("/proc/self/maps"))
    for name in (*(n for n in _SEGMENTS if n != _FIRST), _FIRST):
        path = _SHARED_MEMORY / f"{prefix}_{name}"
        with suppress(OSError):  # not there, or not this user's
            if f"{path}\n" not in mine:
                path.unlink()


def _any_process_in(temporary: Path) -> bool:
    """Whether a process was started with this temporary directory: a worker of its owner."""
    wanted = f"TMPDIR={temporary}"
    return any(wanted in _read(p).split("\0") for p in Path("/proc").glob("[0-9]*/environ"))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # another user's, or gone
        return ""
