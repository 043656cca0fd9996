"""The plan: integers only, decided before anything runs.

    curriculum + trainer -> Plan: batches, samples and tokens of every stage and source, vocabulary
    ranges, fingerprints, learning rates, warnings

This module is the plan as data; it imports neither torch nor numba nor streaming. Positions and
sample counters are whole numbers, tokens are trained input positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

from ncamix.apportionment import Apportionment
from ncamix.automata import Automaton
from ncamix.bands import sample_seconds, scoring_seconds, spread_of
from ncamix.curriculum import Enter, Seeds, Stage
from ncamix.groups import Group, parts
from ncamix.keys import derive_key, fingerprint
from ncamix.loading import LoadedCurriculum
from ncamix.mixture import Mixture
from ncamix.optimizer import MUON_KEYS
from ncamix.origins import Origin
from ncamix.planned_source import Benchmark, PlannedSource, dataset_name
from ncamix.proportions import proportional_shares
from ncamix.rates import RateCurve
from ncamix.sources import BlendSource, NcaSource
from ncamix.sources.base import plain
from ncamix.trainer import LoadedTrainer, Optimizer

SYMBOL_SECONDS = 1e-7  # of one core, for a symbol of noise or a bracket


@dataclass(frozen=True)
class VocabularyPlan:
    """Where ids stand: `ranges` maps a range's name to (first id, number of ids), and `special` to
    the ids in it that have names of their own, such as the end of text."""

    layout: str
    softmax: str
    rows: int
    ranges: dict[str, tuple[int, int]]
    special: dict[str, dict[str, int]] = field(default_factory=dict)

    def id_map(self, names: Collection[str] | None = None) -> list[dict[str, Any]]:
        """The ranges as plain JSON: name, first id, number of ids, special ids by name. names: of
        the ranges wanted; None is all."""
        return [
            {"name": name, "first": first, "size": size, "special": self.special.get(name, {})}
            for name, (first, size) in self.ranges.items()
            if names is None or name in names
        ]

    @property
    def text_rows(self) -> int:
        """Ids of the text range, which begins at 0; 0 where there is no text."""
        return self.ranges.get("text", (0, 0))[1]


@dataclass(frozen=True)
class PlannedStage:
    """A stage in integers.

    clock_batches: its planned length, which schedules refer to; num_batches: what is trained, less
    where evidence ended it early. first_token: tokens that the run consumed before. sources: the
    leaf sources that it draws from, in a fixed order. first_sample: where each source's sample
    counter stands. replayed: sources that deal again what was drawn before, and how many samples
    that is. spared: vocabulary rows [first, last) that are neither drawn anew nor permuted. frozen:
    groups that are not trained, and for how many batches. origin: another run's weights that it
    begins with, in place of the stage before.
    """

    index: int
    spec: Stage
    clock_batches: int
    num_batches: int
    batch_size: int
    sequence_length: int
    precision: str
    first_token: int
    sources: tuple[str, ...]
    first_sample: dict[str, int]
    replayed: dict[str, int]
    spared: tuple[tuple[int, int], ...]
    frozen: tuple[tuple[Group, int], ...]
    origin: Origin | None
    mixture: Mixture
    optimizer: Optimizer
    rate: RateCurve
    evaluations: tuple[int, ...]  # evaluate after so many batches of the stage
    apportionment: Apportionment = field(repr=False)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def enter(self) -> Enter | None:
        return self.spec.enter

    @property
    def num_samples(self) -> int:
        return self.num_batches * self.batch_size

    @property
    def num_tokens(self) -> int:
        return self.num_samples * self.sequence_length

    @cached_property
    def counts(self) -> dict[str, int]:
        """Samples of each source in the stage."""
        return dict(zip(self.sources, self.apportionment.totals, strict=True))


@dataclass(frozen=True)
class Plan:
    """Everything that is decided before a run. Built by `planning.make_plan`.

    sources: by dataset. ended: stages that evidence ended, and their batches; `undecided` is then
    the fingerprint of the plan as it was before any of that, which names the run. estimated:
    stages whose length waits for the size of a text. benchmarks: what texts are compared with
    beside their own held-out documents.
    """

    curriculum: LoadedCurriculum
    trainer: LoadedTrainer
    seeds: Seeds
    vocabulary: VocabularyPlan
    sources: dict[str, PlannedSource]
    stages: tuple[PlannedStage, ...]
    warnings: tuple[str, ...]
    estimated: tuple[str, ...] = ()
    ended: dict[str, int] = field(default_factory=dict)
    undecided: str | None = None
    benchmarks: tuple[Benchmark, ...] = ()

    @property
    def name(self) -> str:
        return self.curriculum.curriculum.name

    @property
    def num_tokens(self) -> int:
        return sum(stage.num_tokens for stage in self.stages)

    @property
    def tokenizer(self) -> dict[str, Any] | None:
        """The tokenizer's meaning; None where no source holds text."""
        for source in self.sources.values():
            place = source.text or source.stored
            if place is not None:
                return place.tokenizer
        return None

    @property
    def kept_rows(self) -> int:
        """Rows of the vocabulary that begin with the model's own values: those of the text, if its
        tokenizer is the pretrained model's."""
        files = self.trainer.trainer.model.files
        known = files.tokenizers if files is not None else ()
        own = self.tokenizer is not None and self.tokenizer.get("content") in known
        return min(self.vocabulary.text_rows, files.rows) if own and files is not None else 0

    @cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides which samples are trained on, and how."""
        if self.undecided is not None:
            return self.undecided
        evaluate = plain(self.curriculum.curriculum.evaluate)
        unsaid = ("benchmarks", "test") if evaluate["test"] is None else ("benchmarks",)
        return fingerprint(
            {
                **self._conditions(),
                "ranges": self.vocabulary.ranges,
                "evaluate": {k: v for k, v in evaluate.items() if k not in unsaid},
                "sources": {name: self._samples(source) for name, source in self.sources.items()},
                "stages": [_stage_meaning(self, stage) for stage in self.stages],
            }
        )

    def beginning(self, num_stages: int) -> str:
        """Hash of everything that decides what a run leaves behind in its first stages, records
        included. Where it is equal, one run may go on from another's end of these stages."""
        stages = self.stages[:num_stages]
        sources = {
            name: self.sources[name]
            for stage in stages
            for name in (*self._drawn(stage), *self.evaluated(stage))
            if name in self.sources
        }
        return fingerprint(
            {
                **self._conditions(),
                "ranges": {n: (s.first_id, s.num_ids) for n, s in sources.items()},
                "evaluated": self.curriculum.curriculum.evaluate.samples,
                "sources": {name: self._samples(s) for name, s in sources.items()},
                "stages": [
                    [
                        _stage_meaning(self, stage),
                        stage.clock_batches,
                        stage.evaluations,
                        self.evaluated(stage),
                    ]
                    for stage in stages
                ],
            }
        )

    def _conditions(self) -> dict[str, Any]:
        """What decides over a run beside samples and stages, as plain JSON."""
        trainer = self.trainer.trainer
        return {
            "model": trainer.model.meaning(),
            "averaging": plain(trainer.averaging) if trainer.averaging else None,
            "canonical_nodes": trainer.canonical_nodes,
            "rows": self.vocabulary.rows,
            "softmax": self.vocabulary.softmax,
            "seeds": repr(self.seeds),
            **({"z_loss": str(trainer.z_loss)} if trainer.z_loss else {}),
            **({"kept_rows": self.kept_rows} if trainer.model.pretrained else {}),
        }

    def _samples(self, source: PlannedSource) -> list[Any]:
        """What determines a source's samples."""
        return [source.fingerprint, source.limit, *self.owned(source)]

    @cached_property
    def generation_seconds(self) -> dict[str, float]:
        """Core-seconds that generating each endless source takes, about.

        Bands of one automaton share their candidates' scores, which are counted with the band that
        needs most of them.
        """
        seconds: dict[str, float] = {}
        rarest: dict[tuple[Automaton, str], tuple[float, str]] = {}
        for name, source in self.sources.items():
            num_tokens = source.sequence_length + 1
            if source.spec.finite:
                continue
            if not isinstance(source.spec, NcaSource):
                seconds[name] = source.samples_needed * num_tokens * SYMBOL_SECONDS
                continue
            automaton, band = source.spec.automaton, source.spec.scored_band()
            assert band is not None
            seconds[name] = source.samples_needed * sample_seconds(automaton, num_tokens)
            slots = min(source.samples_needed, source.spec.rules or source.samples_needed)
            candidates = slots / spread_of(automaton, band.measure).share(band)
            family = (automaton, band.measure)
            rarest[family] = max(rarest.get(family, (0.0, name)), (candidates, name))
        for (automaton, measure), (candidates, name) in rarest.items():
            seconds[name] += candidates * scoring_seconds(automaton, measure)
        return seconds

    @property
    def text_bytes(self) -> dict[str, int]:
        """Bytes of text, about, of corpora in files, by source."""
        found = {s.name: s.text.num_bytes for s in self.sources.values() if s.text}
        return {name: n for name, n in found.items() if n is not None}

    def blends_by_size(self) -> dict[str, dict[str, Fraction]]:
        """The shares of each blend by size whose texts the run draws from."""
        known, specs = self.text_bytes, self.curriculum.curriculum.sources
        return {
            name: proportional_shares({n: known[n] for n in spec.proportional}, spec.temperature)
            for name, spec in specs.items()
            if isinstance(spec, BlendSource) and spec.proportional is not None
            if all(n in known for n in spec.proportional)
        }

    @cached_property
    def text_from(self) -> int:
        """Index of the first stage that draws text, or ends on evidence of it: from there on, text
        is evaluated, too. 0 where no stage does."""
        for stage in self.stages:
            until = stage.spec.until
            watched = [condition.source for condition in until.conditions] if until else []
            if self._texts([*self._drawn(stage), *watched]):
                return stage.index
        return 0

    def evaluated(self, stage: PlannedStage) -> tuple[str, ...]:
        """Sources that are evaluated in a stage: it follows from the plan alone, not from when a
        text happens to be compiled."""
        sources = self.curriculum.curriculum.evaluate.sources
        if stage.index >= self.text_from:
            return tuple(sources)
        return tuple(name for name in sources if self.sources[name].text is None)

    def awaited(self, stage: PlannedStage) -> tuple[str, ...]:
        """Datasets of text that must be compiled before a stage begins."""
        if self.estimated:  # before lengths are known, nothing begins
            return self._texts(self.sources)
        return self._texts([*self._drawn(stage), *self.evaluated(stage)])

    def _drawn(self, stage: PlannedStage) -> list[str]:
        """Datasets in a stage's mixture, also such as get no sample where it ends early."""
        return [self.dataset_name(name, stage.sequence_length) for name in stage.mixture.leaves]

    def _texts(self, datasets: Iterable[str]) -> tuple[str, ...]:
        """Those that are text to be compiled, each once."""
        known = {name: self.sources.get(name) for name in datasets}
        return tuple(name for name, s in known.items() if s is not None and s.text is not None)

    def dataset_of(self, source: str, stage: PlannedStage) -> PlannedSource:
        """A source's samples as a stage draws them."""
        return self.sources[self.dataset_name(source, stage.sequence_length)]

    def dataset_name(self, source: str, length: int) -> str:
        """What the samples of `length` tokens of a source are filed under."""
        return dataset_name(source, length, self.trainer.trainer.sequence_length)

    def owned(self, source: PlannedSource) -> tuple[int, ...]:
        """How many nodes own an endless source's shards, and samples in a shard: both decide over
        the numbers of its samples. Nothing where there is one node, or of a finite source."""
        nodes = self.trainer.trainer.canonical_nodes
        return () if nodes == 1 or source.spec.finite else (nodes, source.samples_per_shard)

    def order_key(self, source: str) -> int:
        """Key of the permutations of a finite source."""
        return derive_key("order", self.seeds.order, source)

    def active_ranges(self, stage: PlannedStage) -> list[tuple[int, int]]:
        """Sorted, disjoint id ranges [first, last) that a stage's sources can emit."""
        drawn = [self.dataset_of(name, stage) for name in stage.sources]
        spans = sorted((source.first_id, source.first_id + source.num_ids) for source in drawn)
        merged: list[tuple[int, int]] = []
        for first, last in spans:
            if merged and first <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        return merged


