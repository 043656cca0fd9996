"""The run folder: one owner at a time, and nothing of a dead one left behind.

The owner holds `flock` on `.lock` and writes there what lies outside the folder: its temporary
directory and the prefixes of its shared memory. Whoever takes the lock next removes exactly those,
if they are the same user's, from the same boot, and mapped by no living process.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ncamix.errors import fail
from ncamix.shards import write_whole

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
_SHARED_MEMORY = Path("/dev/shm")
_TEMPORARY = "ncamix-"


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

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Own the folder: create it, lock it, clean up after a dead owner, and have a temporary
        directory of one's own (TMPDIR).

        Raises:
            UserError: the folder cannot be written, or another process owns it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("a+")
        except OSError as error:
            raise fail(
                f"the output folder {self.path} cannot be written ({error.strerror})",
                "choose another with --out",
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise fail(
                f"another process is working in {self.path}",
                "wait for it, or choose another folder with --out",
            ) from None
        saved = os.environ.get("TMPDIR")
        try:
            self._clean_up()
            temporary = tempfile.mkdtemp(prefix=_TEMPORARY)
            self._write({"boot": _boot_id(), "temporary": temporary, "prefixes": []})
            os.environ["TMPDIR"] = temporary
            tempfile.tempdir = None
            yield
        finally:
            if saved is None:
                os.environ.pop("TMPDIR", None)
            else:
                os.environ["TMPDIR"] = saved
            tempfile.tempdir = None
            self._clean_up()
            self._lock.close()

    def add_prefix(self, prefix: int) -> None:
        """Record a shared-memory prefix that this run uses."""
        if prefix not in self._record.get("prefixes", []):
            self._write({**self._record, "prefixes": [*self._record.get("prefixes", []), prefix]})

    def _write(self, record: dict[str, Any]) -> None:
        self._record = record
        self._lock.seek(0)
        self._lock.truncate()
        self._lock.write(json.dumps(record))
        self._lock.flush()

    def _clean_up(self) -> None:
        """Remove what the lock file names and no living process, this one included, uses."""
        self._lock.seek(0)
        try:
            record = json.loads(self._lock.read() or "{}")
        except ValueError:
            record = {}
        if record.get("boot") == _boot_id():
            names = [f"{p:06}_{s}" for p in record.get("prefixes", []) for s in _SEGMENTS]
            present = [n for n in names if (_SHARED_MEMORY / n).exists()]
            living = _mapped() if present else ""
            for name in present:
                path = _SHARED_MEMORY / name
                if path.stat().st_uid == os.getuid() and f"/{name}" not in living:
                    path.unlink(missing_ok=True)
        temporary = Path(record.get("temporary") or "")
        if temporary.name.startswith(_TEMPORARY) and temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        self._write({})

    def move_aside(self) -> Path | None:
        """Move what the folder holds to `<name>.<time>` beside it; where it went, if anywhere."""
        entries = [p for p in self.path.iterdir() if p.name != ".lock"]
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
    """Rewrite a JSON-lines file with the rows to keep; a torn last row is dropped."""
    if not path.exists():
        return
    rows = []
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if keep(row):
            rows.append(line)
    write_whole(path, "".join(f"{line}\n" for line in rows).encode())


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; none if it is missing."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


@contextmanager
def machine_wide(name: str) -> Iterator[None]:
    """One process of this user and machine at a time."""
    path = Path("/tmp") / f"ncamix-{os.getuid()}-{name}.lock"
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _mapped() -> str:
    """The memory maps of all processes that may be read, as one text."""
    parts = []
    for path in Path("/proc").glob("[0-9]*/maps"):
        try:
            parts.append(path.read_text())
        except OSError:
            continue
    return "".join(parts)
