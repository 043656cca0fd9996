"""References: names in a curriculum that refer to others, and what those must be.

What no key can know by itself is found here: sources in mixtures, in `draw`, `until`, `spare` and
`evaluate`, texts of a tokenizer, epochs, and what the first stage cannot do.
"""

from __future__ import annotations

from collections.abc import Iterable

from ncamix.curriculum import Curriculum, Stage
from ncamix.errors import Problem, nearest
from ncamix.optimizer import LearningRate
from ncamix.reading import Document
from ncamix.schedule import Schedule, is_name
from ncamix.sources import KINDS, BlendSource, CorpusSource, SourceSpec, TextSource

Path = tuple[str | int, ...]


def check_references(c: Curriculum, document: Document) -> list[Problem]:
    """Every mistake in what names refer to. Sources, stages and `evaluate` that are None in `c` are
    faulty in themselves: they are passed over, and what refers to them gets the benefit of doubt.
    """
    checker = _Checker(c, document)
    checker.check_sources()
    checker.check_tokenizer()
    checker.check_stages()
    checker.check_evaluation()
    return checker.problems


class _Checker:
    def __init__(self, c: Curriculum, document: Document) -> None:
        self.c, self.document = c, document
        self.problems: list[Problem] = []

    def bad(self, path: Path, what: str, remedy: str) -> None:
        self.problems.append(self.document.problem(path, what, remedy))

    def reached(self, names: Iterable[str]) -> dict[str, SourceSpec | None]:
        """All that names come to, through blends too: None for what is unknown or faulty."""
        found: dict[str, SourceSpec | None] = {}
        queue = list(names)
        while queue:
            name = queue.pop(0)
            if name not in found:
                found[name] = source = self.c.sources.get(name)
                queue += source.names if isinstance(source, BlendSource) else ()
        return found

    def check_sources(self) -> None:
        for name, source in self.c.sources.items():
            if not is_name(name):
                what = f"'{name}' cannot name a source"
                self.bad(("sources", name), what, "use letters, digits, _, -")
            if isinstance(source, BlendSource):
                self.check_mixture(("sources", name, "mixture"), source.mixture or ())
                self.check_proportional(("sources", name, "proportional"), source)
                if name in self.reached(source.names):
                    what = f"the blend '{name}' contains itself"
                    self.bad(("sources", name), what, "break the circle")

    def check_mixture(self, path: Path, mixture: Schedule) -> None:
        for i, frame in enumerate(mixture):
            for name in frame.value:
                if name not in self.c.sources:
                    where = self.weight_path(path, i, name)
                    remedy = nearest(name, self.c.sources, "sources")
                    self.bad(where, f"unknown source '{name}'", remedy)

    def check_proportional(self, path: Path, blend: BlendSource) -> None:
        """A blend by size holds sources whose sizes are known before anything is read."""
        for i, name in enumerate(blend.proportional or ()):
            source = self.c.sources.get(name)
            if name not in self.c.sources:
                remedy = nearest(name, self.c.sources, "sources")
                self.bad((*path, i), f"unknown source '{name}'", remedy)
            elif source and not (isinstance(source, CorpusSource) and source.files is not None):
                on_hub = isinstance(source, CorpusSource)
                what = "lies on the hub" if on_hub else f"is of kind {source.kind}"
                self.bad(
                    (*path, i),
                    f"'{name}' {what}, and only text and pairs in files have a size to weigh by",
                    "write the weights instead: mixture: {" + f"{name}: 1, ...}}",
                )

    def weight_path(self, path: Path, index: int, name: str) -> Path:
        """The path of a source's weight in a mixture, whichever form the mixture was written in."""
        written = self.document.find(path)[0].value
        if isinstance(written, list):
            return (*path, index, "mix", name)
        keys = list(written)
        return (*path, name) if is_name(keys[0]) else (*path, keys[index], name)

    def check_tokenizer(self) -> None:
        tokenizer = self.c.tokenizer
        texts = [name for name, s in self.c.sources.items() if isinstance(s, TextSource)]
        for name, source in self.c.sources.items():
            if tokenizer is None and source and "text" in _range_names([source]):
                remedy = "add `tokenizer: bytes`"
                if texts:
                    remedy += f" or `tokenizer: {{bpe: 4096, train_on: [{texts[0]}]}}`"
                what = f"the {source.kind} source '{name}' needs a tokenizer"
                self.bad(("tokenizer",), what, remedy)
                break
        for i, name in enumerate(tokenizer.train_on if tokenizer else ()):
            faulty = name in self.c.sources and self.c.sources[name] is None  # it may well be text
            if name not in texts and not faulty:
                where = ("tokenizer", "train_on", i)
                remedy = nearest(name, texts, "text sources")
                self.bad(where, f"'{name}' is not a text source", remedy)

    def check_stages(self) -> None:
        seen: set[str] = set()
        resting = False
        for i, stage in enumerate(self.c.stages):
            if stage is None:
                continue
            path: Path = ("stages", i)
            if stage.name in seen:
                what = f"two stages are named '{stage.name}'"
                self.bad((*path, "name"), what, "rename one")
            seen.add(stage.name)
            if stage.duration is None and resting:
                self.bad((*path, "duration"), "two stages say `rest`", "give one a duration")
            resting = resting or stage.duration is None
            self.check_mixture((*path, "mixture"), stage.mixture)
            self.check_draws(path, stage)
            self.check_epochs(path, stage)
            self.check_conditions(path, stage)
            self.check_spared(path, stage)
            lr = stage.optimizer.lr
            if i == 0 and isinstance(lr, LearningRate) and lr.start:
                self.bad(
                    (*path, "optimizer", "lr", "start"),
                    "no stage comes before the first, so there is no rate to continue",
                    "remove it: a warm-up then rises from zero to the peak",
                )

    def check_draws(self, path: Path, stage: Stage) -> None:
        reached = self.reached(_names(stage.mixture))
        leaves = [name for name, s in reached.items() if not isinstance(s, BlendSource)]
        known = None not in reached.values()
        for name, how in stage.draw.items():
            where = (*path, "draw", name)
            if isinstance(self.c.sources.get(name), BlendSource):
                self.bad(where, f"'{name}' is a blend", "name the sources that it mixes")
            elif name not in leaves and (known or name not in self.c.sources):
                remedy = nearest(name, leaves, "its sources")
                self.bad(where, f"this stage does not draw from '{name}'", remedy)
            elif how == "replay" and path[-1] == 0:
                what = "nothing was drawn before the first stage"
                self.bad(where, what, "remove it: the samples are new ones")

    def check_epochs(self, path: Path, stage: Stage) -> None:
        if stage.duration is None or stage.duration.unit != "ep":
            return
        reached = self.reached(_names(stage.mixture))
        finite = [name for name, source in reached.items() if source and source.finite]
        remedy = "give the duration as a share of the budget, in tokens or in batches"
        if len(stage.mixture) > 1:
            what = "epochs need a mixture that stays the same, and this one has keyframes"
        elif len(finite) > 1:
            what = "epochs are those of one source, and several are finite: " + ", ".join(finite)
        elif finite and not stage.mixture[0].value.get(finite[0]):
            what = f"the finite source '{finite[0]}' has no share of its own in the mixture"
        elif not finite and None not in reached.values():
            what = "no source of this mixture is finite, so nothing has epochs"
        else:
            return
        self.bad((*path, "duration"), what, remedy)

    def check_conditions(self, path: Path, stage: Stage) -> None:
        if self.c.evaluate is None:
            return
        evaluated = self.c.evaluate.sources
        for condition in stage.until.conditions if stage.until else ():
            where, name = (*path, "until", condition.key), condition.source
            source = self.c.sources.get(name)
            if name not in evaluated:
                if name in self.c.sources:
                    remedy = f"write evaluate: {{sources: [{', '.join((*evaluated, name))}]}}"
                else:
                    remedy = nearest(name, evaluated, "evaluated sources")
                self.bad(where, f"'{name}' is not evaluated", remedy)
            elif condition.metric == "bits_per_byte" and source and not source.finite:
                what = f"bits per byte are of text, and '{name}' has none"
                self.bad(where, what, f"write loss/{name} or perplexity/{name}")

    def check_spared(self, path: Path, stage: Stage) -> None:
        faulty = None in self.c.sources.values()
        for i, name in enumerate(stage.enter.spare if stage.enter else ()):
            where = (*path, "enter", "spare", i)
            if isinstance(self.c.sources.get(name), BlendSource):
                self.bad(where, f"'{name}' is a blend", "name the sources that it mixes")
            elif not self.c.ranges_of(name) and not (
                faulty and (name in KINDS or name in self.c.sources)
            ):
                kinds = {r.split()[0] for r in _range_names(self.c.sources.values())}
                remedy = nearest(name, sorted({*kinds, *self.c.sources}), "kinds and sources")
                self.bad(where, f"no source here is named '{name}' or of that kind", remedy)

    def check_evaluation(self) -> None:
        sources = self.c.evaluate.sources if self.c.evaluate else ()
        for i, name in enumerate(sources):
            source, where = self.c.sources.get(name), ("evaluate", "sources", i)
            if name not in self.c.sources:
                remedy = nearest(name, self.c.sources, "sources")
                self.bad(where, f"unknown source '{name}'", remedy)
            elif name in sources[:i]:
                self.bad(where, f"'{name}' stands twice", "keep one of them")
            elif isinstance(source, BlendSource):
                self.bad(where, f"'{name}' is a blend", "evaluate the sources that it mixes")
            elif source and source.finite and getattr(source, "holdout", None) is None:
                what = f"the {source.kind} source '{name}' holds nothing out for evaluation"
                can = "holdout" in type(source).model_fields
                remedy = "add `holdout: {share: 0.02, by: document}` to it"
                self.bad(where, what, remedy if can else "evaluate other sources")


def _names(mixture: Schedule) -> list[str]:
    return list(dict.fromkeys(name for frame in mixture for name in frame.value))


def _range_names(sources: Iterable[SourceSpec | None]) -> set[str]:
    return {s.range_name() for s in sources if s and not isinstance(s, BlendSource)}
