"""Ranks: the processes of one command under a launcher, by the variables that it sets.

RANK and WORLD_SIZE say which of how many this process is, as `torchrun` and `composer` set them.
torch is imported only where there is more than one.
"""

from __future__ import annotations

import datetime
import os
from contextlib import suppress
from typing import Any

_PATIENCE = datetime.timedelta(days=7)  # if one dies, the launcher ends all
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
        """Meet the others, over gloo."""
        if self.size > 1:
            import torch.distributed as dist
            from torch.distributed.rendezvous import rendezvous

            found, *_ = next(rendezvous("env://", self.rank, self.size, timeout=_PATIENCE))
            self._store = dist.PrefixStore("ncamix", found)
            dist.init_process_group(
                "gloo",
                store=self._store,
                rank=self.rank,
                world_size=self.size,
                timeout=_PATIENCE,
            )

    def wait(self) -> None:
        """Wait until all ranks have come here."""
        self.gather(None)

    def gather(self, item: Any) -> list[Any]:
        """The items of all ranks in order, on every rank."""
        if self.size == 1:
            return [item]
        import torch.distributed as dist

        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def leave(self) -> None:
        """Part from the others, the first rank last: it holds what they part through, and one that
        parts without it waits for ever."""
        if self.size > 1:
            import torch.distributed as dist

            gone = [f"gone {rank}" for rank in range(1, self.size)]
            if self.is_first:
                with suppress(RuntimeError):  # one has failed
                    self._store.wait(gone, _FAREWELL)
            dist.destroy_process_group()
            if not self.is_first:
                with suppress(RuntimeError):
                    self._store.set(gone[self.rank - 1], "")
