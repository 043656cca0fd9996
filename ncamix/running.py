"""`ncamix run`: from a plan to a finished run folder, resumed wherever an earlier try stopped."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ncamix.background import Compiler, start_compiler
from ncamix.compilation.compiled import Data, check_data
from ncamix.edits import go_on, newest_place, take_over, with_known_sizes
from ncamix.errors import Problem, UserError
from ncamix.files import write_whole
from ncamix.following import following
from ncamix.library import has_gpu
from ncamix.loggers import check_packages
from ncamix.plan import Plan
from ncamix.plan_output import plan_json
from ncamix.planning import decide
from ncamix.quantities import counted
from ncamix.ranks import Ranks
from ncamix.replanning import read_plan
from ncamix.run_folder import TEST, RunFolder
from ncamix.sources import NcaSource
from ncamix.sources.nca import NcaGenerator
from ncamix.stored import stored_sizes
from ncamix.text_compilation import prepare_text, report_lines, tokenizer_file, with_sizes
from ncamix.waiting import Say, Waiting, WaitingIfLong, quiet

if TYPE_CHECKING:
    from ncamix.text_compilation import TextFacts

PICTURED_RULES = 4
PICTURED_FRAMES = 10


def run_plan(
    plan: Plan, path: Path, data: Data | None, fresh: bool, console: Console
) -> dict[str, Any]:
    """Train a plan into the folder `path`; the summary. A rerun continues, or says it is finished.

    Raises:
        UserError: something that the user can mend. Stopped: a signal came, the state is saved.
    """
    ranks, folder = Ranks(), RunFolder(path)
    ranks.join()
    with ranks.together():
        _check_device(plan)
        check_packages(plan.trainer.trainer.loggers, plan.trainer.document)
    if not ranks.is_first:
        with ranks.together():  # the first one takes the folder over
            pass
        if ranks.gather(None)[0]:
            ranks.leave()
            return {}
        return _train(_sized(plan, data, quiet), folder, data, console, first=False)
    with ExitStack() as held:
        with ranks.together():
            held.enter_context(folder.hold())
            plan = take_folder(plan, folder, data, fresh, console)
        if ranks.gather(_is_finished(plan, folder))[0]:
            ranks.leave()
            console.print(f"{plan.name} is finished (--fresh starts over)", markup=False)
            return dict(json.loads(folder.file("summary.json").read_text()))
        try:
            return _run(plan, folder, data, console)
        except UserError:
            folder.forget_unbegun()
            raise


def refuse_ranks(plan: Plan, ranks: int) -> None:
    """Refuse a number of ranks over which some stage's batch does not split.

    Raises:
        UserError: naming each such stage.
    """
    uneven = [stage for stage in plan.stages if stage.batch_size % ranks]
    if uneven:
        raise UserError(
            [
                Problem(
                    f"stage '{stage.name}': a batch of {stage.batch_size} samples does not split "
                    f"over {ranks} ranks",
                    f"choose a batch_size that is a multiple of {ranks}, or other ranks (--ranks)",
                )
                for stage in uneven
            ]
        )


def is_trained(plan: Plan, path: Path) -> bool:
    """Whether the folder holds this very plan's finished run, so that nothing is left to train."""
    folder = RunFolder(path)
    return _is_finished(with_known_sizes(plan, folder), folder)


def _run(plan: Plan, folder: RunFolder, data: Data | None, console: Console) -> dict[str, Any]:
    """The first rank's part, in a folder that is this plan's."""
    with WaitingIfLong(console) as say:
        plan = _sized(plan, data, say)
    write_files(plan, folder)
    return _train(plan, folder, data, console, first=True)


def write_files(plan: Plan, folder: RunFolder) -> None:
    """Write what the run is made from, and last the plan: it says that the run is under these."""
    for name, document in (("curriculum", plan.curriculum), ("trainer", plan.trainer)):
        write_whole(folder.file(f"{name}.yaml"), document.document.text.encode())
    if not plan.estimated:  # else its fingerprint is not known yet
        write_plan(decide(plan, folder.decisions()), folder)


