"""Ranks that meet at a store: again and again, and over mistakes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from processes import free_port, output_of, started, status_of

TOGETHER = """
import os, sys
from ncamix.errors import UserError, fail
from ncamix.ranks import Ranks, is_first_to_fail
assert is_first_to_fail()
ranks = Ranks()
ranks.join()
with ranks.together():
    print(f"rank {ranks.rank} of {ranks.size}", flush=True)
try:
    with ranks.together():
        if ranks.rank == 1:
            raise fail("a file is missing", "on this host")
except UserError as error:
    print(error, is_first_to_fail(), is_first_to_fail(), flush=True)
    sys.exit(2)
"""


def test_ranks_may_meet_again_at_one_store(tmp_path: Path) -> None:
    """As under torchrun, whose store outlives a command."""
    script = """
import sys, time
from ncamix.ranks import Ranks
for turn in range(3):
    ranks = Ranks()
    ranks.join()
    time.sleep(0.3 * ranks.rank)
    assert ranks.gather((turn, ranks.rank)) == [(turn, 0), (turn, 1)]
    ranks.leave()
"""
    command = [str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node", "2"]
    (tmp_path / "meet.py").write_text(script)
    process = started([*command, "--master_port", free_port(), "meet.py"], tmp_path)
    assert status_of(process) == 0


def test_a_mistake_of_one_stops_all_and_is_told_by_the_first(tmp_path: Path) -> None:
    env = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    command = [sys.executable, "-c", TOGETHER]
    both = [started(command, tmp_path, {**env, "RANK": str(rank)}) for rank in range(2)]
    first, second = (output_of(process) for process in both)
    assert first == "rank 0 of 2\na file is missing\n    on this host True False\n"
    assert second == "rank 1 of 2\n"
    assert [process.returncode for process in both] == [2, 2]
