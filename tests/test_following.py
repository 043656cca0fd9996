"""Loggers follow a run: TensorBoard, Weights & Biases and MLflow themselves, read back."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TRAINER, Planner

from ncamix import loggers
from ncamix.errors import UserError
from ncamix.following import following
from ncamix.loggers import check_packages
from ncamix.plan import Plan
from ncamix.run_folder import RunFolder

BODY = """
sources: {static: {kind: noise, symbols: 50}}
stages: [{name: one, duration: rest, mixture: {static: 1}}]
"""
ALL = """\
loggers:
  tensorboard: {}
  wandb: {mode: offline, project: trial, tags: [small]}
  mlflow: {tracking_uri: MLRUNS, experiment: trial, tags: {size: small}}
"""


PATIENCE = 250.0  # seconds: Composer alone takes ten to import, on a machine of one's own


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ncamix.following.PATIENCE", PATIENCE)
    monkeypatch.setattr("ncamix.following.HURRY", PATIENCE)


def write(folder: Path, batches: range) -> None:
    """More rows of a run of 8 x 32 tokens a batch."""
    values: dict[str, dict[str, float]] = {"metrics.jsonl": {}, "speed.jsonl": {"data_wait": 0.5}}
    for batch in batches:
        values["metrics.jsonl"] = {"loss": 1 / (batch + 1), "loss/static": 0.5, "digest": 1}
        for name, found in values.items():
            place: dict[str, Any] = {"stage": "one", "batch": batch, "tokens": 256 * (batch + 1)}
            with (folder / name).open("a") as file:
                file.write(json.dumps(place | found) + "\n")


def wait_for(folder: Path, rows: int) -> None:
    """Until all three loggers have been told of so many batches."""
    places = [folder / f"loggers/{name}.json" for name in ("tensorboard", "wandb", "mlflow")]
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if all(
            p.is_file() and json.loads(p.read_text())["told"]["metrics.jsonl"] >= rows
            for p in places
        ):
            return
        time.sleep(0.2)
    raise AssertionError("loggers did not follow")


@pytest.mark.timeout(600)
def test_a_run_and_its_resumption_are_one_logged_run(tmp_path: Path, plan_of: Planner) -> None:
    plan = plan_of(BODY, TRAINER + ALL.replace("MLRUNS", str(tmp_path / "mlruns")))
    folder, said = RunFolder(tmp_path / "run"), list[str]()
    folder.path.mkdir()
    with pytest.raises(KeyboardInterrupt), following(plan, folder, said.append):
        write(folder.path, range(3))
        wait_for(folder.path, 3)
        raise KeyboardInterrupt
    ids = {p.name: json.loads(p.read_text())["id"] for p in folder.path.glob("loggers/*.json")}
    with following(plan, folder, said.append):
        write(folder.path, range(3, 5))
    assert said == []
    assert ids == {
        p.name: json.loads(p.read_text())["id"] for p in folder.path.glob("loggers/*.json")
    }
    wanted = [(256 * (i + 1), 1 / (i + 1)) for i in range(5)]
    assert np.array(tensorboard(folder.path)) == pytest.approx(np.array(wanted))
    assert np.array(wandb(folder.path)) == pytest.approx(np.array(wanted))
    assert np.array(mlflow(tmp_path / "mlruns", ids["mlflow.json"])) == pytest.approx(
        np.array(wanted)
    )


def test_what_was_told_when_the_run_died_is_remembered(tmp_path: Path) -> None:
    """A run is killed while a row is told: that row ends and counts, and no other begins."""
    script = """
import sys, threading, time
from pathlib import Path
from ncamix import following

class Slow:
    def log_metrics(self, metrics, step):
        with open(sys.argv[1] + "/heard", "a") as heard:
            heard.write(f"{step}\\n")
        time.sleep(0.2)

