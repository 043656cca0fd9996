"""Loggers follow a run in a process of its own: whatever becomes of them, the run goes on.

    run     its records grow -> `end` on the child's standard input
    child   a thread a logger: records -> Composer's TensorboardLogger, WandBLogger, MLFlowLogger
            what a reader should know -> standard output -> the run's console

Steps are tokens of the run, so its stages, one Composer Trainer each, make one logged run. What
has been told, and under which id, is kept in `loggers/NAME.json` of the run folder: a resumed run
goes on in the same logged run, with the first row that has not been told. A server that cannot be
reached delays nobody: MLflow is asked again now and then, Weights & Biases logs offline. At its end
the run waits a while for those that are behind. If the run dies, the child does at once, between
two rows if they are short, so that what has been told is kept exactly.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ncamix.files import write_whole
from ncamix.plan import Plan
from ncamix.run_folder import RunFolder
from ncamix.run_log import Metrics, RunLog

LOOK_SECONDS = 1.0  # between two looks at the records
RETRY_SECONDS = 60.0  # until a server that did not answer is asked again
SERVER_SECONDS = 20.0  # that a server has for an answer
PATIENCE, HURRY = 90.0, 8.0  # seconds for loggers at the end of a run, and of one told to stop
DYING_SECONDS = 2.0  # for loggers to end a row when the run has died
# What launchers say of a process: the child is of no group.
_RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK")
_NAMES = {"tensorboard": "TensorBoard", "wandb": "Weights & Biases", "mlflow": "MLflow"}


@contextmanager
def following(plan: Plan, folder: RunFolder, say: Callable[[str], None]) -> Iterator[None]:
    """Meanwhile loggers follow the run, those that its trainer switches on. For the first rank.

    say: prints a line.
    """
    wanted = plan.trainer.trainer.loggers.wanted()
    if not wanted:
        yield
        return
    child = _start(plan, folder, wanted)
    reader = threading.Thread(target=_pass_on, args=(child, say), daemon=True)
    reader.start()
    patience = HURRY
    try:
        yield
        patience = PATIENCE
    finally:
        with suppress(BrokenPipeError):
            assert child.stdin is not None
            child.stdin.write("end\n")
            child.stdin.close()
        try:
            child.wait(patience)
        except subprocess.TimeoutExpired:
            say(
                "loggers are behind and were left there: the run's own records hold everything"
                + ("" if patience == PATIENCE else ", and a resumed run goes on telling")
            )
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        reader.join(1.0)


def _start(plan: Plan, folder: RunFolder, wanted: dict[str, Any]) -> subprocess.Popen[str]:
    trainer = plan.trainer.trainer
    work = {
        "folder": str(folder.path.absolute()),
        "name": plan.name,
        "loggers": wanted,
        "facts": {
            "curriculum": plan.name,
            "trainer": trainer.name,
            "plan_fingerprint": plan.fingerprint,
            "num_tokens": plan.num_tokens,
            "parameters": trainer.model.num_parameters(plan.vocabulary.rows),
            "vocabulary_rows": plan.vocabulary.rows,
            "sequence_length": trainer.sequence_length,
            "batch_size": trainer.batch_size,
            "precision": trainer.precision,
            **{f"seed/{name}": seed for name, seed in vars(plan.seeds).items()},
        },
    }
    safe = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]  # ncamix is found as by the run
    # Its temporary files are none of the run's, which are removed with it.
    env = {k: v for k, v in os.environ.items() if k not in (*_RANKS, "TMPDIR")}
    home = folder.path / "loggers"
    home.mkdir(exist_ok=True)
    with (home / "output.txt").open("a") as output:  # what libraries print
        child = subprocess.Popen(
            [sys.executable, *safe, "-m", "ncamix.following"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            env=env,
            process_group=0,  # Ctrl-C is for the run
        )
    assert child.stdin is not None
    child.stdin.write(json.dumps(work) + "\n")
    child.stdin.flush()
    return child


def _pass_on(child: subprocess.Popen[str], say: Callable[[str], None]) -> None:
    assert child.stdout is not None
    for line in child.stdout:
        say(line.rstrip("\n"))


# ---- the child


def main() -> None:
    """The child: `python -m ncamix.following`, its work the first line of standard input."""
    for number in (signal.SIGTERM, signal.SIGINT):  # whoever ends the run ends this, too
        signal.signal(number, signal.SIG_IGN)
    os.nice(5)
    told = os.fdopen(os.dup(1), "w", buffering=1)
    sys.stdout = sys.stderr  # what libraries print is not for readers
    work = json.loads(sys.stdin.readline())
    ended = threading.Event()
    followers = [
        Follower(name, keys, work, told.write, ended) for name, keys in work["loggers"].items()
    ]
    threads = [threading.Thread(target=follower.run, daemon=True) for follower in followers]
    threading.Thread(target=_await_end, args=(ended, followers), daemon=True).start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told.flush()
    os._exit(0)  # no library is asked whether it has finished: all have


def _await_end(ended: threading.Event, followers: Sequence[Follower]) -> None:
    if sys.stdin.readline() != "end\n":  # the run has died
        until = time.monotonic() + DYING_SECONDS
        for follower in followers:
            follower.dying = True
        for follower in followers:  # whose row is told, and remembered; it begins no other
            follower.telling.acquire(timeout=max(0.0, until - time.monotonic()))
        os._exit(1)
    ended.set()


class Follower:
    """One logger that follows a run. `ended`: the run says no more."""

    def __init__(
        self,
        name: str,
        keys: dict[str, Any],
        work: dict[str, Any],
        tell: Callable[[str], Any],
        ended: threading.Event,
    ) -> None:
        self.name, self.keys, self.work, self.tell, self.ended = name, keys, work, tell, ended
        self.home = Path(work["folder"]) / "loggers"
        self._place = self.home / f"{name}.json"
        known = json.loads(self._place.read_text()) if self._place.is_file() else {}
        self.id: str | None = known.get("id")
        self.log = RunLog(Path(work["folder"]), known.get("told", {}))
        self.logger: Any = None
        self.telling = threading.Lock()  # held from a row's telling until it is remembered
        self.dying = False

    def run(self) -> None:
        """Follow to the end, through whatever fails on the way."""
        complained = False
        while True:
            last = self.ended.is_set()
            try:
                if self.logger is None:
                    self.logger = self._open()
                self._tell_new(last)
                if last:
                    _close(self.name, self.logger)
                    return
                self.ended.wait(LOOK_SECONDS)
            except Exception as error:  # whatever a library or a server comes up with
                if not complained or last:
                    why = str(error).strip().split("\n")[0][:200] or repr(error)
                    then = "gives up" if last else "tries again now and then"
                    name = _NAMES[self.name]
                    self.tell(f"{name} cannot be told of this run; ncamix {then}: {why}\n")
                complained = True
                if last:
                    return
                self.ended.wait(RETRY_SECONDS)

    def _tell_new(self, all_of_it: bool) -> None:
        with self.telling:
            try:
                for tokens, metrics in self.log.new(all_of_it):
                    if self.dying:
                        break
                    self._log(metrics, tokens)
            finally:
                self._remember()

    def _log(self, metrics: Metrics, tokens: int) -> None:
        self.logger.log_metrics(metrics, step=tokens)

    def _remember(self) -> None:
        if self.name == "tensorboard" and self.logger.writer is not None:
            self.logger.writer.flush()
        place = {"id": self.id, "told": self.log.told}
        write_whole(self._place, json.dumps(place).encode())

    def _open(self) -> Any:
        """Composer's logger, begun or gone on with."""
        begun = self.id is not None
        if self.name == "wandb" and self.id is None:
            self.id = uuid.uuid4().hex[:12]
        make = {"tensorboard": self._tensorboard, "wandb": self._wandb, "mlflow": self._mlflow}
        logger = make[self.name]()
        if self.name == "mlflow":
            self.id = logger._run_id
        elif self.name == "tensorboard":
            self.id = str(logger.writer.log_dir)
        if not begun:
            logger.log_hyperparameters(self.work["facts"])
        return logger

    def _state(self, name: str | None = None) -> Any:
        """All that these loggers ask of a Trainer's state when they begin."""
        return SimpleNamespace(run_name=name or self.work["name"])

    def _tensorboard(self) -> Any:
        from composer.loggers import TensorboardLogger

        folder = self.keys["folder"]
        logger = TensorboardLogger(log_dir=folder or str(self.home))
        logger.init(self._state(None if folder else "tensorboard"), None)  # type: ignore[arg-type]
        return logger

    def _wandb(self) -> Any:
        os.environ["WANDB_SILENT"] = "true"
        import wandb
        from composer.loggers import WandBLogger

        keys = {k: self.keys[k] for k in ("project", "entity", "group", "name")}

        def begin(mode: str) -> Any:
            seconds = PATIENCE if mode == "offline" else SERVER_SECONDS  # offline, of its own start
            settings = wandb.Settings(init_timeout=seconds, silent=True, console="off")
            kwargs = {
                "id": self.id,
                "resume": "allow",
                "dir": str(self.home),
                "mode": mode,
                "settings": settings,
            }
            logger = WandBLogger(**keys, tags=self.keys["tags"] or None, init_kwargs=kwargs)
            logger.init(self._state(), None)  # type: ignore[arg-type]
            return logger

        if self.keys["mode"] == "offline":
            return begin("offline")
        try:
            # Asked beforehand: wandb, once it has waited for a server, does not begin offline.
            _ask(wandb.setup().settings.base_url)  # type: ignore[union-attr]
            return begin(self.keys["mode"])
        except Exception as error:
            why = str(error).strip().split("\n")[0][:200]
            self.tell(
                f"Weights & Biases cannot be reached and logs into {self.home}/wandb, "
                f"for `wandb sync`: {why}\n"
            )
            return begin("offline")

    def _mlflow(self) -> Any:
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(int(SERVER_SECONDS))
        from composer.loggers import MLFlowLogger

        if self.id is not None:
            os.environ["MLFLOW_RUN_ID"] = self.id
        logger = MLFlowLogger(
            experiment_name=self.keys["experiment"],
            run_name=self.keys["name"],
            tags=dict(self.keys["tags"]),
            tracking_uri=self.keys["tracking_uri"],
            synchronous=True,  # or nobody learns what a server did not take
            log_system_metrics=False,
            # Its stores of files make folders of names: `loss` cannot stand beside `loss/code`.
            rename_metrics={"loss": "loss_total"},
            log_duplicated_metric_every_n_steps=1,
        )
        logger.init(self._state(), None)  # type: ignore[arg-type]
        return logger


def _ask(url: str) -> None:
    """Ask a server for anything: whether it is there. Raises OSError if it is not."""
    with suppress(urllib.error.HTTPError):  # an answer like any other
        urllib.request.urlopen(url, timeout=SERVER_SECONDS).close()


def _close(name: str, logger: Any) -> None:
    if name == "tensorboard":
        logger.writer.close()
    else:
        logger.post_close()


if __name__ == "__main__":
    main()
