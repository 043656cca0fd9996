"""Jobs: the datasets that are to be written, as pure functions of shard numbers.

source   -> its samples in their own order, held-out text in datasets of its own
a job    =  a folder, a format, how many samples, and how to make any of them
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ncamix import cache
from ncamix.compilation.compiled import compiled_samples
from ncamix.compilation.samples import Compiled, Generated, Mask, Segments, Tokens, samples_of
from ncamix.keys import fingerprint
from ncamix.plan import Plan
from ncamix.planned_source import PlannedSource
from ncamix.shards import ShardFormat
from ncamix.splits import HELD_OUT
from ncamix.text_compilation import held_out_samples

Make = Callable[[int, int], tuple[Tokens, Mask] | tuple[Tokens, Mask, Segments]]


@dataclass(frozen=True)
class Job:
    """One dataset to write.

    folder: where, below the output. meaning: plain JSON of everything that determines the samples.
    make: first sample and count -> uint32 [count, length], for a masked format bool of that shape,
    and for a segmented one int64 [count, length - 1]. endless: any more samples could be made, and
    what exists beyond these is kept. facts: of the dataset, for its source.json. shared: the
    meaning determines every byte, so that shards which lie elsewhere may serve; of somebody else's
    data sets it does not.
    """

    folder: str
    meaning: dict[str, Any]
    form: ShardFormat
    num_samples: int
    samples_per_shard: int
    make: Make = field(repr=False)
    endless: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    shared: bool = True

    @cached_property
    def dataset(self) -> str:
        """Fingerprint of the dataset's bytes, shard by shard; how many there are is not in it."""
        return fingerprint(
            {
                "samples": self.meaning,
                "format": self.form.config,
                "samples_per_shard": self.samples_per_shard,
            }
        )

    @property
    def num_shards(self) -> int:
        return -(-self.num_samples // self.samples_per_shard)

    def samples_in(self, shard: int) -> int:
        """Samples of a shard: the last one of a finite dataset may have less."""
        return min(self.samples_per_shard, self.num_samples - shard * self.samples_per_shard)

    def info(self) -> bytes:
        """The bytes of the dataset's source.json."""
        return json.dumps({**self.facts, "dataset": self.dataset}, indent=1).encode()


def source_jobs(plan: Plan, zstd: int | None, boundary: int | None) -> list[Job]:
    """The datasets of a plan's sources. zstd: level, None for files that are not compressed.
    boundary: the id that ends a document. Texts must be compiled in the cache."""
    totals = compiled_samples(plan)
    jobs: list[Job] = []
    for source in plan.sources.values():
        facts = source_facts(plan, source, boundary)
        samples = samples_of(source)
        masked = not isinstance(samples, Generated) and samples.is_masked
        total = totals[source.dataset]  # a text's entry may hold more
        jobs.append(
            Job(
                source.dataset,
                {"source": source.fingerprint},
                source_form(source, zstd, masked),
                total,
                source.samples_per_shard,
                samples.range,
                not source.spec.finite,
                facts,
                source.stored is None,
            )
        )
        jobs += held_out_jobs(source, zstd, facts)
    return jobs


def held_out_jobs(source: PlannedSource, zstd: int | None, facts: dict[str, Any]) -> Iterator[Job]:
    """The datasets of what a source keeps from training, for texts."""
    if source.text is None:
        return
    for split in HELD_OUT:
        held = Compiled(cache.entry(source.fingerprint) / split)
        yield Job(
            f"{source.dataset}/{split}",
            {"source": source.fingerprint, "split": split},
            source_form(source, zstd, held.is_masked),
            held_out_samples(source, split),
            source.samples_per_shard,
            held.range,
            facts={**facts, "split": split},
        )


def source_form(source: PlannedSource, zstd: int | None, masked: bool = False) -> ShardFormat:
    """The format of a source's shards."""
    return replace(source.shard_format, zstd=zstd, masked=masked, hashed=True)


def source_facts(plan: Plan, source: PlannedSource, boundary: int | None) -> dict[str, Any]:
    """What source.json says of a source: where its ids stand and what they mean, and whether
    attention stays within documents, which `boundary` ends."""
    vocabulary = plan.vocabulary
    within = source.spec.attends_within_documents()
    return {
        "source": source.name,
        "kind": source.kind,
        "fingerprint": source.fingerprint,
        "sequence_length": source.sequence_length,
        "first_id": source.first_id,
        "num_ids": source.num_ids,
        "loss_start": source.loss_start,
        **(
            {"attention": "document", "boundary_id": boundary} if within else {"attention": "whole"}
        ),
        "special_ids": vocabulary.special.get(source.spec.range_name(), {}),
        "rows": vocabulary.rows,
        "ranges": vocabulary.id_map(),
    }
