"""`ncamix study --dry-run`: runs, tokens, time, and the smallest effect that can be found.

    arms, planned -> runs, what they begin with in common -> tokens to train
      -> seconds of a batch, measured on this machine -> time on so many slots
      -> seeds, and the spread of finished runs -> the effect that they detect

Nothing is trained or compiled: where lengths wait for a text, they are guesses.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import stdev

from rich.console import Console

from ncamix.findings import power_words
from ncamix.jobs import local_capacity
from ncamix.library import has_gpu
from ncamix.plan import Plan
from ncamix.quantities import counted, format_count, format_seconds
from ncamix.study_agenda import Agenda, plan_of
from ncamix.study_runs import StudyRun, shared_tokens, state_of, tested_value
from ncamix.study_tables import print_study
from ncamix.waiting import Waiting

Shape = tuple[int | str, ...]


def forecast_study(
    agenda: Agenda, num_jobs: int | None, ranks: int | None, console: Console
) -> None:
    """Print what a study comes to, and what is left of it."""

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    loaded, arms = agenda.loaded, list(agenda.arms.values())
    print_study(loaded, arms, console)
    runs = list({run.fingerprint: run for run in agenda.expected()}.values())
    left = [run for run in runs if state_of(run, agenda.folder) not in ("finished", "diverged")]
    total, needed = shared_tokens(runs)
    say(
        f"\n{counted(len(runs), 'run')}, {format_count(total)} tokens; {format_count(needed)} to "
        f"train, since what begins alike is trained once; {len(runs) - len(left)} are over"
    )
    if left:
        capacity = local_capacity(num_jobs, ranks)
        with Waiting(console, "timing a few steps of the model"):
            seconds = _seconds(agenda, left, capacity.threads)
        at_once = min(capacity.num_jobs, len(left))
        say(
            f"about {format_seconds(seconds / at_once)} on this machine, {at_once} at once, at the "
            "pace of a few steps measured just now, one run alone"
        )
    compare = loaded.study.compare
    if compare is not None:
        spread = spread_of(agenda)
        words = power_words(
            len(loaded.study.seeds),
            float(compare.smallest_effect),
            str(compare.metric),
            sd=spread,
            confidence=compare.confidence,
            power=compare.power,
        )
        for line in words:
            say(line)


def spread_of(agenda: Agenda) -> float | None:
    """Standard deviation between seeds of the primary comparison's difference, by the runs that are
    finished; None as long as fewer than two seeds have both."""
    compare = agenda.loaded.study.compare
    assert compare is not None
    values: dict[str, dict[int, float]] = {name: {} for name in compare.primary}
    for run in agenda.finals():
        if run.arm in values and state_of(run, agenda.folder) == "finished":
            folder = agenda.folder / run.folder
            found = tested_value(folder, compare.metric.name, compare.metric.source)
            if found is not None:
                values[run.arm][run.seed] = found
    one, other = values.values()
    differences = [one[seed] - other[seed] for seed in one.keys() & other.keys()]
    return stdev(differences) if len(differences) > 1 else None


def _seconds(agenda: Agenda, left: Sequence[StudyRun], threads: int) -> float:
    """Seconds that runs take one after the other: batches, evaluations, and loading what trains."""
    began = time.monotonic()
    from ncamix.training.pace import EVALUATION, measure_pace

    loading = time.monotonic() - began  # which every run does
    device = "gpu" if has_gpu() else "cpu"
    paces: dict[Shape, float] = {}
    evaluation: float | None = None
    spent, seen = 0.0, set[str]()
    for run in left:
        plan = plan_of(agenda.arms[run.arm])
        shapes = _shapes(plan)
        if any(shape not in paces for shape in shapes.values()):
            measured = measure_pace(plan, device, threads)
            once = measured.pop(EVALUATION)
            evaluation = once if evaluation is None else evaluation
            paces.update((shapes[name], seconds) for name, seconds in measured.items())
        assert evaluation is not None, "the first run has measured it"
        spent += loading + evaluation * _tests(plan)
        keys = (*run.beginnings, run.fingerprint)
        for key, stage in zip(keys, plan.stages, strict=True):
            if key not in seen:
                evaluations = len(stage.evaluations) + 2 if plan.evaluated(stage) else 0
                batches = run.stages[stage.index][1]
                spent += batches * paces[shapes[stage.name]] + evaluations * evaluation
            seen.add(key)
    return spent


def _tests(plan: Plan) -> float:
    """What the test at the end takes, in evaluations."""
    evaluate = plan.curriculum.curriculum.evaluate
    return (evaluate.test or evaluate.samples) / evaluate.samples


def _shapes(plan: Plan) -> dict[str, Shape]:
    """What the pace of each stage depends on."""
    found: dict[str, Shape] = {}
    for stage in plan.stages:
        active = sum(last - first for first, last in plan.active_ranges(stage))
        if plan.vocabulary.softmax == "all":
            active = plan.vocabulary.rows
        sizes = stage.batch_size, stage.sequence_length, active
        found[stage.name] = (*sizes, stage.precision, stage.optimizer.algorithm)
    return found
