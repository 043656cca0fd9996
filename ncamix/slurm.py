"""SLURM: a task of a step of `srun`, told in the words of other launchers.

    SLURM_PROCID, SLURM_STEP_NUM_TASKS ...  ->  RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE,
                                                NODE_RANK, MASTER_ADDR, MASTER_PORT

A command beside a step, in the script of `sbatch` or the shell of `salloc`, is a process like any
other: only a step of several tasks makes ranks of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ncamix.errors import fail

_FIRST_PORT, _NUM_PORTS = 12_000, 20_000  # below those that the system gives to whoever connects
_COUNT = re.compile(r"(\d+)(?:\(x(\d+)\))?")
_ITEM = re.compile(r"(?:[^,\[]|\[[^\]]*\])+")
_RANGES = re.compile(r"\[([^\]]*)\]")


def ranks_of_step(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a launcher would have set; none for what is not one of several tasks.

    Raises:
        UserError: nodes have different numbers of tasks, or tasks do not fill one node after the
            other: whose ranks share a machine could not be told by their numbers.
    """
    num_tasks = _tasks_of_step(environment)
    if num_tasks < 2:
        return {}
    rank, node = int(environment["SLURM_PROCID"]), int(environment["SLURM_NODEID"])
    local = int(environment["SLURM_LOCALID"])
    tasks = _either(environment, "SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    each = list(counts(tasks)) if tasks else [int(environment["SLURM_NTASKS_PER_NODE"])]
    if len(set(each)) > 1:
        raise fail(
            f"srun has put {', '.join(map(str, each))} tasks on its nodes, and ranks must be as "
            "many on each",
            "say how many with --ntasks-per-node, and let them fill --nodes",
        )
    if rank != node * each[0] + local:
        raise fail(
            "srun has dealt its tasks out to the nodes in turn, and the ranks of a node must "
            "follow one another",
            "give srun --distribution=block",
        )
    hosts = _either(environment, "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST")
    job, step = (int(environment.get(f"SLURM_{w}_ID", "0")) for w in ("JOB", "STEP"))
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(num_tasks),
        "LOCAL_RANK": str(local),
        "LOCAL_WORLD_SIZE": str(each[0]),
        "NODE_RANK": str(node),
        "MASTER_ADDR": environment.get("MASTER_ADDR") or next(names(hosts)),
        "MASTER_PORT": environment.get("MASTER_PORT")
        or str(_FIRST_PORT + (job * 16 + step) % _NUM_PORTS),
    }


def _tasks_of_step(environment: Mapping[str, str]) -> int:
    """How many tasks the step has that this process belongs to; 0 outside of steps."""
    if "SLURM_PROCID" not in environment or "SLURM_STEP_ID" not in environment:
        return 0  # a script of sbatch has SLURM_NTASKS and SLURM_PROCID, but no step
    return int(_either(environment, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") or "0")


def _either(environment: Mapping[str, str], name: str, other: str) -> str:
    """What the step says, or else the job, which may be larger."""
    return environment.get(name) or environment.get(other, "")


def counts(written: str) -> Iterator[int]:
    """The numbers in a list such as `4(x2),3`: 4, 4, 3."""
    for count, times in _COUNT.findall(written):
        yield from [int(count)] * int(times or 1)


def names(written: str) -> Iterator[str]:
    """The hosts in a list such as `login,node[001-003,7]-a`, in its order."""
    for item in _ITEM.findall(written):
        yield from _expanded(item)


def _expanded(item: str) -> Iterator[str]:
    ranges = _RANGES.search(item)
    if ranges is None:
        yield item
        return
    for part in ranges[1].split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            yield from _expanded(
                f"{item[: ranges.start()]}{number:0{len(first)}}{item[ranges.end() :]}"
            )
