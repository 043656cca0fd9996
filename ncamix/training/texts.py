"""Texts, as the loop over stages meets them: compiled by the time that a stage needs them.

    stage begins -> its texts awaited, by all ranks -> plan with their exact sizes
                 -> held-out samples of what the stage evaluates, and of what the run is tested on
    batch ends   -> has compiling failed on this node?

The first rank of each node holds the process that compiles; sizes are the first rank's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from composer.utils import dist

from ncamix.background import Compiler, Failure, failure_of
from ncamix.compilation.compiled import Data, local_part
from ncamix.overlap import overlap_remarks
from ncamix.plan import Plan, PlannedStage
from ncamix.planned_source import PlannedSource
from ncamix.planning import decide
from ncamix.text_compilation import (
    TextFacts,
    compile_text,
    hold_texts,
    text_facts,
    tokenizer_file,
    with_sizes,
)
from ncamix.training.evaluation import EvaluationSet, evaluation_set, examination_set
from ncamix.training.stopping import StopSignal
from ncamix.waiting import Say

_LOOK_SECONDS = 0.5  # between two looks at a child that is awaited


class Texts:
    """The texts of a run.

    plan: before any stage was ended by evidence. data: compiled datasets, which all are ready;
    their sizes are in the plan. compiler: this node's, None where there is nothing to compile.
    on_sizes: told the plan whenever sizes have become known.
    """

    def __init__(
        self,
        plan: Plan,
        data: Data | None,
        compiler: Compiler | None,
        stop: StopSignal,
        on_sizes: Callable[[Plan], None],
    ) -> None:
        self.data = local_part(data) if data is not None else None
        self.stop = stop
        self._plan, self._compiler, self._on_sizes = plan, compiler, on_sizes
        self._ready: set[str] = set()
        self._sets: dict[str, EvaluationSet] = {}
        self._facts: TextFacts | None = None
        if data is None:
            hold_texts(plan)

    def ready(self, plan: Plan, stage: PlannedStage, say: Say) -> tuple[Plan, float]:
        """Wait for what a stage draws and evaluates, all ranks together.

        Returns the plan, with the exact sizes of that, and the seconds that it took.

        Raises:
            Stopped: a signal came. Otherwise, whatever keeps a text from being compiled.
        """
        names = [name for name in plan.awaited(stage) if name not in self._ready]
        if self.data is not None or not names:
            return plan, 0.0
        began = time.monotonic()
        while any(self.stop.exchange(*self._look(names, say))):
            pass
        failure: Failure | None = None
        sizes: dict[str, int] = {}
        remarks: list[str] = []
        if dist.get_local_rank() == 0:
            try:  # what was there or is ready by now, unless it has been deleted since
                for name in names:
                    info = compile_text(self._plan, self._plan.sources[name], say)
                    sizes[name] = int(info["num_samples"])
                    found = info["report"]["overlap"]
                    remarks += overlap_remarks(self._plan.sources[name].name, found)
            except Exception as error:
                failure = failure_of(error)
        sizes, remarks = self.stop.exchange(failure, (sizes, remarks))[0]
        self._ready |= sizes.keys()
        exact = with_sizes(self._plan, sizes)
        self._plan = replace(exact, warnings=tuple(dict.fromkeys([*exact.warnings, *remarks])))
        plan = decide(self._plan, plan.ended)
        self._on_sizes(plan)
        return plan, time.monotonic() - began

    def _look(self, names: list[str], say: Say) -> tuple[Failure | None, bool]:
        """Why this node's process has failed, if so, and whether it still is at work on a text."""
        compiler = self._compiler
        if compiler is None or not set(names) & set(compiler.pending):
            return None, False
        what, share = compiler.say()
        say(f"waiting for text: {what}", share)
        compiler.poll(_LOOK_SECONDS)
        return compiler.failure, bool(set(names) & set(compiler.pending))

    def failure(self) -> Failure | None:
        """Why text cannot be compiled on this node, as far as is known by now."""
        if self._compiler is None:
            return None
        self._compiler.poll()
        return self._compiler.failure

    def note(self) -> str:
        """What goes on beside training, in a few words, or nothing."""
        return self._compiler.note() if self._compiler is not None else ""

    def sets(self, plan: Plan, stage: PlannedStage) -> list[EvaluationSet]:
        """What a stage is evaluated on; its texts are ready."""
        for name in plan.evaluated(stage):
            if name not in self._sets:
                self._sets[name] = evaluation_set(plan, name, self._facts_of(plan, name), self.data)
        return [self._sets[name] for name in plan.evaluated(stage)]

    def examination_sets(self, plan: Plan, stage: PlannedStage) -> dict[str, EvaluationSet | None]:
        """What a run is tested on that ends with a stage, by source; its texts are ready. None of a
        text that holds nothing out for that."""
        return {
            name: examination_set(plan, name, self._facts_of(plan, name), self.data)
            for name in plan.evaluated(stage)
        }

    def _facts_of(self, plan: Plan, name: str) -> TextFacts | None:
        return self.facts(plan) if plan.sources[name].text is not None else None

    def facts(self, plan: Plan) -> TextFacts | None:
        """What is known of the tokenizer; None for a run without text. Its texts are ready."""
        if self._facts is None and plan.vocabulary.text_rows:
            file = tokenizer_file(plan) if self.data is None else self.data / "tokenizer.json"
            if file is not None and file.is_file():
                self._facts = text_facts(file, plan.vocabulary.text_rows)
        return self._facts

    def end_of_text_id(self, plan: Plan, drawn: Sequence[PlannedSource]) -> int | None:
        """What closes documents, where a stage draws text; its texts are ready."""
        facts = self.facts(plan) if any(source.text is not None for source in drawn) else None
        return facts.end_of_text_id if facts is not None else None
