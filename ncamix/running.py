"""`ncamix run`: from a plan to a finished run folder, resumed wherever an earlier try stopped."""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ncamix.background import Compiler, start_compiler
from ncamix.compilation.compiled import Data, check_data
from ncamix.errors import UserError, fail
from ncamix.files import write_whole
from ncamix.following import following
from ncamix.library import has_gpu
from ncamix.limits import refuse_untrained
from ncamix.loggers import check_packages
from ncamix.plan import Plan
from ncamix.plan_output import plan_json
from ncamix.planning import decide
from ncamix.quantities import counted
from ncamix.run_folder import RunFolder
from ncamix.sources import NcaSource
from ncamix.sources.nca import NcaGenerator
from ncamix.stored import stored_sizes
from ncamix.text_compilation import report_lines, tokenizer_file, with_sizes
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
    refuse_untrained(plan)
    _check_device(plan)
    check_packages(plan.trainer.trainer.loggers, plan.trainer.document)
    first = int(os.environ.get("RANK", "0")) == 0
    folder = RunFolder(path)
    if not first:
        if folder.file("summary.json").is_file() and not fresh:
            return {}
        return _train(_sized(plan, data, quiet), folder, data, console, first)
    with folder.hold():
        _take_over(plan, folder, fresh, console)
        finished = folder.file("summary.json")
        if finished.is_file():
            console.print(
                f"{plan.name} is finished: see {path}/report.html (--fresh starts over)",
                markup=False,
            )
            return dict(json.loads(finished.read_text()))
        try:
            return _run(plan, folder, data, console)
        except UserError:
            folder.forget_unbegun()
            raise


def _run(plan: Plan, folder: RunFolder, data: Data | None, console: Console) -> dict[str, Any]:
    """The first rank's part, in a folder that is this plan's."""
    with WaitingIfLong(console) as say:
        plan = _sized(plan, data, say)
    for name, document in (("curriculum", plan.curriculum), ("trainer", plan.trainer)):
        write_whole(folder.file(f"{name}.yaml"), document.document.text.encode())
    if not plan.estimated:  # else its fingerprint is not known yet
        write_plan(decide(plan, folder.decisions()), folder)
    return _train(plan, folder, data, console, first=True)


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
    trainer = plan.trainer
    if has_gpu():
        return
    problems = []
    what = "this machine has no GPU, and Composer trains on CPUs in fp32 only"
    remedy = "write precision: fp32, or choose another trainer: --trainer cpu"
    if trainer.trainer.precision != "fp32":
        problems.append(trainer.document.problem(("precision",), what, remedy))
    for stage in plan.stages:
        if stage.spec.precision not in (None, "fp32"):
            path = ("stages", stage.index, "precision")
            problems.append(plan.curriculum.document.problem(path, what, remedy))
    if trainer.trainer.parallelism != "ddp":
        problems.append(
            trainer.document.problem(
                ("parallelism",),
                "this machine has no GPU to shard the model over",
                "write parallelism: ddp, or choose another trainer: --trainer cpu",
            )
        )
    if problems:
        raise UserError(problems)


def _take_over(plan: Plan, folder: RunFolder, fresh: bool, console: Console) -> None:
    """Make the folder this plan's: new, resumed, or moved aside."""
    if fresh:
        aside = folder.move_aside()
        if aside is not None:
            console.print(f"moved the old run to {aside}", markup=False)
    known = folder.file("plan.json")
    if known.is_file():
        try:
            before = json.loads(known.read_text())
            same = before["fingerprint"] == plan.fingerprint
        except (ValueError, LookupError, TypeError):
            raise fail(f"{known} is damaged", "start over with --fresh") from None
        if not same:
            raise fail(
                f"the run in {folder.path} was planned differently: "
                f"{difference(before, decide(plan, folder.decisions()))}",
                "go on with the curriculum and trainer it was started with, start over with "
                "--fresh (the old run is moved aside), or choose another folder with --out",
            )
        begun = any((folder.path / "checkpoints").glob("*/ba*.pt"))
        if begun and not folder.file("summary.json").is_file():
            console.print(f"resuming the run in {folder.path}", markup=False)


