"""Threads for compiled work: how many, and blocks of work spread over them.

Compiled code releases the interpreter lock, so plain threads run it side by side. A pool ends with
the call that opens it: no thread is left behind that a forked worker would miss.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def count_threads(wanted: int | None = None) -> int:
    """Threads to use: as many as wanted, or one a core that this process may run on.

    Raises:
        ValueError: fewer than one is wanted.
    """
    if wanted is not None and wanted < 1:
        raise ValueError(f"num_threads must be positive, not {wanted}")
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return wanted or len(os.sched_getaffinity(0))
    return wanted or os.cpu_count() or 1


def spread(
    work: Callable[[slice], None],
    num_items: int,
    num_threads: int | None = None,
    largest_block: int = 32,
) -> None:
    """Call `work` once for each of the consecutive blocks that make up items 0 .. num_items - 1.

    Blocks hold at most `largest_block` items, and there are about four a thread where there are
    items enough. The first exception of a block is raised again here.
    """
    threads = count_threads(num_threads)
    size = max(1, min(largest_block, -(-num_items // (4 * threads))))
    blocks = [slice(i, min(i + size, num_items)) for i in range(0, num_items, size)]
    if threads == 1 or len(blocks) < 2:
        for block in blocks:
            work(block)
        return
    with ThreadPoolExecutor(min(threads, len(blocks)), "ncamix") as pool:
        for _ in pool.map(work, blocks):
            pass
