"""The process group of a run's ranks, and what they share before any dataset is opened."""

from __future__ import annotations

import os
import tempfile

from composer.utils import dist

RENDEZVOUS_SECONDS = 24 * 3600.0  # the first rank may be tokenizing for hours


def set_up_ranks(device: str) -> None:
    """Join the process group of whichever launcher started this process; before any dataset."""
    dist.initialize_dist(device, timeout=RENDEZVOUS_SECONDS)


def share_temporary() -> None:
    """Give all ranks the first one's temporary directory, where Streaming keeps its file locks."""
    held = [os.environ.get("TMPDIR", "")]
    dist.broadcast_object_list(held)
    os.makedirs(held[0], exist_ok=True)
    os.environ["TMPDIR"] = held[0]
    tempfile.tempdir = None
