"""Jobs on a Ray cluster: each is a task, which runs the job's process on the node that it lands on.

    RayWorkers --Job--> task in a worker of some node --> python -m ncamix ARGUMENTS
               <--Done--   |  dies, or its node does: Ray runs the job again, and it resumes
               --cancel--> SIGTERM, and wait: the run has saved its state

All nodes see the study's folder at the same path, and ncamix is installed in the Python that Ray
runs on; both are looked into before anything runs. A cache that nodes do not share is filled on
each.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ncamix import __version__
from ncamix.errors import Problem, UserError, fail
from ncamix.jobs import (
    KILLED,
    PATIENCE,
    STOPPED,
    TICK,
    Done,
    Job,
    Process,
    last_lines,
    settings_of_job,
)
from ncamix.threads import count_threads

_CONNECTS = 10.0  # seconds for a cluster to take a connection
_LOOKS = 120.0  # for all nodes to say what they see
_AGAIN = 10.0  # between two requests to end
_OBJECTS = 100 << 20  # bytes of a cluster's store for objects, of which jobs have none
_PASSED = ("NCAMIX_TRUST", "HF_HUB_OFFLINE")  # what the user has set here holds on nodes, too


class RayWorkers:
    """Jobs as tasks of a Ray cluster; one on this machine is started if none is found."""

    def __init__(
        self,
        address: str | None,
        folder: Path,
        cwd: Path,
        num_cpus: float = 1,
        num_gpus: float | None = None,
        retries: int = 3,
    ) -> None:
        """Connect, and look whether all nodes can do the jobs.

        address: `ray://HOST:PORT` or `HOST:PORT` of a cluster; without one, or for `ray`, that of
            RAY_ADDRESS, or the one that this machine belongs to.
        folder: the study's own, in which a small file is written for nodes to find.
        cwd: the folder of jobs.
        num_cpus: of each job, and its threads, unless the user has set OMP_NUM_THREADS.
        num_gpus: of each job; without it one where nodes have GPUs, and none elsewhere.
        retries: how often a job whose worker or node dies is run again.

        Raises:
            UserError: there is no Ray, no cluster answers, or some node cannot do the jobs.
        """
        if num_cpus <= 0 or (num_gpus or 0) < 0 or retries < 0:
            raise ValueError(f"{num_cpus} CPUs, {num_gpus} GPUs, {retries} retries")
        self._ray = _import_ray()
        self._running: dict[Any, Job] = {}  # by the reference of what the task returns
        self._marker = folder / f".nodes-{uuid.uuid4().hex[:12]}"
        self._connected = _connect(self._ray, address)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._marker.touch()
            if num_gpus is None:
                num_gpus = min(1, self._ray.cluster_resources().get("GPU", 0))
            self._needs = {"CPU": num_cpus, "GPU": num_gpus}
            self._settings = _settings(cwd, num_cpus, num_gpus)
            self._check_nodes(cwd)
            task = self._ray.remote(
                num_cpus=num_cpus, num_gpus=num_gpus, max_retries=retries, retry_exceptions=False
            )
            self._task = task(_run)
        except BaseException:
            self.stop()
            raise

    @property
    def free(self) -> int:
        return max(0, self._capacity() - len(self._running))

    def start(self, job: Job) -> None:
        self._running[self._task.remote(job, self._settings, self._marker)] = job

    def wait(self, seconds: float) -> list[Done]:
        until = time.monotonic() + seconds
        while tasks := list(self._running):
            left = until - time.monotonic()
            brief = max(0.0, min(left, 1.0))  # signals are not kept waiting
            if self._ray.wait(tasks, num_returns=1, timeout=brief)[0]:
                ended, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
                return [self._done(task, self._running.pop(task)) for task in ended]
            if left <= 0:
                break
        return []

    def stop(self) -> None:
        left = list(self._running)
        self._running.clear()
        until = time.monotonic() + PATIENCE + _AGAIN
        try:
            while left and time.monotonic() < until:
                for task in left:
                    self._ray.cancel(task)
                _, left = self._ray.wait(left, num_returns=len(left), timeout=_AGAIN)
        finally:  # a second ^C ends at once
            with suppress(Exception):  # where the cluster is lost, too
                for task in left:
                    self._ray.cancel(task, force=True)
            self._marker.unlink(missing_ok=True)
            if self._connected:
                self._connected = False
                self._ray.shutdown()

    def _capacity(self) -> int:
        """How many jobs the cluster takes at once, if nobody else uses it."""
        alive = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        needs = {name: need for name, need in self._needs.items() if need}
        return sum(
            min(int(has.get(name, 0) / need + 1e-9) for name, need in needs.items())
            for has in alive
        )

    def _check_nodes(self, cwd: Path) -> None:
        """See that every node has ncamix and the folders, and that some have room for a job."""
        strategies = self._ray.util.scheduling_strategies
        nodes = {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}
        looks = {}
        look = self._ray.remote(num_cpus=0, max_retries=1)(_looker())
        for name in nodes:
            there = strategies.NodeAffinitySchedulingStrategy(name, soft=False)
            task = look.options(scheduling_strategy=there)
            looks[name] = task.remote(str(self._marker), str(cwd), __version__)
        self._ray.wait(list(looks.values()), num_returns=len(looks), timeout=_LOOKS)
        problems = []
        for name, answer in looks.items():
            host = nodes[name]["NodeManagerHostname"]
            try:
                found = self._ray.get(answer, timeout=0)
            except self._ray.exceptions.RayError as error:
                found = ("does not answer: " + _first_line(error), "mend it, or take it out")
            if found is not None:
                problems.append(Problem(f"node {host} of the Ray cluster {found[0]}", found[1]))
        if not problems and not self._capacity():
            needs = f"{self._needs['CPU']:g} CPU and {self._needs['GPU']:g} GPU"
            what = f"no node of the Ray cluster has the {needs} that a job takes"
            problems.append(Problem(what, "ask for less, or add nodes"))
        if problems:
            raise UserError(problems)

    def _done(self, task: Any, job: Job) -> Done:
        errors = self._ray.exceptions
        try:
            return self._ray.get(task)
        except errors.TaskCancelledError:
            return Done(job, STOPPED, last_lines(job.log))
        except errors.RayTaskError as error:  # a fault of ours, or of the node
            return Done(job, 1, str(error))
        except errors.RayError as error:  # its worker or node died, once too often
            return Done(job, KILLED, f"{last_lines(job.log)}\n{_first_line(error)}".strip())


def _run(job: Job, settings: Mapping[str, str], marker: Path) -> Done:
    """The task, in the main thread of a worker: the job's process, from begin to end."""
    host = socket.gethostname()
    unseen = [str(path) for path in (marker.parent, job.cwd) if not path.is_dir()]
    if unseen:  # of a node that came after the others were asked
        return Done(job, 2, f"node {host} does not see {' and '.join(unseen)}")
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("a") as log:
        log.write(f"ncamix: {job.name}, on node {host}\n")
    asked: list[int] = []
    stock = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))  # by `cancel`
    try:
        process = Process(job, settings)
        try:
            while (done := process.poll()) is None:
                if asked:
                    process.stop()
                time.sleep(TICK)
            return done
        finally:  # also where the worker is told to end
            process.stop()
            while process.poll() is None:
                time.sleep(TICK)
    finally:
        signal.signal(signal.SIGINT, stock)


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


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise fail("--on ray needs Ray", "pip install 'ncamix[ray]'") from None
    return ray


def _connect(ray: Any, address: str | None) -> bool:
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
    with _own_handler():
        try:
            ray.init(found, **settings)
        except (OSError, RuntimeError, ValueError, SystemExit) as error:
            said = " ".join(str(error).split())
            if found == "local":
                way_out = "set RAY_TMPDIR to a short path with room, or start one with `ray start`"
                raise fail(f"Ray cannot be started: {said}", way_out) from None
            raise fail(
                f"the Ray cluster at {found} takes no connection: {said}",
                "see that Ray and Python are of the same version there and here",
            ) from None
    return True


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
    """Keep what SIGTERM does: Ray lays a handler of its own."""
    main = threading.current_thread() is threading.main_thread()
    own = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, own)


def _settings(cwd: Path, num_cpus: float, num_gpus: float) -> dict[str, str]:
    """Variables of jobs beside those of the node that they run on."""
    settings = settings_of_job(cwd, max(1, int(num_cpus)))
    settings |= {name: os.environ[name] for name in _PASSED if name in os.environ}
    if not num_gpus:
        settings["CUDA_VISIBLE_DEVICES"] = ""
    return settings


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]