work = {"folder": sys.argv[1], "name": "x", "facts": {}}
follower = following.Follower("mlflow", {}, work, print, threading.Event())
follower.logger = Slow()
threading.Thread(target=follower.run, daemon=True).start()
following._await_end(threading.Event(), [follower])
"""
    write(tmp_path, range(100))
    (tmp_path / "loggers").mkdir()
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=Path.cwd()) as child:
        until = time.monotonic() + PATIENCE
        while not (tmp_path / "heard").is_file() and time.monotonic() < until:
            time.sleep(0.05)
        assert child.stdin is not None
        child.stdin.close()
        child.wait(PATIENCE)
    heard = (tmp_path / "heard").read_text().split()
    told = json.loads((tmp_path / "loggers/mlflow.json").read_text())["told"]
    assert 0 < len(heard) < 100
    assert sum(told.values()) == len(heard)


def tensorboard(run: Path) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "loggers/tensorboard"))
    events.Reload()
    assert {"loss", "loss/static", "speed/data_wait"} <= set(events.Tags()["scalars"])
    return [(event.step, event.value) for event in events.Scalars("loss")]


def wandb(run: Path) -> list[tuple[int, float]]:
    from wandb.proto import wandb_internal_pb2 as pb
    from wandb.sdk.internal.datastore import DataStore

    found: dict[int, float] = {}
    files = sorted(run.glob("loggers/wandb/offline-run-*/run-*.wandb"))
    assert len({file.name for file in files}) == 1 and len(files) == 2  # one id, told twice
    for file in files:
        store = DataStore()
        store.open_for_scan(str(file))
        while (data := store.scan_data()) is not None:
            record = pb.Record()
            record.ParseFromString(data)
            values = {
                i.key or "/".join(i.nested_key): json.loads(i.value_json)
                for i in record.history.item
            }
            if "loss" in values:
                found[values["_step"]] = values["loss"]
    return sorted(found.items())


def mlflow(store: Path, run_id: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    client = MlflowClient(str(store))
    (experiment,) = client.search_experiments(filter_string="name = 'trial'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_id == run_id and run.info.status == "FINISHED"
    assert run.data.tags["size"] == "small" and run.data.params["batch_size"] == "8"
    assert run.data.metrics["loss/static"] == 0.5
    history = client.get_metric_history(run_id, "loss_total")
    return sorted((metric.step, metric.value) for metric in history)


@pytest.mark.timeout(600)
def test_servers_that_cannot_be_reached_hold_nobody_up(
    tmp_path: Path, plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    keys = "loggers:\n  wandb: {}\n  mlflow: {tracking_uri: 'http://127.0.0.1:9'}\n"
    plan, folder = plan_of(BODY, TRAINER + keys), RunFolder(tmp_path / "run")
    folder.path.mkdir()
    said: list[str] = []
    with following(plan, folder, said.append):
        began = time.monotonic()
        write(folder.path, range(3))
        assert time.monotonic() - began < 5  # training is not what waits
    told = "\n".join(said)
    assert "Weights & Biases cannot be reached and logs into" in told and "refused" in told
    assert "MLflow cannot be told of this run; ncamix gives up" in told
    assert wandb_rows(folder.path) == 3


def wandb_rows(run: Path) -> int:
    return int(json.loads((run / "loggers/wandb.json").read_text())["told"]["metrics.jsonl"])


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> ModuleSpec | None:
        return None if name == package else ModuleSpec(name, None)

    monkeypatch.setattr(loggers, "find_spec", find_spec)


def test_a_missing_package_is_found_before_training(
    plan_of: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    without("wandb", monkeypatch)
    trainer = plan_of(BODY, TRAINER + "loggers: {tensorboard: {}, wandb: {}}\n").trainer
    with pytest.raises(UserError) as error:
        check_packages(trainer.trainer.loggers, trainer.document)
    (problem,) = error.value.problems
    assert problem.path == "loggers.wandb" and "ncamix[wandb]" in problem.remedy
    without("mlflow", monkeypatch)
    check_packages(trainer.trainer.loggers, trainer.document)


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ("{tensorbord: {}}", "loggers.tensorbord"),
        ("{wandb: {projekt: x}}", "loggers.wandb.projekt"),
        ("{wandb: {mode: sometimes}}", "loggers.wandb.mode"),
        ("{mlflow: {tags: [a]}}", "loggers.mlflow.tags"),
    ],
)
def test_keys_are_checked(keys: str, where: str, plan_of: Planner) -> None:
    with pytest.raises(UserError) as error:
        plan_of(BODY, TRAINER + f"loggers: {keys}\n")
    assert [problem.path for problem in error.value.problems] == [where]


def test_loggers_decide_over_no_batch(plan_of: Planner) -> None:
    def fingerprint(trainer: str) -> str:
        plan: Plan = plan_of(BODY, trainer)
        return plan.fingerprint

    assert fingerprint(TRAINER) == fingerprint(TRAINER + "loggers: {wandb: {}}\n")


def test_without_loggers_nothing_is_started(tmp_path: Path, plan_of: Planner) -> None:
    folder = RunFolder(tmp_path)
    with following(plan_of(BODY), folder, lambda line: None):
        assert not (tmp_path / "loggers").exists()
    assert "wandb" not in sys.modules or sys.modules["wandb"] is not None
