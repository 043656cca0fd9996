"""The inventory: sources and vocabulary of a plan, and what determines their bytes.

Text is found and hashed (not tokenized), ranges of ids are laid out, and every source gets its full
meaning and fingerprint. What cannot work is collected as problems of the curriculum's file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from ncamix import cache, packing, tokenization
from ncamix.automata import Spread
from ncamix.bands import spread_of
from ncamix.corpora import Corpora, find_benchmarks
from ncamix.errors import Problem, UserError
from ncamix.keys import canonical, fingerprint
from ncamix.loading import LoadedCurriculum
from ncamix.origins import Vocabulary, tokenizer_fingerprint
from ncamix.plan import PlannedStage, VocabularyPlan
from ncamix.planned_source import (
    Benchmark,
    PlannedSource,
    StoredPlan,
    TextPlan,
    dataset_name,
    too_small,
)
from ncamix.sources import LeafSource, MdsSource, NcaSource, PairsSource, TextSource
from ncamix.sources.corpus import (
    CorpusSource,
    FiniteSource,
)
from ncamix.sources.mds import USUAL_DTYPE
from ncamix.sources.nca import Quantiles
from ncamix.stored import contents, known_index, misfit, with_index
from ncamix.stores import is_url
from ncamix.waiting import Say

RARE = 0.01  # a band that fewer rules reach deserves a remark
LUMP = 0.05  # and so do quantiles that hold so much more or less of the rules than they say
# Ids in a shard, about: what is made at once. Pairs are packed shard by shard, and of the hub whole
# shards are read: raise packing.VERSION with it.
SHARD_TOKENS = 1 << 18
# A text's size in tokens is known only once it is tokenized; before that, a rough guess.
BYTES_PER_TOKEN = {"bytes": 1.0, "bpe": 3.4, "pretrained": 3.8}


class Inventory:
    """Looks after the sources of one curriculum; `problems` and `warnings` grow on the way.

    `prepare` comes first: it finds the texts and lays out `tokenizer` and `vocabulary`. usual: the
    trainer's tokens in a sample. sizes: samples of finite sources, by dataset, where they are known
    from elsewhere than the cache.
    """

    tokenizer: dict[str, Any] | None
    vocabulary: VocabularyPlan

    def __init__(
        self, loaded: LoadedCurriculum, usual: int, sizes: Mapping[str, int], say: Say
    ) -> None:
        self.loaded, self.c, self.usual = loaded, loaded.curriculum, usual
        self.sizes, self.say = sizes, say
        self.problems: list[Problem] = []
        self.warnings: list[str] = []
        self.corpora = Corpora(loaded, self.problems, say)
        self.benchmarks: tuple[Benchmark, ...] = ()
        self._special: dict[str, dict[str, int]] = {}
        self._kept: dict[Path, str] = {}  # where what is fetched is kept, and of which source

    def prepare(self, used: set[str]) -> None:
        """Find the texts of the used sources, and lay out tokenizer and vocabulary."""
        self.tokenizer = self._tokenizer(used)
        self.vocabulary = self._vocabulary(used)
        for name in sorted(used):
            if isinstance(self.c.sources[name], CorpusSource):
                self.corpora.documents(name)
        self.benchmarks, problems = find_benchmarks(self.loaded)
        self.problems += problems

    def bad(self, path: tuple[str | int, ...], what: str, remedy: str = "") -> None:
        self.problems.append(self.loaded.document.problem(path, what, remedy))

    def check_bands(self, used: set[str]) -> None:
        """Refuse the bands of used automata that no rule reaches, and remark on rare ones."""
        for name, spec in self.c.sources.items():
            if not isinstance(spec, NcaSource) or name not in used:
                continue
            spread = spread_of(spec.automaton, spec.measure, self.say)
            band = spec.scored_band()
            share = 0.0 if band is None else spread.share(band)
            if band is None:
                self.bad(
                    ("sources", name, "band"),
                    f"no score lies between the quantiles {float(spec.band.low):g} and "
                    f"{float(spec.band.high):g} of {spec.alphabet} states",
                    "widen it: rules of one score stay together",
                )
                continue
            if not share:
                self.bad(
                    ("sources", name, "band"),
                    f"no rule with {spec.alphabet} states reaches the band {spec.band}",
                    f"choose another band or alphabet; {_reach(spread)}",
                )
                continue
            if share < RARE:
                self.warnings.append(
                    f"the source '{name}' is slow to generate: only {share:.2%} of random "
                    f"rules reach the band {spec.band}"
                )
            if isinstance(spec.band, Quantiles):
                wanted = float(spec.band.high - spec.band.low)
                if abs(share - wanted) > LUMP:
                    self.warnings.append(
                        f"the source '{name}' draws from {share:.0%} of the rules where its "
                        f"quantiles say {wanted:.0%}: many rules share one score"
                    )

    def _tokenizer(self, used: set[str]) -> dict[str, Any] | None:
        """The tokenizer's meaning, with its size under `size`."""
        wanted = self.c.tokenizer
        if wanted is None:
            return None
        self._special = {"text": tokenization.trained_special(wanted.special)}
        if wanted.kind == "bytes":
            return {
                "kind": "bytes",
                "version": tokenization.VERSION,
                "size": tokenization.NUM_BYTE_IDS,
            }
        try:
            if wanted.kind == "pretrained":
                folder = self.loaded.document.folder_of(("tokenizer", "pretrained"))
                file = tokenization.pretrained_file(wanted.name, folder)
                found = tokenization.read_pretrained(file)
                self._special = {"text": found.special}
                return {
                    "kind": "pretrained",
                    "file": str(file),
                    "content": found.content,
                    "size": found.num_ids,
                }
        except UserError as error:
            problem = error.problems[0]
            self.bad(("tokenizer", "pretrained"), problem.what, problem.remedy)
            return None
        for i, name in enumerate(wanted.train_on):
            if name not in used:
                self.bad(
                    ("tokenizer", "train_on", i),
                    f"no stage uses the source '{name}' that the tokenizer is trained on",
                    "use it in a stage, or train the tokenizer on one that is used",
                )
        texts = [self.corpora.documents(name) for name in wanted.train_on]
        special = {"special": list(wanted.special)} if wanted.special else {}
        return {
            "kind": "bpe",
            "version": tokenization.VERSION,
            "size": wanted.size,
            **special,
            # Whatever the sources are called: the same documents make the same tokenizer.
            "train_on": sorted((text[1] for text in texts if text), key=canonical),
        }

    def _vocabulary(self, used: set[str]) -> VocabularyPlan:
        """Text first, then every other range in a fixed order that spelling does not change."""
        wanted = self.c.vocabulary
        sizes: dict[str, int] = {}
        specs = {name: self.c.sources[name] for name in used}
        own: dict[str, dict[str, int]] = {}  # special ids, by their places in their range
        for spec in specs.values():
            if not isinstance(spec, FiniteSource):
                sizes[spec.range_name()] = spec.num_ids()
                own[spec.range_name()] = spec.special_ids()
        ranges: dict[str, tuple[int, int]] = {}
        end = 0
        if self.tokenizer is not None:
            end = int(self.tokenizer["size"])
            ranges["text"] = (0, end)
        shared = wanted.alphabets == "shared"
        automata = sorted((n for n in sizes if n.startswith("nca")), key=lambda n: (sizes[n], n))
        others = sorted(n for n in sizes if not n.startswith("nca"))
        if wanted.layout == "overlay":
            ranges.update((name, (0, sizes[name])) for name in (*automata, *others))
        else:
            for name in automata:
                ranges[name] = (end, sizes[name])
                end += 0 if shared else sizes[name]
            if shared and automata:
                end += max(sizes[name] for name in automata)
            for name in others:
                ranges[name] = (end, sizes[name])
                end += sizes[name]
        needed = max((first + size for first, size in ranges.values()), default=0)
        if wanted.rows is not None and wanted.rows < needed:
            self.bad(
                ("vocabulary", "rows"),
                f"{wanted.rows:,} rows are too few: the sources emit {needed:,} ids",
                f"write at least {needed}, or leave it out",
            )
        special = self._special if self.tokenizer is not None else {}
        special |= {
            name: {token: ranges[name][0] + i for token, i in ids.items()}
            for name, ids in own.items()
            if ids
        }
        rows = wanted.rows or needed
        return VocabularyPlan(wanted.layout, wanted.softmax, rows, ranges, special)

    def known_vocabulary(self) -> Vocabulary:
        """The vocabulary as another run's is held against it."""
        known = self.vocabulary
        tokenizer = tokenizer_fingerprint(self.tokenizer)
        return Vocabulary(known.rows, known.layout, known.ranges, tokenizer)

    def source(self, name: str, length: int, needed: int) -> PlannedSource | None:
        """A source in samples of `length` tokens, of which the run needs so many; None if it cannot
        be had, which is a problem by now."""
        spec = self.c.sources[name]
        assert isinstance(spec, LeafSource), "blends are multiplied through"
        if "text" not in self.vocabulary.ranges and spec.range_name() == "text":
            return None
        first_id, num_ids = self.vocabulary.ranges[spec.range_name()]
        draft = PlannedSource(
            name,
            dataset_name(name, length, self.usual),
            spec,
            {**spec.meaning(), "sequence_length": length},
            "",
            first_id,
            num_ids,
            spec.loss_start(),
            needed,
            self._samples_per_shard(spec, length),
        )
        if isinstance(spec, CorpusSource):
            return self._corpus(draft, spec)
        if isinstance(spec, MdsSource):
            return self._stored(draft, spec)
        return _filed(draft, {"first_id": first_id, "seed": self.c.seed.rules})

    def _samples_per_shard(self, spec: LeafSource, length: int) -> int:
        """Samples in a shard of samples of `length` tokens.

        Of a finite source that is a function of its meaning, since the samples may depend on it. Of
        an endless one it is the same for all lengths: owners' samples are numbered by their place
        in shards, and the numbers run on where the length changes.
        """
        length = length if isinstance(spec, FiniteSource) else self.usual
        return max(1, SHARD_TOKENS // (length + 1))

    def _corpus(self, draft: PlannedSource, spec: CorpusSource) -> PlannedSource | None:
        """A source that is compiled from documents, with what compiling needs."""
        found, tokenizer = self.corpora.documents(draft.name), self.tokenizer
        if found is None or tokenizer is None:
            return None
        files, documents = found
        shown = {k: v for k, v in tokenizer.items() if k != "file"}
        meaning = {**documents, "tokenizer": fingerprint(shown), "packing": packing.VERSION}
        num_bytes, most_bytes, hub = None, None, None
        if files is None:
            hub = spec.data_set()
            if isinstance(spec, TextSource):  # only what is needed is read; pairs are few
                per = draft.samples_per_shard
                limit = max(1, -(-draft.samples_needed // per)) * per
                draft = replace(draft, limit=limit)
        else:
            num_bytes, most_bytes = self.corpora.num_bytes[draft.name]
            share = spec.holdout.share if spec.holdout else 0
            kept = num_bytes * float(1 - share) / BYTES_PER_TOKEN[str(tokenizer["kind"])]
            estimate = max(1, int(kept / draft.sequence_length))
            draft = replace(draft, estimated_samples=estimate)
        filed = _filed(draft, meaning)
        info = cache.entry_info(filed.fingerprint)
        size = self.sizes.get(draft.dataset) or draft.samples_in(info)
        earlier = self.corpora.earlier(draft.name)
        text = TextPlan(files, hub, num_bytes, tokenizer, documents, earlier, most_bytes)
        masked = isinstance(spec, PairsSource)
        return replace(filed, text=text, masked=masked, num_samples=size)

    def _stored(self, draft: PlannedSource, spec: MdsSource) -> PlannedSource | None:
        """A source that exists as an MDS data set."""
        path = ("sources", draft.name)
        if self.tokenizer is None:
            return None
        folder = self.loaded.document.folder_of(path)
        local, remote = spec.places(folder)
        if remote is not None and local is not None:
            # Only one stream may fetch into a folder: other sources keep what they fetch apart.
            local = local if self._kept.setdefault(local, draft.name) == draft.name else None
        stored = StoredPlan(local, remote, self.tokenizer, spec.dtype or USUAL_DTYPE)
        draft = replace(draft, stored=stored)
        try:
            index = spec.index(folder, draft.sequence_length)
            meaning = {}  # what is behind a URL is known by where it is fetched from
            if index is not None and not is_url(remote):
                place, key = (local, "local") if remote is None else (Path(remote), "remote")
                assert place is not None
                meaning = contents(index, place, key, self.say)
            filed = _filed(draft, meaning)
            index = known_index(filed)
        except UserError as error:
            problem = error.problems[0]
            self.bad((*path, *filter(None, [problem.path])), problem.what, problem.remedy)
            return None
        if index is None:
            return replace(filed, num_samples=self.sizes.get(draft.dataset), masked=True)
        problem_found = misfit(self.loaded, filed, index)
        if problem_found is not None:
            self.problems.append(problem_found)
        return with_index(filed, index)

    def sources(
        self, lengths: Mapping[str, set[int]], needed: Mapping[str, int]
    ) -> dict[str, PlannedSource]:
        """Every dataset that a run draws from or is evaluated on, by name.

        lengths: of each source's samples. needed: samples of each dataset.
        """
        known: dict[str, PlannedSource] = {}
        for name in (n for n in self.c.sources if n in lengths):
            for length in sorted(lengths[name], key=lambda n: (n != self.usual, n)):
                key = dataset_name(name, length, self.usual)
                source = self.source(name, length, needed.get(key, 0))
                if source is None:
                    continue
                known[key] = source
                self.check_size(source)
                if source.loss_tokens < 1:
                    self.bad(
                        ("sources", name),
                        f"the first {source.loss_start} tokens of a sample "
                        f"are masked, and a sample has {source.sequence_length}",
                        "lower loss_from_frame, or raise the trainer's sequence_length",
                    )
        first: dict[str, str] = {}
        for name, source in known.items():
            twin = first.setdefault(source.fingerprint, name)
            if twin != name:
                self.warnings.append(
                    f"the sources '{twin}' and '{name}' mean the same: same samples"
                )
        return known

    def check_size(self, source: PlannedSource) -> None:
        """Refuse or remark on a finite source that is too small for its share."""
        allowed, epochs = source.epochs_allowed, source.epochs()
        if allowed is None or not source.samples_needed:
            return
        at_most, text = source.num_samples, source.text
        if at_most is None and text and text.most_bytes is not None and source.kind == "text":
            # a token is a byte at least; a byte that is no UTF-8 becomes three, a file ends in one
            ids = 3 * text.most_bytes + len(text.files or ())
            at_most = max(1, ids // source.sequence_length)
        exact = source.num_samples is not None
        problem = too_small(self.loaded, source, at_most, bound=not exact) if at_most else None
        if problem is not None:
            self.problems.append(problem)
        elif epochs is not None and epochs > allowed:
            self.warnings.append(
                f"the source '{source.name}' may be too small: about {epochs:.1f} epochs are "
                f"needed, {allowed} allowed; the run will tell once it is tokenized"
            )

    def check_shares(self, variants: Sequence[Sequence[PlannedStage]]) -> None:
        """Refuse sources that get more of the run than they allow, however its stages end."""
        for name, spec in self.c.sources.items():
            most = spec.max_share if isinstance(spec, LeafSource) else None
            if most is None:
                continue
            share = max(
                Fraction(
                    100 * sum(s.counts.get(name, 0) * s.sequence_length for s in stages),
                    sum(s.num_tokens for s in stages),
                )
                for stages in variants
            )
            if share > most.value:
                early = ", where a stage ends early" if len(variants) > 1 else ""
                self.bad(
                    ("sources", name, "max_share"),
                    f"'{name}' gets {float(share):.3g}% of the run's tokens{early}, more than "
                    f"{most}",
                    "lower its weight in the stages' mixtures, or raise max_share",
                )


def _filed(draft: PlannedSource, meaning: Mapping[str, Any]) -> PlannedSource:
    """A source with all that determines its bytes, and the fingerprint of that."""
    whole = {**draft.meaning, **meaning}
    return replace(draft, meaning=whole, fingerprint=fingerprint(whole))


def _reach(spread: Spread) -> str:
    """How the rules spread, which a reader needs to choose another band."""
    parts = []
    for i, share in enumerate(spread.shares(20)):
        if share:
            parts.append(f"{share:.1%} at {i / 20:.2f}-{(i + 1) / 20:.2f}")
    return f"of {spread.num_rules:,} random rules, {spread.measure} finds " + ", ".join(parts)
