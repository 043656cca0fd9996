"""Jobs on a real Ray cluster of this machine: a head that runs nothing, and two nodes of a core."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from processes import free_port, output_of, output_to, started, wait_until
from test_jobs import (
    CURRICULUM,
    ENDLESS,
    TRAINER,
    all_of,
    job,
    losses,
    num_batches,
    run_job,
    wait_until_trained,
)

from ncamix import __version__, ray_cluster, ray_jobs
from ncamix.errors import UserError
from ncamix.jobs import KILLED, Job
from ncamix.ray_jobs import RayWorkers
from ncamix.run_folder import checkpoints_in

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.timeout(600)


class RayMachine:
    """The cluster, and nodes to be killed."""

    def __init__(self, cluster: Any, client_port: str) -> None:
        self.cluster, self.client_port = cluster, client_port

    def add_node(self, **has: int) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=80 << 20, **has)


@pytest.fixture(scope="module")
def machine() -> Iterator[RayMachine]:
    from ray.cluster_utils import Cluster

    short = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # addresses of sockets have 107 bytes
    stock = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", short)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")  # with it, servers of clients may die
        patch.delenv("RAY_ADDRESS", raising=False)
        port = free_port()
        head = {
            "num_cpus": 0,
            "include_dashboard": False,
            "object_store_memory": 80 << 20,
            "ray_client_server_port": int(port),
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        made = RayMachine(cluster, port)
        for _ in range(2):
            made.add_node()
        cluster.wait_for_nodes()
        yield made
        cluster.shutdown()
    signal.signal(signal.SIGTERM, stock)
    shutil.rmtree(short, ignore_errors=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(CURRICULUM)
    (tmp_path / "small.yaml").write_text(TRAINER)
    return tmp_path


@pytest.fixture
def workers(machine: RayMachine, folder: Path) -> Iterator[RayWorkers]:
    """Of the cluster that this machine is part of."""
    made = RayWorkers(None, folder / "study", folder)
    yield made
    made.stop()


def process_of(job: Job) -> psutil.Process:
    """The process of a job that runs."""
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-len(job.arguments) :] == list(job.arguments):
                return process
        except psutil.Error:
            continue
    raise AssertionError(f"{job.name} does not run")


def saved_batches(folder: Path) -> int:
    """After how many batches a run has saved its state."""
    return checkpoints_in(folder / "checkpoints" / "0-only")[-1][0]


def test_jobs_run_on_nodes_and_tell_how_they_end(
    workers: RayWorkers, folder: Path, machine: RayMachine
) -> None:
    assert ray.is_initialized() and ray.get_runtime_context().gcs_address == machine.cluster.address
    assert workers.free == 2 and workers.wait(60) == []
    plans = [job(folder, "plan", "tiny.yaml", "-t", "small.yaml", name=f"{i}") for i in range(2)]
    wrong = job(folder, "plan", "nothing.yaml", name="wrong")
    for one in (*plans, wrong):  # one more than there is room for: Ray keeps it waiting
        workers.start(one)
    assert workers.free == 0
    ended = {done.job: done for done in all_of(workers)}
    assert [ended[one].status for one in (*plans, wrong)] == [0, 0, 2]
    assert "nothing.yaml" in ended[wrong].said and "Traceback" not in ended[wrong].said
    assert "loss" not in wrong.log.read_text() and "on node " in wrong.log.read_text()
    assert workers.free == 2


@pytest.mark.parametrize("what", ["worker", "node"])
def test_a_run_whose_worker_dies_is_run_again_and_goes_on(
    what: str, workers: RayWorkers, folder: Path, machine: RayMachine
) -> None:
    whole, killed = run_job(folder, "whole"), run_job(folder, "killed")
    for one in (whole, killed):
        workers.start(one)
    wait_until_trained(60, workers, killed)
    worker = process_of(killed).parent()
    assert worker.cmdline()[0].startswith("ray::") and worker.parent().name() == "raylet"
    if what == "worker":
        worker.kill()
    else:  # with all that runs there
        for process in (worker.parent(), *worker.parent().children(recursive=True)):
            process.kill()
    ended = {done.job: done for done in all_of(workers)}
    assert [ended[one].status for one in (whole, killed)] == [0, 0], ended
    assert killed.log.read_text().count("on node ") == 2
    assert "resuming the run" in ended[killed].said
    assert losses(killed.folder) == losses(whole.folder) and losses(whole.folder)
    if what == "node":
        machine.add_node()


def test_runs_that_are_stopped_save_their_state(workers: RayWorkers, folder: Path) -> None:
    running = [run_job(folder, name, *ENDLESS) for name in ("one", "two", "waits")]
    for one in running:
        workers.start(one)
    wait_until_trained(25, workers, *running[:2])
    workers.stop()
    for one in running[:2]:
        assert not (one.folder / "summary.json").exists()
        assert "interrupted" in one.log.read_text() or "SIGTERM" in one.log.read_text()
        assert saved_batches(one.folder) == num_batches(one.folder) > 25
    assert not running[2].log.exists()
    assert not ray.is_initialized() and not list((folder / "study").iterdir())


def test_a_signals_exception_comes_out_of_waiting(workers: RayWorkers, folder: Path) -> None:
    """As what it is, so that the command ends with the signal's status."""

    class Told(KeyboardInterrupt):
        pass

    def tell(number: int, frame: object) -> None:
        raise Told

    workers.start(run_job(folder, "one", *ENDLESS))
    stock = signal.signal(signal.SIGUSR1, tell)
    try:
        threading.Timer(2, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(Told):
            workers.wait(200)
    finally:
        signal.signal(signal.SIGUSR1, stock)
    assert workers.free == 1


def test_a_job_that_dies_once_too_often_is_told(machine: RayMachine, folder: Path) -> None:
    workers = RayWorkers(machine.cluster.address, folder / "study", folder, retries=0)
    killed = run_job(folder, "killed")
    workers.start(killed)
    wait_until(lambda: killed.folder.exists())
    process_of(killed).parent().kill()
    (done,) = all_of(workers)
    assert done.status == KILLED and "died" in done.said
    workers.stop()


def test_a_client_from_outside_has_its_jobs_done(machine: RayMachine, folder: Path) -> None:
    """In a process of its own: Ray's client leaves traces where it was."""
    plan, run = (
        job(folder, "plan", "tiny.yaml", "-t", "small.yaml", name="plan"),
        run_job(folder, "run", *ENDLESS),
    )
    program = (
        "from pathlib import Path, PosixPath\n"
        "from ncamix.jobs import Job\n"
        "from ncamix.ray_jobs import RayWorkers\n"
        f"here = Path({str(folder)!r})\n"
        f"workers = RayWorkers('ray://127.0.0.1:{machine.client_port}', here / 'study', here)\n"
        f"workers.start({plan!r})\n"
        f"workers.start({run!r})\n"
        "print('ended', [(done.job.name, done.status) for done in workers.wait(200)], flush=True)\n"
        "input()\n"
        "workers.stop()\n"
        "print('left', list((here / 'study').iterdir()))\n"
    )
    process = started([sys.executable, "-c", program], folder, talks=True)
    assert output_to(process, "ended") == "ended [('plan', 0)]\n"
    wait_until(lambda: num_batches(run.folder) > 10, process)
    assert process.stdin is not None
    process.stdin.write("\n")
    assert output_of(process) == "left []\n"
    assert saved_batches(run.folder) == num_batches(run.folder)


def test_nodes_that_cannot_do_the_jobs_are_named(
    machine: RayMachine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = folder / "study"
    with pytest.raises(UserError, match="no node of the Ray cluster has the 2 CPU that a run"):
        RayWorkers(None, study, folder, num_ranks=2)
    with pytest.raises(UserError, match=f"does not see {folder / 'other'}"):
        RayWorkers(None, study, folder / "other")
    monkeypatch.setattr(Path, "touch", lambda path: None)  # it stays on a disk of this machine
    with pytest.raises(UserError, match=r"node \S+ of the Ray cluster does not see \S+study") as e:
        RayWorkers(None, study, folder)
    assert len(e.value.problems) == 3  # the head is a node, too
    monkeypatch.undo()
    assert not ray.is_initialized() and not list(study.iterdir())


def test_jobs_take_a_gpu_each_where_there_are_any(machine: RayMachine, folder: Path) -> None:
    """A GPU as Ray counts them; none is needed for that."""
    node = machine.add_node(num_gpus=1)
    with pytest.raises(UserError, match="has the 2 CPU and 2 GPU that a run takes"):
        RayWorkers(None, folder / "study", folder, num_ranks=2)
    workers = RayWorkers(None, folder / "study", folder)
    assert workers.free == 1 and "CUDA_VISIBLE_DEVICES" not in workers._settings
    workers.start(job(folder, "plan", "tiny.yaml", "-t", "small.yaml"))
    assert [done.status for done in all_of(workers)] == [0]
    workers.stop()
    machine.cluster.remove_node(node)
    workers = RayWorkers(None, folder / "study", folder, num_jobs=5)
    assert workers.free == 2 and workers._settings["CUDA_VISIBLE_DEVICES"] == ""
    workers.stop()
    workers = RayWorkers(None, folder / "study", folder, num_jobs=1)
    assert workers.free == 1
    workers.stop()


def test_a_node_without_ncamix_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    look = ray_cluster._looker()
    here = str(tmp_path)
    (tmp_path / "marker").touch()
    assert look(f"{here}/marker", here, __version__) is None
    assert "and this machine 9.9" in look(f"{here}/marker", here, "9.9")[0]
    monkeypatch.setitem(sys.modules, "ncamix", None)
    what, way_out = look(f"{here}/marker", here, __version__)
    assert f"has no ncamix in {sys.executable}" in what and "pip install ncamix" in way_out


def test_a_cluster_is_started_where_there_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", short)
    (Path(short) / "ray").mkdir()
    (Path(short) / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{free_port()}")  # it died
    stock = signal.signal(signal.SIGTERM, own := lambda number, frame: None)
    before = set(psutil.Process().children(recursive=True))
    workers = RayWorkers("ray", folder / "study", folder)
    assert workers.free >= 1
    begun = set(psutil.Process().children(recursive=True)) - before
    assert any("raylet" in process.name() for process in begun)
    workers.start(job(folder, "plan", "tiny.yaml", "-t", "small.yaml"))
    assert [done.status for done in all_of(workers)] == [0]
    assert signal.getsignal(signal.SIGTERM) is own
    workers.stop()
    assert signal.signal(signal.SIGTERM, stock) is own
    _, alive = psutil.wait_procs(list(begun), timeout=60)
    assert not alive
    shutil.rmtree(short, ignore_errors=True)


def test_a_cluster_that_does_not_answer_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = f"127.0.0.1:{free_port()}"
    for address in (gone, f"ray://{gone}", "nonsense"):
        with pytest.raises(UserError, match=f"no Ray cluster answers at {address}"):
            RayWorkers(address, folder / "study", folder)
    monkeypatch.setenv("RAY_ADDRESS", gone)
    with pytest.raises(UserError, match=f"no Ray cluster answers at {gone}"):
        RayWorkers(None, folder / "study", folder)
    assert not (folder / "study").exists()


def test_a_signal_that_comes_while_ray_starts_is_not_lost() -> None:
    stock = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), ray_cluster._own_handler():
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # as Ray does
            signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, stock)


class Refusing:
    """In place of Ray: its cluster refuses so many connections."""

    def __init__(self, times: int, error: Exception) -> None:
        self.times, self.error, self.tries, self.ends = times, error, 0, 0

    def is_initialized(self) -> bool:
        return False

    def init(self, address: str, **settings: object) -> None:
        self.tries += 1
        if self.tries <= self.times:
            raise self.error

    def shutdown(self) -> None:
        self.ends += 1


def test_a_client_tries_again_where_its_server_died() -> None:
    died = ConnectionAbortedError(
        'Initialization failure from server:\nTraceback (most recent call last):\n  File "x"\n'
        "    raise\nRuntimeError: Starting Ray client server failed."
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = f"127.0.0.1:{server.getsockname()[1]}"
        again = Refusing(2, died)
        assert ray_cluster.connect(again, f"ray://{there}") and (again.tries, again.ends) == (3, 2)
        for refusing, address, tries in (
            (Refusing(9, died), f"ray://{there}", 4),
            (Refusing(9, died), there, 1),
            (Refusing(9, RuntimeError("Version mismatch:\n  Ray: 1")), f"ray://{there}", 1),
        ):
            with pytest.raises(UserError, match="takes no connection: ") as refused:
                ray_cluster.connect(refusing, address)
            assert refusing.tries == tries
            said = str(refused.value)
            assert "Traceback" not in said
            assert "server: RuntimeError: Starting" in said or "mismatch: Ray: 1" in said


def test_without_ray_the_way_out_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'ncamix\[ray\]'"):
        RayWorkers(None, folder / "study", folder)
    assert not (folder / "study").exists()


def test_what_jobs_find_in_their_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("NCAMIX_CACHE", "some/where")
    found = ray_jobs._settings(Path.cwd(), on_gpus=True)
    assert found["OMP_NUM_THREADS"] == "1" and "CUDA_VISIBLE_DEVICES" not in found
    assert found["NCAMIX_CACHE"] == str(Path("some/where").resolve())
    assert found["HF_HUB_OFFLINE"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("NCAMIX_CACHE")
    found = ray_jobs._settings(Path.cwd(), on_gpus=False)
    assert (found["OMP_NUM_THREADS"], found["CUDA_VISIBLE_DEVICES"]) == ("2", "")
    assert "NCAMIX_CACHE" not in found
