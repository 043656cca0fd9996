"""A Ray cluster: found or started, and its nodes looked at before anything runs.

    ray://HOST:PORT, RAY_ADDRESS, the cluster of this machine, or a new one -> connected
    every node -> has it ncamix, does it see the study's folder, is there room -> UserError

`ray` is the module, imported by `import_ray`.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ncamix import __version__
from ncamix.errors import Problem, UserError, fail
from ncamix.threads import count_threads

_CONNECTS = 10.0  # seconds for a cluster to take a connection
_LOOKS = 120.0  # for all nodes to say what they see
_TRIES = 4  # to connect as a client
_OBJECTS = 100 << 20  # bytes of a cluster's store for objects, of which jobs have none


def import_ray() -> Any:
    """Ray, which sends nobody word of its use. Raises UserError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise fail("--on ray needs Ray", "pip install 'ncamix[ray]'") from None
    return ray


def connect(ray: Any, address: str | None) -> bool:
    """Connect to the cluster; whether it was done here, and not by who called before.

    Raises:
        UserError: no cluster answers, or none can be started.
    """
    if ray.is_initialized():
        return False
    found = None if address == "ray" else address
    found = found or os.environ.get("RAY_ADDRESS") or None
    if found in (None, "auto"):
        found = _current_cluster()
    elif found != "local" and not _answers(found):  # Ray itself would try for minutes
        raise fail(
            f"no Ray cluster answers at {found}",
            "name its head node, as ray://HOST:10001, or HOST:6379 from one of its nodes",
        )
    settings: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if found in (None, "local"):
        found = "local"
        settings |= {
            "num_cpus": count_threads(),
            "object_store_memory": _OBJECTS,
            "include_dashboard": False,
        }
    tries = _TRIES if "://" in found else 1
    with _own_handler():
        for left in reversed(range(tries)):
            try:
                ray.init(found, **settings)
                break
            except (OSError, RuntimeError, ValueError) as error:
                # One in ten servers of clients dies as it is forked: ray-project/ray#63202.
                if left and isinstance(error, ConnectionAbortedError):
                    ray.shutdown()
                    continue
                raise _refused(found, error) from None
    return True


def _refused(found: str, error: Exception) -> UserError:
    said = " ".join(re.sub(r"Traceback.*\n", "", str(error).strip(), flags=re.DOTALL).split())
    if found == "local":
        way_out = "set RAY_TMPDIR to a short path with room, or start one with `ray start`"
        return fail(f"Ray cannot be started: {said}", way_out)
    return fail(
        f"the Ray cluster at {found} takes no connection: {said}",
        "see that Ray and Python are of the same version there and here",
    )


def _current_cluster() -> str | None:
    """The address of the cluster that `ray start` has made this machine part of, if it is alive."""
    temporary = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    with suppress(OSError):
        written = Path(temporary, "ray", "ray_current_cluster").read_text().strip()
        return written if _answers(written) else None
    return None


def _answers(address: str) -> bool:
    """Whether anybody listens at HOST:PORT or ray://HOST:PORT."""
    with suppress(OSError, ValueError):
        place = urlsplit(address if "://" in address else f"//{address}")
        with socket.create_connection((place.hostname or "", place.port or 10001), _CONNECTS):
            return True
    return False


@contextmanager
def _own_handler() -> Iterator[None]:
    """Keep what SIGTERM does: Ray lays a handler of its own, by which this process would exit."""
    own, asked = signal.getsignal(signal.SIGTERM), False
    try:
        yield
    except SystemExit:
        asked = True
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, own)
            if asked:
                signal.raise_signal(signal.SIGTERM)


def capacity(ray: Any, needs: Mapping[str, float]) -> int:
    """How many jobs the cluster takes at once, if nobody else uses it. needs: of each job."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        min(int(has.get(name, 0) / need + 1e-9) for name, need in needs.items() if need)
        for has in alive
    )


def check_nodes(ray: Any, marker: Path, cwd: Path, needs: Mapping[str, float]) -> None:
    """See that every node has ncamix and sees a file and a folder, and that some node has room.

    Raises:
        UserError: naming each node that cannot do jobs.
    """
    affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    look = ray.remote(num_cpus=0, max_retries=1)(_looker())
    looks = {}
    for name in nodes:
        task = look.options(scheduling_strategy=affinity(name, soft=False))
        looks[name] = task.remote(str(marker), str(cwd), __version__)
    ray.wait(list(looks.values()), num_returns=len(looks), timeout=_LOOKS)
    problems = []
    for name, answer in looks.items():
        try:
            found = ray.get(answer, timeout=0)
        except ray.exceptions.RayError as error:
            found = ("does not answer: " + first_line(error), "mend it, or take it out")
        if found is not None:
            host = nodes[name]["NodeManagerHostname"]
            problems.append(Problem(f"node {host} of the Ray cluster {found[0]}", found[1]))
    if not problems and not capacity(ray, needs):
        wanted = " and ".join(f"{need:g} {name}" for name, need in needs.items() if need)
        what = f"no node of the Ray cluster has the {wanted} that a run takes"
        problems.append(Problem(what, "ask for fewer --ranks, or add nodes"))
    if problems:
        raise UserError(problems)


def _looker() -> Any:
    """What a node is asked: what it lacks and the way out, or None. It travels whole, since the
    node may have no ncamix."""

    def look(marker: str, cwd: str, version: str) -> tuple[str, str] | None:
        import sys
        from pathlib import Path

        try:
            import ncamix
        except ImportError as error:
            return (
                f"has no ncamix in {sys.executable}: {error}",
                "install it where Ray runs: pip install ncamix",
            )
        if ncamix.__version__ != version:
            return (
                f"has ncamix {ncamix.__version__}, and this machine {version}",
                "install the same one on all",
            )
        if not Path(marker).is_file():
            return (
                f"does not see {Path(marker).parent} of this machine",
                "choose a folder on a disk that all nodes share, at the same path, with --out",
            )
        if not Path(cwd).is_dir():
            return (
                f"does not see {cwd}",
                "start the study in a folder on a disk that all nodes share, at the same path",
            )
        return None

    return look


def first_line(error: BaseException) -> str:
    """The first line of an error, or its name."""
    return (str(error).strip() or type(error).__name__).split("\n")[0]
