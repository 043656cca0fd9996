"""Planning: a curriculum and a trainer become a plan, or a list of everything that cannot work.

    durations -> batches of each stage -> mixture and rate curves -> counts per batch
    -> sample counters -> sources (inventory) -> Plan

Refused here, before anything runs: durations that do not fill the budget or fall under one batch,
keyframes outside their stage, unreachable bands, texts too small for their share.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from ncamix.apportionment import Apportionment, apportion
from ncamix.curriculum import Stage
from ncamix.errors import UserError
from ncamix.inventory import Inventory
from ncamix.loading import LoadedCurriculum
from ncamix.mixture import Mixture, MixtureError, StageShape, names_of, resolve_mixtures
from ncamix.plan import Plan, PlannedStage
from ncamix.quantities import Quantity, format_count
from ncamix.rates import resolve_rate
from ncamix.schedule import Clock, Schedule
from ncamix.sources import BlendSource, TextSource
from ncamix.trainer import LearningRate, LoadedTrainer
from ncamix.waiting import Say, quiet

MAX_BATCHES = 5_000_000
MAX_EVALUATIONS = 10_000


def make_plan(
    curriculum: LoadedCurriculum,
    trainer: LoadedTrainer,
    say: Say = quiet,
) -> Plan:
    """Plan a curriculum under a trainer.

    say: told what takes a while and how far it is: automata of uncommon settings are measured once.

    Raises:
        UserError: it cannot work; with every problem found.
    """
    return _Planner(curriculum, trainer, say).plan()


class _Planner:
    """Builds a Plan, collecting problems on the way."""

    def __init__(self, curriculum: LoadedCurriculum, trainer: LoadedTrainer, say: Say) -> None:
        self.loaded, self.loaded_trainer = curriculum, trainer
        self.c, self.t = curriculum.curriculum, trainer.trainer
        self.inventory = Inventory(curriculum, self.t.sequence_length, say)
        self.problems, self.warnings = self.inventory.problems, self.inventory.warnings
        self.bad = self.inventory.bad
        self.run_tokens = 0

    def stop_if_bad(self) -> None:
        if self.problems:
            raise UserError(sorted(self.problems, key=lambda p: (p.file, p.line, p.column)))

    def plan(self) -> Plan:
        used = set(self.c.evaluate.sources) | self.mixed_sources()
        for name, spec in self.c.sources.items():
            if name not in used and not isinstance(spec, BlendSource):
                self.warnings.append(f"the source '{name}' is declared but never used")
        self.inventory.check_bands(used)
        tokenizer = self.inventory.tokenizer(used)
        vocabulary = self.inventory.vocabulary(used, tokenizer)
        lengths = self.stage_lengths()
        for name in sorted(used):
            if isinstance(self.c.sources[name], TextSource):
                self.inventory.documents(name)
        self.stop_if_bad()
        mixtures = self.mixtures(lengths)
        self.stop_if_bad()
        stages = [
            self.stage(i, *args, mixture)
            for i, (args, mixture) in enumerate(zip(lengths, mixtures, strict=True))
        ]
        self.stop_if_bad()
        drafted = [stage for stage in stages if stage is not None]
        counters = dict.fromkeys(sorted(used), 0)
        final = []
        for stage in drafted:
            final.append(self._with_counters(stage, counters))
            for name, count in stage.counts.items():
                counters[name] += count
        sources = {
            name: self.inventory.source(name, counters[name], vocabulary, tokenizer)
            for name in self.c.sources
            if name in used
        }
        for name, source in sources.items():
            if source is not None:
                self.inventory.check_size(source)
                if source.loss_tokens < 1:
                    self.bad(
                        ("sources", name),
                        f"the first {source.loss_start} tokens of a sample "
                        f"are masked, and a sample has {source.sequence_length}",
                        "lower loss_from_frame, or raise the trainer's sequence_length",
                    )
        self.stop_if_bad()
        known = {name: source for name, source in sources.items() if source is not None}
        first: dict[str, str] = {}
        for name, source in known.items():
            twin = first.setdefault(source.fingerprint, name)
            if twin != name:
                self.warnings.append(
                    f"the sources '{twin}' and '{name}' mean the same: same samples"
                )
        return Plan(
            self.loaded,
            self.loaded_trainer,
            self.c.seed,
            vocabulary,
            known,
            tuple(final),
            tuple(self.warnings),
        )

    def mixed_sources(self) -> set[str]:
        """The sources that mixtures name, through blends too, whatever their weights."""
        found: set[str] = set()
        queue = [name for stage in self.c.stages for name in names_of(stage.mixture)]
        while queue:
            name = queue.pop()
            if name not in found:
                found.add(name)
                source = self.c.sources[name]
                queue += names_of(source.mixture) if isinstance(source, BlendSource) else ()
        return {name for name in found if not isinstance(self.c.sources[name], BlendSource)}

    @staticmethod
    def _with_counters(stage: PlannedStage, counters: dict[str, int]) -> PlannedStage:
        return replace(stage, first_sample={name: counters[name] for name in stage.sources})

    # -- durations ------------------------------------------------------------------------------

    def stage_lengths(self) -> list[tuple[int, int, int]]:
        """(batches, batch size, first token) of each stage.

        Stages end at exact cumulative token counts, rounded down to whole batches; what rounding
        leaves goes to the next stage.
        """
        stages, budget = self.c.stages, self.t.budget.value
        length = self.t.sequence_length

        def size(stage: Stage) -> int:
            return stage.batch_size or self.t.batch_size

        def wanted(stage: Stage) -> Fraction:
            duration = stage.duration
            assert duration is not None
            if duration.unit == "%":
                return duration.value / 100 * budget
            return duration.value * (size(stage) * length if duration.unit == "ba" else 1)

        fixed = sum((wanted(s) for s in stages if s.duration is not None), Fraction(0))
        has_rest = any(s.duration is None for s in stages)
        has_share = any(s.duration is not None and s.duration.unit == "%" for s in stages)
        where = ("stages", len(stages) - 1, "duration")
        if has_rest and fixed >= budget:
            rest = next(i for i, s in enumerate(stages) if s.duration is None)
            self.bad(
                ("stages", rest, "duration"),
                "nothing is left for this stage: the others "
                f"take {_tokens(fixed)} of the trainer's {_tokens(budget)}",
                "shorten them, or choose a trainer with a larger budget",
            )
            return []
        if has_share and not has_rest and abs(fixed - budget) >= size(stages[-1]) * length:
            self.bad(
                where,
                f"the durations add up to {_tokens(fixed)}, the trainer's budget is "
                f"{_tokens(budget)}",
                "make them fill it, or let one stage say `rest`",
            )
            return []
        if not has_rest and not has_share:
            self.warnings.append(
                f"every duration is absolute ({_tokens(fixed)}), so the trainer's budget of "
                f"{_tokens(budget)} is not used"
            )
        out, end, used = [], Fraction(0), 0
        for i, stage in enumerate(stages):
            tokens = size(stage) * length
            end += wanted(stage) if stage.duration is not None else budget - fixed
            batches = int((end - used) // tokens)
            if batches > MAX_BATCHES:
                self.bad(
                    ("stages", i, "duration"),
                    f"this stage has {batches:,} batches of {_tokens(tokens)}; a plan counts "
                    f"{MAX_BATCHES:,} a stage at most",
                    "give it larger batches, a shorter duration or a smaller budget",
                )
                batches = 1
            if batches < 1:
                self.bad(
                    ("stages", i, "duration"),
                    f"this stage gets {_tokens(end - used)}, less "
                    f"than one batch of {size(stage)} x {length} = {_tokens(tokens)}",
                    "give it a longer duration, a larger budget or a smaller batch",
                )
                batches = 1
            out.append((batches, size(stage), used))
            used += batches * tokens
        self.run_tokens = used
        return out

    # -- stages ---------------------------------------------------------------------------------

    def mixtures(self, lengths: list[tuple[int, int, int]]) -> list[Mixture]:
        """The mixture of each stage; none where problems were found."""
        shapes = [
            StageShape(stage.mixture, stage.cycle, n, n, size, self.t.sequence_length, first)
            for stage, (n, size, first) in zip(self.c.stages, lengths, strict=True)
        ]
        blends = {n: s for n, s in self.c.sources.items() if isinstance(s, BlendSource)}
        try:
            return resolve_mixtures(shapes, blends)
        except MixtureError as error:
            for problem in error.problems:
                stage = self.c.stages[problem.stage]
                where = (
                    ("stages", problem.stage)
                    if problem.blend is None
                    else ("sources", problem.blend)
                )
                self.bad(
                    (*where, "mixture"),
                    problem.what,
                    f"stage '{stage.name}' has {lengths[problem.stage][0]:,} batches",
                )
            return []

    def stage(
        self,
        index: int,
        num_batches: int,
        batch_size: int,
        first_token: int,
        mixture: Mixture,
    ) -> PlannedStage | None:
        spec, length = self.c.stages[index], self.t.sequence_length
        clock = Clock(num_batches, batch_size * length)
        path: tuple[str | int, ...] = ("stages", index)
        where: tuple[str | int, ...] = path
        try:
            optimizer = self.t.optimizer.under(spec.optimizer)
            in_stage = spec.optimizer.lr is not None
            where = (*path, "optimizer", "lr") if in_stage else path
            rate = resolve_rate(optimizer, self.t.base_rate(), clock)
        except ValueError as error:
            self.bad(where, str(error), f"stage '{spec.name}' has {num_batches:,} batches")
            return None
        order = mixture.leaves
        mixture, apportionment = apportion(mixture)
        live = [i for i, total in enumerate(apportionment.totals) if total]
        if len(live) < len(order):  # a declared weight that never yields a sample
            for i, name in enumerate(order):
                if i not in live and any(f.value.get(name, 0) for f in spec.mixture):
                    self.warnings.append(
                        f"stage '{spec.name}': the source '{name}' gets no sample, its share is "
                        "too small for the stage"
                    )
            apportionment = Apportionment(
                apportionment.counts[:, live].copy(), apportionment.largest_deviation
            )
        peak = _absolute_peak(spec.optimizer.lr)
        if peak:
            self.warnings.append(
                f"stage '{spec.name}': the peak rate {float(peak):g} is absolute; for trainers of "
                f"other sizes, write it relative to the trainer's: "
                f"{float(peak / self.t.base_rate()):g}x"
            )
        return PlannedStage(
            index,
            spec,
            num_batches,
            batch_size,
            length,
            first_token,
            tuple(order[i] for i in live),
            {},
            mixture,
            optimizer,
            rate,
            self.evaluations(num_batches, batch_size * length, first_token),
            apportionment,
        )

    def evaluations(self, num_batches: int, tokens: int, first_token: int) -> tuple[int, ...]:
        """Evaluate where the run's tokens reach multiples of the interval, at most every batch."""
        every: Quantity = self.c.evaluate.every
        if every.unit == "ba":
            step = every.value * tokens
        elif every.unit == "tok":
            step = every.value
        else:
            step = every.value / 100 * self.run_tokens
        step = max(step, Fraction(tokens))
        at: list[int] = []
        k = int(first_token // step) + 1
        while True:
            batch = -int((first_token - k * step) // tokens)  # the first to reach k intervals
            if batch >= num_batches:
                return tuple(at)
            if len(at) == MAX_EVALUATIONS:
                self.bad(
                    ("evaluate", "every"),
                    f"more than {MAX_EVALUATIONS:,} evaluations in one stage",
                    "evaluate less often, such as every 10%",
                )
                return tuple(at)
            at.append(batch)
            k += 1


def _absolute_peak(rate: LearningRate | Schedule | None) -> Fraction | None:
    """The highest absolute rate that a stage's own optimizer gives, if any."""
    if isinstance(rate, LearningRate):
        return rate.peak.value if rate.peak.unit == "" else None
    return max((f.value.value for f in rate or () if f.value.unit == ""), default=None)


def _tokens(count: Fraction | int) -> str:
    return format_count(float(count)) + " tokens"