def _sized(plan: Plan, data: Data | None, say: Say) -> Plan:
    """A plan with the sizes of what is compiled or stored somewhere already."""
    if data is not None:
        return check_data(plan, data)
    sizes = stored_sizes(plan, say)
    return with_sizes(plan, sizes) if sizes else plan


def write_plan(plan: Plan, folder: RunFolder) -> None:
    """Write `plan.json`, which names the run by its fingerprint."""
    write_whole(folder.file("plan.json"), json.dumps(plan_json(plan), indent=1).encode())


def _check_device(plan: Plan) -> None:
    """See that this machine trains in the number formats of a plan: a CPU has no fast fp16, nor
    what keeps its small numbers from vanishing."""
    trainer = plan.trainer
    if has_gpu():
        return
    what = "this machine has no GPU, and fp16 is for GPUs"
    remedy = "write precision: bf16 or fp32, or choose another trainer: --trainer cpu"
    problems = []
    if trainer.trainer.precision == "fp16":
        problems.append(trainer.document.problem(("precision",), what, remedy))
    for stage in plan.stages:
        if stage.spec.precision == "fp16":
            path = ("stages", stage.index, "precision")
            problems.append(plan.curriculum.document.problem(path, what, remedy))
    if problems:
        raise UserError(problems)


def take_folder(
    plan: Plan, folder: RunFolder, data: Data | None, fresh: bool, console: Console
) -> Plan:
    """Make the folder this plan's: new, resumed, edited, or moved aside; with known sizes."""
    if fresh:
        aside = folder.move_aside()
        if aside is not None:
            console.print(f"moved the old run to {aside}", markup=False)
    if not folder.file("plan.json").is_file():
        return plan
    plan = with_known_sizes(plan, folder)
    if read_plan(folder.path)["fingerprint"] != plan.fingerprint:
        with WaitingIfLong(console) as say:

            def exact(plan: Plan) -> Plan:
                sized = _sized(plan, data, say)
                return prepare_text(sized, say) if sized.estimated else sized

            return take_over(plan, folder, exact, console, say)
    go_on(plan, folder)
    reached = newest_place(folder)
    if reached is not None and not _is_finished(plan, folder):
        index, batches = reached
        stage = plan.stages[index].name
        after = f"after {counted(batches, 'batch', 'batches')} of stage '{stage}'"
        console.print(f"resuming the run in {folder.path}, {after}", markup=False, highlight=False)
    return plan


def _is_finished(plan: Plan, folder: RunFolder) -> bool:
    """Whether nothing is left to do: a run whose figures of the test are gone is tested again."""
    return _was_finished(plan, folder) and folder.file(TEST).is_file()


def _was_finished(plan: Plan, folder: RunFolder) -> bool:
    """Whether the folder has the summary of this plan."""
    try:
        summary = json.loads(folder.file("summary.json").read_text())
        return bool(summary["plan_fingerprint"] == plan.fingerprint)
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _train(
    plan: Plan, folder: RunFolder, data: Data | None, console: Console, first: bool
) -> dict[str, Any]:
    """All ranks: train, while this node's first rank has text compiled."""
    compiler = start_compiler(plan) if data is None else None
    try:
        return _train_beside(compiler, plan, folder, data, console, first)
    finally:
        if compiler is not None:
            compiler.close()


