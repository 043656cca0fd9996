"""Runs of the command line, one after the other in this process: stopped by SIGTERM after a batch.

stdin, a line a command: [arguments of `ncamix run`, batches of the run to stop after, or null]
-> stdout, a line each: [status, output]; all in JSON
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
from typing import Any

from ncamix import cli
from ncamix.training.recorder import Recorder

stop_after: int | None = None
_batch_end = Recorder.batch_end


def batch_end(self: Recorder, state: Any, logger: Any) -> None:
    done = state.timestamp.batch.value
    done += sum(s.num_batches for s in self.plan.stages[: self.stage.index])
    if done == stop_after:
        os.kill(os.getpid(), signal.SIGTERM)
    _batch_end(self, state, logger)


def step(arguments: list[str]) -> tuple[int, str]:
    """Status and output of one command."""
    told, sys.argv = io.StringIO(), ["ncamix", "run", *arguments]
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = int(end.code or 0)
    return status, told.getvalue()


if __name__ == "__main__":
    Recorder.batch_end = batch_end  # type: ignore[method-assign]
    for line in sys.stdin:
        arguments, stop_after = json.loads(line)
        print(json.dumps(step(arguments)), flush=True)
