"""Jobs on a Ray cluster: each is a task, which runs the job's process on the node that it lands on.

    RayWorkers --Job--> task in a worker of some node --> python -m ncamix ARGUMENTS
               <--Done--   |  dies, or its node does: Ray runs the job again, and it resumes
               --cancel--> SIGTERM, and wait: the run has saved its state

All nodes see the study's folder at the same path, and ncamix is installed in the Python that Ray
runs on; both are looked into before anything runs. When the study itself is killed, Ray kills its
jobs: they go on from their last checkpoints. A cache that nodes do not share is filled on each.
"""

from __future__ import annotations

import os
import signal
import socket
import time
import uuid
from collections.abc import Mapping
from concurrent import futures
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

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
from ncamix.ray_cluster import capacity, check_nodes, connect, first_line, import_ray

_AGAIN = 10.0  # seconds between two requests to end
_PASSED = ("NCAMIX_TRUST", "HF_HUB_OFFLINE")  # what the user has set here holds on nodes, too


class RayWorkers:
    """Jobs as tasks of a Ray cluster; one on this machine is started if none is found."""

    def __init__(
        self,
        address: str | None,
        folder: Path,
        cwd: Path,
        num_ranks: int = 1,
        num_jobs: int | None = None,
        retries: int = 3,
    ) -> None:
        """Connect, and look whether all nodes can do the jobs.

        address: `ray://HOST:PORT` or `HOST:PORT` of a cluster; without one, or for `ray`, that of
            RAY_ADDRESS, or the one that this machine belongs to.
        folder: the study's own, in which a small file is written for nodes to find.
        cwd: the folder of jobs.
        num_ranks: processes of each job; each takes a CPU, and a GPU where nodes have any.
        num_jobs: no more at once than that; None is as many as nodes have room for.
        retries: how often a job whose worker or node dies is run again.

        Raises:
            UserError: there is no Ray, no cluster answers, or some node cannot do the jobs.
        """
        if num_ranks < 1 or (num_jobs is not None and num_jobs < 1) or retries < 0:
            raise ValueError(f"{num_ranks} ranks, {num_jobs} jobs, {retries} retries")
        self._ray = import_ray()
        self._num_jobs = num_jobs
        self._running: dict[Future[Done], tuple[Any, Job]] = {}  # with Ray's name of each task
        self._marker = folder / f".nodes-{uuid.uuid4().hex[:12]}"
        self._connected = connect(self._ray, address)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._marker.touch()
            num_gpus = num_ranks if self._ray.cluster_resources().get("GPU") else 0
            self._needs = {"CPU": num_ranks, "GPU": num_gpus}
            self._settings = _settings(cwd, bool(num_gpus))
            check_nodes(self._ray, self._marker, cwd, self._needs)
            task = self._ray.remote(
                num_cpus=num_ranks, num_gpus=num_gpus, max_retries=retries, retry_exceptions=False
            )
            self._task = task(_run)
        except BaseException:
            self.stop()
            raise

    @property
    def free(self) -> int:
        room = capacity(self._ray, self._needs)
        at_once = room if self._num_jobs is None else min(room, self._num_jobs)
        return max(0, at_once - len(self._running))

    def start(self, job: Job) -> None:
        task = self._task.remote(job, self._settings, self._marker)
        self._running[task.future()] = (task, job)

    def wait(self, seconds: float) -> list[Done]:
        # In Python: a signal's exception comes out of `ray.wait` as another one.
        ended, _ = futures.wait(self._running, seconds, futures.FIRST_COMPLETED)
        return [self._done(future, self._running.pop(future)[1]) for future in ended]

    def stop(self) -> None:
        left = {future: task for future, (task, _) in self._running.items()}
        self._running.clear()
        until = time.monotonic() + PATIENCE + _AGAIN
        try:
            while left and time.monotonic() < until:
                for task in left.values():
                    self._ray.cancel(task)
                for future in futures.wait(left, _AGAIN)[0]:
                    del left[future]
        finally:  # a second ^C ends at once
            with suppress(Exception):  # where the cluster is lost, too
                for task in left.values():
                    self._ray.cancel(task, force=True)
            self._marker.unlink(missing_ok=True)
            if self._connected:
                self._connected = False
                self._ray.shutdown()

    def _done(self, future: Future[Done], job: Job) -> Done:
        errors = self._ray.exceptions
        try:
            return future.result()
        except errors.TaskCancelledError:
            return Done(job, STOPPED, last_lines(job.log))
        except errors.RayTaskError as error:  # a fault of ours, or of the node
            return Done(job, 1, str(error))
        except errors.RayError as error:  # its worker or node died, once too often
            return Done(job, KILLED, f"{last_lines(job.log)}\n{first_line(error)}".strip())


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


def _settings(cwd: Path, on_gpus: bool) -> dict[str, str]:
    """Variables of jobs beside those of the node that they run on."""
    settings = settings_of_job(cwd, threads=1)
    settings |= {name: os.environ[name] for name in _PASSED if name in os.environ}
    if not on_gpus:
        settings["CUDA_VISIBLE_DEVICES"] = ""
    return settings