def _train_beside(
    compiler: Compiler | None,
    plan: Plan,
    folder: RunFolder,
    data: Data | None,
    console: Console,
    first: bool,
) -> dict[str, Any]:
    """The part that needs torch."""
    device = "gpu" if has_gpu() else "cpu"
    with Waiting(console if first else None, "loading torch and Composer"), _own_handlers():
        _quiet_libraries()
        from composer.utils import dist

        from ncamix.training.progress import RunProgress
        from ncamix.training.ranks import set_up_ranks, share_temporary
        from ncamix.training.recorder import cut_to
        from ncamix.training.stages import is_finished, train
        from ncamix.training.stopping import StopSignal
        from ncamix.training.testing import examine
        from ncamix.training.texts import Texts

        set_up_ranks(device)
        share_temporary()
        sizes = {name: s.num_samples for name, s in plan.sources.items() if s.num_samples}
        held = [(folder.decisions(), sizes if not plan.estimated else {}) if first else None]
        dist.broadcast_object_list(held)
        assert held[0] is not None, "it came from the first rank"
        ended, sizes = held[0]
        if plan.estimated and sizes:  # known to the first rank, from what the run was before
            plan = with_sizes(plan, sizes)

    begun, told = plan, set[str]()

    def on_sizes(exact: Plan) -> None:
        if not first:
            return
        write_plan(exact, folder)
        for line in report_lines(exact, begun):
            if line not in told:
                console.print(line, markup=False, highlight=False)
                told.add(line)

    stop = StopSignal()
    texts = Texts(plan, data, compiler, stop, on_sizes)
    with stop.listen():
        if plan.estimated:
            with Waiting(console if first else None, "compiling text") as waiting:
                plan, _ = texts.ready(plan, plan.stages[0], waiting.say)
        plan = decide(plan, ended)
        last = folder.weights(len(plan.stages) - 1, plan.stages[-1].name)
        trained = is_finished(plan, folder) or (_was_finished(plan, folder) and last.is_file())
        with (
            RunProgress(plan.num_tokens, console, first) as progress,
            following(plan, folder, progress.say) if first and not trained else nullcontext(),
        ):
            if not trained:
                plan = train(plan, folder, data, texts, device, progress, stop)
            plan = examine(plan, folder, texts, device, progress, stop)
    if not first:
        return {}
    write_plan(plan, folder)
    cut_to(plan, folder, len(plan.stages), 0)  # of stages that were taken out of the plan
    with Waiting(console, "exporting and drawing the report") as waiting:
        facts = texts.facts(plan)
        if facts is not None and data is None:
            tokenizer_file(plan, waiting.say)  # made again, if it was lost while the run trained
        return _finish(plan, folder, facts, device)


def _finish(plan: Plan, folder: RunFolder, facts: TextFacts | None, device: str) -> dict[str, Any]:
    """Export, pictures, summary and report; the summary last, since it says that all is there."""
    from ncamix.export import EXPORT, TEXT, export_stage, knows_text
    from ncamix.hub_folder import read_mark
    from ncamix.report import write_report
    from ncamix.summary import device_name, write_summary

    save_frames(plan, folder)
    export = folder.path / EXPORT
    if facts is not None and knows_text(plan, plan.stages[-1]):
        export_stage(plan, plan.stages[-1], folder, facts, TEXT, export)
    elif read_mark(export) is not None:  # of the run before it was planned anew, without text
        shutil.rmtree(export)
    shutil.rmtree(folder.path / "data", ignore_errors=True)  # the stages' caches, empty by now
    summary = write_summary(plan, folder, device_name(device))
    write_report(folder.path)
    return summary


def save_frames(plan: Plan, folder: RunFolder) -> None:
    """Save a few held-out rollouts of every automaton source for the report."""
    import io

    import numpy as np

    arrays: dict[str, Any] = {}
    for name, source in {s.name: s for s in plan.sources.values()}.items():
        if isinstance(source.spec, NcaSource):
            generator = NcaGenerator(source.evaluation_meaning())
            frames, scores = generator.frames(PICTURED_RULES, PICTURED_FRAMES)
            arrays |= {
                name: frames,
                f"{name}.scores": scores,
                f"{name}.alphabet": np.int64(source.spec.alphabet),
            }
    if arrays:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_whole(folder.file("frames.npz"), buffer.getvalue())


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep what SIGTERM and SIGINT do: Composer's import lays handlers of its own."""
    own = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in own.items():
            signal.signal(number, handler)


def _quiet_libraries() -> None:
    """Keep the terminal for ncamix: what libraries merely remark on is not shown."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    warnings.filterwarnings("ignore")
    for name in ("composer", "streaming", "torch", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
