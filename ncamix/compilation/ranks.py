"""Ranks: the processes of one command under a launcher, by the variables that it sets.

RANK and WORLD_SIZE say which of how many this process is, as `torchrun` and `composer` set them.
They meet at a store of keys and nowhere else: a process group would have to be torn down, which
gloo does not always survive. torch is imported only where there is more than one.
"""

from __future__ import annotations

import datetime
import itertools
import os
import pickle
from contextlib import suppress
from typing import Any

_PATIENCE = datetime.timedelta(days=7)  # if one dies, the launcher ends all
_joined = itertools.count()  # a launcher's store may outlive a command
_FAREWELL = datetime.timedelta(seconds=10)


class Ranks:
    """This process's rank, from 0, and how many there are."""

    def __init__(self) -> None:
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

    def leave(self) -> None:
        """Part from the others, the first rank last: the store may be its own."""
        if self.size > 1:
            gone = [f"gone {rank}" for rank in range(1, self.size)]
            with suppress(RuntimeError):  # one has failed
                if self.is_first:
                    self._store.wait(gone, _FAREWELL)
                else:
                    self._store.set(gone[self.rank - 1], "")
