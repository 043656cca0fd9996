"""SLURM's words for a task, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ncamix.errors import UserError
from ncamix.slurm import counts, names, ranks_of_step

STEP = {
    "SLURM_JOB_ID": "4242",
    "SLURM_STEP_ID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[007,011]",
    "SLURM_JOB_NODELIST": "gpu[003-011]",
}


def test_a_task_of_a_step_is_a_rank() -> None:
    assert ranks_of_step(STEP) == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "4",
        "NODE_RANK": "1",
        "MASTER_ADDR": "gpu007",
        "MASTER_PORT": str(12_000 + (4242 * 16 + 1) % 20_000),
    }
    # Of the job what the step does not say; and who names a place to meet is heard.
    bare = {k: v for k, v in STEP.items() if "STEP_" not in k or k == "SLURM_STEP_ID"}
    bare |= {"SLURM_NTASKS_PER_NODE": "4", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    found = ranks_of_step(bare)
    assert (found["WORLD_SIZE"], found["LOCAL_WORLD_SIZE"]) == ("8", "4")
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("10.0.0.1", "29500")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {k: v for k, v in STEP.items() if "STEP" not in k},  # the script of sbatch
        {**STEP, "SLURM_STEP_NUM_TASKS": "1"},  # the shell of salloc, srun -n 1
    ],
)
def test_one_process_is_no_rank(environment: dict[str, str]) -> None:
    assert ranks_of_step(environment) == {}


def test_what_ranks_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"5, 3 tasks.*\n.*--ntasks-per-node"):
        ranks_of_step({**STEP, "SLURM_STEP_TASKS_PER_NODE": "5,3"})
    with pytest.raises(UserError, match=r"in turn.*\n.*--distribution=block"):
        ranks_of_step({**STEP, "SLURM_PROCID": "3"})


@pytest.mark.parametrize(
    ("written", "hosts"),
    [
        ("one", ["one"]),
        ("node[001-003,7]", ["node001", "node002", "node003", "node7"]),
        ("a,b[9-11]-ib,c", ["a", "b9-ib", "b10-ib", "b11-ib", "c"]),
        ("r[1-2]n[08-09]", ["r1n08", "r1n09", "r2n08", "r2n09"]),
    ],
)
def test_lists_of_hosts(written: str, hosts: list[str]) -> None:
    assert list(names(written)) == hosts


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 5)), min_size=1))
def test_lists_of_counts(runs: list[tuple[int, int]]) -> None:
    written = ",".join(f"{n}(x{times})" if times > 1 else str(n) for n, times in runs)
    assert list(counts(written)) == [n for n, times in runs for _ in range(times)]