def _stage_meaning(plan: Plan, stage: PlannedStage) -> Any:
    """Everything that decides over a stage's training, as plain JSON."""
    drawn = [plan.dataset_of(name, stage) for name in stage.sources]
    optimizer = {
        k: str(stage.optimizer.meant(k))
        for k in ("kind", "betas", "eps", *MUON_KEYS, "weight_decay", "clip")
    }
    layers = plan.trainer.trainer.model.layers
    enter = stage.enter or Enter()
    permuted = sorted(map(str, enter.permuted(layers)))
    return [
        stage.name,
        stage.num_batches,
        stage.batch_size,
        stage.sequence_length,
        stage.precision,
        stage.sources,
        [[source.loss_start, str(source.spec.loss_weight)] for source in drawn],
        stage.first_sample,
        stage.replayed,
        optimizer,
        sorted(map(str, enter.redrawn(layers))),
        stage.spared,
        sorted([sorted(map(str, parts([group], layers))), n] for group, n in stage.frozen),
        [str(enter.initializer), enter.optimizer_state],
        stage.origin.meaning() if stage.origin is not None else None,
        str(stage.spec.until),
        hashlib.blake2b(stage.apportionment.counts.tobytes(), digest_size=16).hexdigest(),
        stage.rate.meaning(),
        *([permuted] if permuted else []),
    ]