def difference(before: dict[str, Any], plan: Plan) -> str:
    """The first thing in which two plans differ, in words."""
    now = json.loads(json.dumps(plan_json(plan)))
    for key in ("trainer", "seeds", "vocabulary", "evaluate"):
        for item, value in now[key].items():
            if item != "file" and before.get(key, {}).get(item) != value:
                return f"{key}.{item} was {before.get(key, {}).get(item)}, is {value}"
    for name in sorted({*before["sources"], *now["sources"]}):
        then, is_now = (p["sources"].get(name, {}) for p in (before, now))
        old, new = then.get("fingerprint"), is_now.get("fingerprint")
        if old != new:
            return f"the source '{name}' is not the same ({_why_unlike(then, is_now)})"
        old, new = then.get("limit"), is_now.get("limit")
        if old != new:
            return f"of the source '{name}' {old:,} samples were read, now {new:,} are"
    for old_stage, new_stage in zip(before["stages"], now["stages"], strict=False):
        for key, value in new_stage.items():
            if old_stage.get(key) != value:
                return f"stage '{new_stage['name']}' differs in {key}"
    if len(before["stages"]) != len(now["stages"]):
        return f"it had {counted(len(before['stages']), 'stage')}, now {len(now['stages'])}"
    return "an optimizer setting differs"


def _why_unlike(then: dict[str, Any], now: dict[str, Any]) -> str:
    """Why a source in two plans has not the same fingerprint, as far as the plans tell."""
    for key in ("kind", "summary", "sequence_length"):
        if then.get(key) != now.get(key):
            return f"{key.replace('_', ' ')}: {then.get(key)} then, {now.get(key)} now"
    if now.get("kind") in ("text", "pairs", "mds"):
        return "its files, or those of its tokenizer, have changed, gone or been added since"
    return f"{then.get('fingerprint')} then, {now.get('fingerprint')} now"


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
    with Waiting(console if first else None, "loading torch and Composer"):
        _quiet_libraries()
        from composer.utils import dist

        from ncamix.training.progress import RunProgress
        from ncamix.training.stages import is_finished, set_up_ranks, share_temporary, train
        from ncamix.training.stopping import StopSignal
        from ncamix.training.texts import Texts

        set_up_ranks(device)
        share_temporary()
        held = [folder.decisions() if first else {}]
        dist.broadcast_object_list(held)

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
    with stop.listen():  # after Composer's import, which lays handlers of its own
        if plan.estimated:
            with Waiting(console if first else None, "compiling text") as waiting:
                plan, _ = texts.ready(plan, plan.stages[0], waiting.say)
        plan = decide(plan, held[0])
        if not is_finished(plan, folder):
            with (
                RunProgress(plan.num_tokens, console, first) as progress,
                following(plan, folder, progress.say) if first else nullcontext(),
            ):
                plan = train(plan, folder, data, texts, device, progress, stop)
    if not first:
        return {}
    write_plan(plan, folder)
    with Waiting(console, "exporting and drawing the report") as waiting:
        facts = texts.facts(plan)
        if facts is not None and data is None:
            tokenizer_file(plan, waiting.say)  # made again, if it was lost while the run trained
        return _finish(plan, folder, facts, device)


def _finish(plan: Plan, folder: RunFolder, facts: TextFacts | None, device: str) -> dict[str, Any]:
    """Export, pictures, summary and report; the summary last, since it says that all is there."""
    from ncamix.report import write_report
    from ncamix.summary import device_name, write_summary
    from ncamix.training.handover import final_model

    save_frames(plan, folder)
    if facts is not None:
        from ncamix.export import export_model

        export_model(
            final_model(plan, folder),
            facts.file,
            folder.path / "export",
            plan.vocabulary.text_rows,
            facts.end_of_text_id,
            plan.trainer.trainer.sequence_length,
        )
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


def _quiet_libraries() -> None:
    """Keep the terminal for ncamix: what libraries merely remark on is not shown."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    warnings.filterwarnings("ignore")
    for name in ("composer", "streaming", "torch", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
