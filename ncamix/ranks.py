"""Ranks: the processes of one command under a launcher, by the variables that it sets.

    torchrun, composer: RANK, WORLD_SIZE ...  --+
    srun: SLURM_PROCID, SLURM_NODEID ...      --+-> which of how many -> a store, where they meet

They meet at a store and nowhere else, before training opens its process group on the same one: a
process group would have to be torn down, which gloo does not always survive. torch is imported only
where there is more than one rank.
"""

from __future__ import annotations

import datetime
import itertools
import os
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ncamix.errors import Problem, UserError
from ncamix.slurm import ranks_of_step

_PATIENCE = datetime.timedelta(days=7)  # if one dies, the launcher ends all
_joined = itertools.count()  # a launcher's store may outlive a command
_FAREWELL = datetime.timedelta(seconds=10)
_HEAD_START = 5.0  # seconds
_met: list[Any] = []  # stores at which this process has met others


class Ranks:
    """This process's rank, from 0, and how many there are.

    Raises:
        UserError: SLURM has dealt out its tasks in a way that ranks cannot be; in the first task.
    """

    def __init__(self) -> None:
        if "RANK" not in os.environ:
            try:
                os.environ.update(ranks_of_step(os.environ))
            except UserError:
                if os.environ["SLURM_PROCID"] == "0":
                    raise
                time.sleep(_FAREWELL.seconds)  # the first task tells it, before srun ends them all
                sys.exit(2)
        if "GROUP_RANK" in os.environ:  # torchrun's name; Streaming and Composer know the other
            os.environ.setdefault("NODE_RANK", os.environ["GROUP_RANK"])
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def join(self) -> None:
        """Meet the others."""
        if self.size > 1:
            from torch.distributed import PrefixStore
            from torch.distributed.rendezvous import rendezvous

            found, *_ = next(rendezvous("env://", self.rank, self.size, timeout=_PATIENCE))
            self._store, self._meetings = PrefixStore(f"ncamix {next(_joined)}", found), 0
            _met.append(self._store)

    def wait(self) -> None:
        """Wait until all ranks have come here."""
        self.gather(None)

    def gather(self, item: Any) -> list[Any]:
        """The items of all ranks in order, on every rank."""
        if self.size == 1:
            return [item]
        keys = [f"{self._meetings} {rank}" for rank in range(self.size)]
        self._meetings += 1
        self._store.set(keys[self.rank], pickle.dumps(item))  # type: ignore[arg-type]
        self._store.wait(keys, _PATIENCE)
        return [pickle.loads(self._store.get(key)) for key in keys]

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is done by all: a mistake of the user's that one rank finds stops them all, and the
        first one tells it.

        Raises:
            UserError: on the first rank, some rank's. SystemExit: on the others, once it ends.
        """
        problems: Sequence[Problem] = ()
        try:
            yield
        except UserError as error:
            problems = error.problems
        found = next((told for told in self.gather(problems) if told), None)
        if found is not None:
            if not self.is_first:
                self._await_end()
                sys.exit(2)
            raise UserError(found)

    def _await_end(self) -> None:
        """Let the first rank end before this one, at whose end a launcher would end them all."""
        with suppress(RuntimeError):
            self._store.wait(["the end"], _FAREWELL)

    def leave(self) -> None:
        """Part from the others, the first rank last: the store may be its own."""
        if self.size > 1:
            gone = [f"gone {rank}" for rank in range(1, self.size)]
            with suppress(RuntimeError):  # one has failed
                if self.is_first:
                    self._store.wait(gone, _FAREWELL)
                else:
                    self._store.set(gone[self.rank - 1], "")


def is_first_to_fail() -> bool:
    """Whether none of the ranks has called this before: when one fails, the others do since it
    has. Where all fail alike it is the first one, whose words are sure to be seen."""
    if not _met:
        return True
    try:
        if os.environ.get("RANK", "0") != "0":
            until = time.monotonic() + _HEAD_START
            while not _met[-1].check(["failed"]) and time.monotonic() < until:
                time.sleep(0.05)
        return bool(_met[-1].add("failed", 1) == 1)
    except RuntimeError:  # the store went with its owner
        return True
