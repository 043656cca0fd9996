"""Planning: a curriculum and a trainer become a plan, or a list of everything that cannot work.

    durations -> batches of each stage -> mixture and rate curves -> counts per batch
    -> sample counters -> sources (inventory) -> Plan

Refused here, before anything runs: durations that do not fill the budget or fall under one batch,
keyframes outside their stage, unreachable bands, texts too small for their share. A stage that may
end early, on evidence, is planned for its whole duration, and whatever later stages could need then
is counted, too; once it has ended, the rest is planned anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from ncamix.apportionment import Apportionment, apportion
from ncamix.cache_limits import cache_limit
from ncamix.curriculum import Enter, Stage
from ncamix.durations import (
    MAX_EVALUATIONS,
    Lengths,
    evaluation_batches,
    shape,
    stage_lengths,
)
from ncamix.entering import frozen_batches, spared_rows, state_to_keep
from ncamix.errors import UserError
from ncamix.inventory import Inventory
from ncamix.loading import LoadedCurriculum
from ncamix.mixture import Mixture, MixtureError, StageShape, names_of, resolve_mixtures
from ncamix.optimizer import Optimizer
from ncamix.origins import Origin, find_origin
from ncamix.plan import Plan, PlannedStage
from ncamix.planned_source import dataset_name
from ncamix.proportions import weighed
from ncamix.quantities import Refusal, counted
from ncamix.rates import resolve_rate
from ncamix.remarks import remarks
from ncamix.schedule import Clock, Schedule
from ncamix.sources import BlendSource, SourceSpec
from ncamix.trainer import LoadedTrainer
from ncamix.validation import in_order
from ncamix.waiting import Say, quiet


def make_plan(
    curriculum: LoadedCurriculum,
    trainer: LoadedTrainer,
    say: Say = quiet,
    sizes: Mapping[str, int] | None = None,
) -> Plan:
    """Plan a curriculum under a trainer.

    say: told what takes a while and how far it is: automata of uncommon settings are measured once.
    sizes: samples of finite sources by dataset, where they are known from elsewhere than the cache.

    Raises:
        UserError: it cannot work; with every problem found.
    """
    return _Planner(curriculum, trainer, say, sizes or {}).plan()


def decide(plan: Plan, ended: Mapping[str, int]) -> Plan:
    """The plan once evidence has ended more stages: what they left goes to a later `rest`.

    Nothing is refused any more: the run is under way. Sources stay what they are.
    """
    known = {**plan.ended, **ended}
    if known == plan.ended:
        return plan
    sizes = {name: s.num_samples for name, s in plan.sources.items() if s.num_samples}
    return _Planner(plan.curriculum, plan.trainer, quiet, sizes).decided(plan, known)


class _Planner:
    """Builds a Plan, collecting problems on the way."""

    def __init__(
        self,
        curriculum: LoadedCurriculum,
        trainer: LoadedTrainer,
        say: Say,
        sizes: Mapping[str, int],
    ) -> None:
        self.loaded, self.loaded_trainer = curriculum, trainer
        self.c, self.t = curriculum.curriculum, trainer.trainer
        self.inventory = Inventory(curriculum, self.t.sequence_length, sizes, say)
        self.problems, self.warnings = self.inventory.problems, self.inventory.warnings
        self.bad = self.inventory.bad
        self.planned_tokens = 0
        self.origins: dict[int, Origin] = {}  # by stage: the weights of other runs to begin with
        self.text_bytes: Mapping[str, int] = {}  # of corpora in files, which blends may weigh by

    def stop_if_bad(self) -> None:
        if self.problems:
            raise UserError(in_order(self.problems))

    def plan(self) -> Plan:
        used = set(self.c.evaluate.sources) | self.mixed_sources()
        for name, spec in self.c.sources.items():
            if name not in used and not isinstance(spec, BlendSource):
                self.warnings.append(f"the source '{name}' is declared but never used")
        self.inventory.check_bands(used)
        self.inventory.prepare(used)
        self.text_bytes = {
            name: about for name, (about, _) in self.inventory.corpora.num_bytes.items()
        }
        self.check_entries()
        epochs, estimated = self.epochs()
        planned = self.lengths(epochs, {})
        self.refuse(planned)
        self.warnings += planned.remarks
        self.stop_if_bad()
        self.planned_tokens = planned.num_tokens
        stages = self.stages(planned, planned)
        variants = [stages, *self.ended_early(stages, epochs, planned)]
        sources = self.inventory.sources(self.lengths_drawn(used), self.needed(variants))
        self.inventory.check_shares(variants)
        self.stop_if_bad()
        plan = Plan(
            self.loaded,
            self.loaded_trainer,
            self.c.seed,
            self.inventory.vocabulary,
            sources,
            tuple(stages),
            (),
            estimated,
            benchmarks=self.inventory.benchmarks,
        )
        if self.t.cache_limit is not None:
            for stage in plan.stages:
                cache_limit(plan, stage, [name for name, s in sources.items() if s.spec.finite])
        return replace(plan, warnings=tuple(dict.fromkeys([*self.warnings, *remarks(plan)])))

    def decided(self, plan: Plan, ended: Mapping[str, int]) -> Plan:
        """A plan once evidence has ended stages. Its past stays, and its sources; they may grow."""
        self.inventory.vocabulary, self.text_bytes = plan.vocabulary, plan.text_bytes
        self.origins = {s.index: s.origin for s in plan.stages if s.origin is not None}
        epochs, _ = self.epochs()
        planned = self.lengths(epochs, {})
        self.planned_tokens = planned.num_tokens
        stages = self.stages(self.lengths(epochs, ended), planned, lenient=True)
        needed = self.needed([stages])
        sources = {
            name: replace(s, samples_needed=max(s.samples_needed, needed.get(name, 0)))
            for name, s in plan.sources.items()
        }
        return replace(
            plan,
            sources=sources,
            stages=tuple(stages),
            ended=dict(ended),
            undecided=plan.fingerprint,
        )

    def refuse(self, lengths: Lengths) -> None:
        self.problems += [self.loaded.document.problem(*fault) for fault in lengths.faults]

    def mixed_sources(self) -> set[str]:
        """The sources that mixtures give a weight, through blends too."""
        return {name for stage in self.c.stages for name in self.leaves(stage)}

    def leaves(self, stage: Stage) -> set[str]:
        """The leaf sources that a stage's mixture gives a weight, through blends too."""
        found: set[str] = set()
        queue = list(_weighed(stage.mixture))
        while queue:
            name = queue.pop()
            if name not in found:
                found.add(name)
                queue += _inner(self.c.sources[name])
        return {name for name in found if not isinstance(self.c.sources[name], BlendSource)}

    def check_entries(self) -> None:
        """Layers that the model lacks, states of optimizers that cannot go on, and runs to start
        from, which are found here."""
        before: Optimizer | None = None
        for i, stage in enumerate(self.c.stages):
            optimizer = self.t.optimizer.under(stage.optimizer)
            faults = list(state_to_keep(stage, optimizer, before))
            before = optimizer
            if stage.enter is None:
                continue
            beyond = stage.enter.layers_beyond(self.t.model.layers)
            if not beyond:
                faults += self.find_origin(i, stage.enter)
                faults += stage.enter.drawn_and_permuted(self.t.model.layers)
            for below, what, remedy in (*beyond, *faults):
                self.bad(("stages", i, "enter", *below), what, remedy)

    def find_origin(self, index: int, enter: Enter) -> list[Refusal]:
        """The run that a stage starts from, if it does; and what is wrong with that."""
        if enter.from_run is None:
            return []
        parts = enter.redrawn(self.t.model.layers)
        found, faults, remarks = find_origin(
            enter.from_run,
            self.loaded.document.folder_of(("stages", index, "enter", "from")),
            self.t.model,
            self.inventory.known_vocabulary(),
            {("embedding", None), ("head", None)} <= parts and not enter.spare,
        )
        if found is not None:
            self.origins[index] = found
        self.warnings += [f"stage '{self.c.stages[index].name}': {line}" for line in remarks]
        return faults

    # -- durations ------------------------------------------------------------------------------

    def lengths(self, epochs: Mapping[str, Fraction], ended: Mapping[str, int]) -> Lengths:
        return stage_lengths(self.c.stages, self.t, epochs, ended)

    def epochs(self) -> tuple[dict[str, Fraction], tuple[str, ...]]:
        """Samples of an epoch of each stage whose duration counts them, and which are estimates.

        At a share of one half, an epoch of the finite source takes twice its samples.
        """
        found: dict[str, Fraction] = {}
        estimated: list[str] = []
        for i, stage in enumerate(self.c.stages):
            if stage.duration is None or stage.duration.unit != "ep":
                continue
            shares = stage.mixture[0].value
            name = next(n for n in shares if self.c.sources[n].finite and shares[n])
            length = shape(stage, self.t)[1]
            size = self.inventory.sizes.get(dataset_name(name, length, self.t.sequence_length))
            if size is None:
                source = self.inventory.source(name, length, 0)
                size = source.expected_samples if source else None
                if source is not None and source.text and source.text.hub is not None:
                    size = None  # only as much of it is read as the run needs
                if source is not None and size is None:
                    self.bad(
                        ("stages", i, "duration"),
                        f"how long an epoch of '{name}' is cannot be known ahead",
                        "write a share, tokens or batches",
                    )
                elif source is not None and source.num_samples is None:
                    estimated.append(stage.name)
                    self.warnings.append(
                        f"stage '{stage.name}': its length is a guess until '{name}' is tokenized"
                    )
            size = size or shape(stage, self.t)[0]  # a batch, so that no other problem follows
            found[stage.name] = Fraction(size) / shares[name]
        return found, tuple(estimated)

    # -- stages ---------------------------------------------------------------------------------

    def stages(
        self, lengths: Lengths, planned: Lengths, lenient: bool = False
    ) -> list[PlannedStage]:
        """All stages, for given lengths. planned: those that schedules refer to. lenient: a replay
        of what was never drawn, since a stage ended before, draws new samples."""
        blends = {
            n: weighed(s, self.text_bytes)
            for n, s in self.c.sources.items()
            if isinstance(s, BlendSource)
        }
        reference = None if lengths is planned else planned.stages
        try:
            mixtures = resolve_mixtures(lengths.stages, blends, reference)
        except MixtureError as error:
            for problem in error.problems:
                i = problem.stage
                where = ("sources", problem.blend) if problem.blend else ("stages", i)
                batches, name = lengths.stages[i].clock_batches, self.c.stages[i].name
                remedy = f"stage '{name}' has {counted(batches, 'batch', 'batches')}"
                self.bad((*where, "mixture"), problem.what, remedy)
            mixtures = []
        self.stop_if_bad()
        out: list[PlannedStage] = []
        counters: dict[str, int] = {}
        left: Fraction | None = None  # the rate that the stage before ended with
        for i, (length, mixture) in enumerate(zip(lengths.stages, mixtures, strict=True)):
            stage = self.stage(i, length, mixture, left)
            left = self.t.optimizer.base_rate()  # after a problem, whatever finds others
            if stage is not None:
                left = stage.rate.after(stage.num_batches)
                out.append(self.with_counters(stage, counters, lenient))
        self.stop_if_bad()
        return out

    def stage(
        self, index: int, length: StageShape, mixture: Mixture, left: Fraction | None
    ) -> PlannedStage | None:
        """One stage, or None after a problem. left: the rate that the stage before ended with."""
        spec = self.c.stages[index]
        path: tuple[str | int, ...] = ("stages", index)
        optimizer = self.t.optimizer.under(spec.optimizer)
        for below, what, remedy in spec.optimizer.misplaced(optimizer.algorithm):
            self.bad((*path, "optimizer", *below), what, remedy)
        clock = Clock(length.clock_batches, length.tokens_per_batch)
        try:
            rate = resolve_rate(optimizer, self.t.optimizer.base_rate(), clock, left)
        except ValueError as error:
            where = (*path, "optimizer", "lr") if spec.optimizer.lr is not None else path
            remedy = f"stage '{spec.name}' has {counted(length.clock_batches, 'batch', 'batches')}"
            self.bad(where, str(error), remedy)
            return None
        spared, faults = spared_rows(self.c, spec, self.inventory.vocabulary.ranges)
        frozen, more = frozen_batches(spec, clock)
        for below, what, remedy in (*faults, *more):
            self.bad((*path, "enter", *below), what, remedy)
        mixture, found = apportion(mixture, length.num_batches, spec.transform)
        live = [i for i, total in enumerate(found.totals) if total]
        if len(live) < len(mixture.leaves):
            found = Apportionment(found.counts[:, live].copy(), found.largest_deviation)
        return PlannedStage(
            index,
            spec,
            length.clock_batches,
            length.num_batches,
            length.batch_size,
            length.sequence_length,
            spec.precision or self.t.precision,
            length.first_token,
            tuple(mixture.leaves[i] for i in live),
            {},
            {},
            spared,
            frozen,
            self.origins.get(index),
            mixture,
            optimizer,
            rate,
            self.evaluations(length),
            found,
        )

    def with_counters(
        self, stage: PlannedStage, counters: dict[str, int], lenient: bool
    ) -> PlannedStage:
        """A stage that knows where its sources' samples begin; the counters move on.

        Endless sources count their samples of all lengths together, so that a rule is never met
        twice; a text that is packed at another length is dealt anew.
        """
        first, replayed = {}, {}
        for name in stage.sources:
            key = self.counter(name, stage)
            seen, again = counters.get(key, 0), stage.spec.draw.get(name) == "replay"
            if again and not seen and not lenient:
                self.bad(
                    ("stages", stage.index, "draw", name),
                    f"there is nothing of '{name}' to replay: no earlier stage draws from it",
                    "draw from it in an earlier stage, or remove this",
                )
            if again and seen:
                first[name], replayed[name] = 0, seen
            else:
                first[name], counters[key] = seen, seen + stage.counts[name]
        return replace(stage, first_sample=first, replayed=replayed)

    def counter(self, name: str, stage: PlannedStage) -> str:
        """What a source's samples are counted under, in a stage."""
        return self.key(name, stage) if self.c.sources[name].finite else name

    def key(self, name: str, stage: PlannedStage) -> str:
        return dataset_name(name, stage.sequence_length, self.t.sequence_length)

    def evaluations(self, length: StageShape) -> tuple[int, ...]:
        """The batches of a stage after which the model is evaluated."""
        found = evaluation_batches(self.c.evaluate.every, length, self.planned_tokens)
        if len(found) > MAX_EVALUATIONS:
            self.bad(
                ("evaluate", "every"),
                f"more than {MAX_EVALUATIONS:,} evaluations in one stage",
                "evaluate less often, such as every 10%",
            )
        return found

    # -- sources --------------------------------------------------------------------------------

    def ended_early(
        self, stages: list[PlannedStage], epochs: Mapping[str, Fraction], planned: Lengths
    ) -> list[list[PlannedStage]]:
        """The stages if those that wait for evidence end early: all at once, or one at a time, at
        their first or their middle evaluation."""
        ends = {s.name: s.evaluations for s in stages if s.spec.until and s.evaluations}
        cases = [{name: at[0] for name, at in ends.items()}]
        cases += [{name: e} for name, at in ends.items() for e in {at[0], at[len(at) // 2]}]
        variants = []
        for ended in cases if ends else ():
            lengths = self.lengths(epochs, ended)
            self.refuse(lengths)
            self.stop_if_bad()
            variants.append(self.stages(lengths, planned, lenient=True))
        return variants

    def needed(self, variants: list[list[PlannedStage]]) -> dict[str, int]:
        """Samples of each dataset that the run may need, however its stages end: the most that each
        stage draws in any variant, and a batch more where there are several."""
        drawn: dict[str, int] = {}
        needed: dict[str, int] = {}
        for same in zip(*variants, strict=True):
            spare = same[0].batch_size if len(variants) > 1 else 0
            for name in {name: None for stage in same for name in stage.sources}:
                counter, key = self.counter(name, same[0]), self.key(name, same[0])
                new = [s.counts.get(name, 0) for s in same if name not in s.replayed]
                drawn[counter] = drawn.get(counter, 0) + (max(new) + spare if any(new) else 0)
                needed[key] = max(needed.get(key, 0), drawn[counter])
        return needed

    def lengths_drawn(self, used: set[str]) -> dict[str, set[int]]:
        """The lengths in which each source's samples are drawn or evaluated."""
        lengths: dict[str, set[int]] = {name: set() for name in used}
        for stage in self.c.stages:
            for name in self.leaves(stage):
                lengths[name].add(shape(stage, self.t)[1])
        for name in self.c.evaluate.sources:
            lengths[name].add(self.t.sequence_length)
        return lengths


def _inner(source: SourceSpec) -> Sequence[str]:
    """The names that a blend ever gives a weight; nothing of other sources."""
    if not isinstance(source, BlendSource):
        return ()
    return source.names if source.mixture is None else _weighed(source.mixture)


def _weighed(schedule: Schedule) -> list[str]:
    """The names that a mixture ever gives a weight."""
    return [n for n in names_of(schedule) if any(frame.value.get(n) for frame in schedule)]
