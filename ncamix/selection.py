"""Synthetic sources, as the command line names them.

    CURRICULUM         all synthetic sources of a curriculum, with its seed
    CURRICULUM:SOURCE  one of them
    {kind: nca, ...}   a source written in YAML, with seed 0

A blend has no samples: it stands for the sources that it mixes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ncamix.bands import spread_of
from ncamix.errors import UserError, fail, nearest
from ncamix.library import find
from ncamix.loading import load_curriculum, read_source
from ncamix.reading import Document, parse_part
from ncamix.sources import GENERATORS, BlendSource, NcaSource, SourceSpec, open_generator
from ncamix.sources.base import Generator
from ncamix.waiting import Say, quiet


@dataclass(frozen=True)
class Selection:
    """Synthetic sources by name, their seed, and the document that they were read from.

    name: what files are called. title: what readers are told. left_out: text that was named, too.
    """

    name: str
    title: str
    sources: Mapping[str, SourceSpec]
    left_out: tuple[str, ...]
    seed: int
    document: Document

    @property
    def automata(self) -> dict[str, NcaSource]:
        """The sources that have frames."""
        return {name: s for name, s in self.sources.items() if isinstance(s, NcaSource)}

    def generator(self, name: str, length: int, say: Say = quiet) -> Generator:
        """The generator of a source, for samples of `length` tokens with ids from 0.

        Raises:
            UserError: no rule of an automaton reaches its band, as `plan` judges, too.
        """
        spec = self.sources[name]
        if isinstance(spec, NcaSource):
            spread, band = spread_of(spec.automaton, spec.measure, say), spec.scored_band()
            if band is None or not spread.share(band):
                what = f"no rule with {spec.alphabet} states reaches the band {spec.band}"
                remedy = "choose another band or alphabet: `ncamix bands` shows what can be reached"
                place = ("sources", name, "band")
                raise UserError(self.document.problem(place, what, remedy))
        tail = {"sequence_length": length, "first_id": 0, "seed": self.seed}
        return open_generator({**spec.meaning(), **tail})


def select(argument: str, seed: int | None = None, settings: Sequence[str] = ()) -> Selection:
    """The sources that an argument names.

    seed: instead of their own. settings: changes of the curriculum, as `--set` takes them.

    Raises:
        UserError: it names nothing, is faulty, or is not synthetic.
    """
    if any(setting.lstrip().startswith("trainer.") for setting in settings):
        raise fail("no trainer has a say in what sources look like", "leave its --set out")
    if argument.lstrip().startswith(("{", "kind:")):
        if settings:
            raise fail("--set changes a curriculum, and this is a source", "write the source so")
        document = parse_part(argument, "SOURCE")
        spec = read_source(document)
        known: Mapping[str, SourceSpec] = {spec.kind: spec}
        chosen, title, own_seed = [spec.kind], spec.summary(), 0
        name = re.sub(r"[^\w.-]+", "_", argument).strip("_")[:80]
    else:
        whole = ":" not in argument or os.path.isfile(argument)
        file, _, source = (argument, "", "") if whole else argument.rpartition(":")
        loaded = load_curriculum(find("curricula", file), settings)
        document, known = loaded.document, loaded.curriculum.sources
        chosen, title, own_seed = list(known), loaded.curriculum.name, loaded.curriculum.seed.rules
        if not whole:
            if source not in known:
                what = f"the curriculum '{title}' has no source '{source}'"
                raise fail(what, nearest(source, known, "sources"))
            chosen, title = [source], f"{title}:{source}"
        name = title.replace(":", "_")
    leaves = _leaves(chosen, known)
    sources = {leaf: known[leaf] for leaf in leaves if known[leaf].kind in GENERATORS}
    if not sources:
        raise fail(
            f"no synthetic source in '{argument}'",
            f"name one of kind {', '.join(GENERATORS)}: text is compiled, not generated, and a "
            "blend has no samples of its own",
        )
    left_out = tuple(leaf for leaf in leaves if leaf not in sources)
    seed = own_seed if seed is None else seed
    return Selection(name, title, sources, left_out, seed, document)


def _leaves(chosen: list[str], known: Mapping[str, SourceSpec]) -> list[str]:
    """The chosen sources, those that a blend mixes in its place, each once."""
    found: dict[str, SourceSpec] = {}
    queue = list(chosen)
    while queue:
        name = queue.pop(0)
        if name in known and name not in found:  # a blend written alone mixes nothing known
            spec = found[name] = known[name]
            if isinstance(spec, BlendSource):
                queue += spec.names
    return [name for name, spec in found.items() if not isinstance(spec, BlendSource)]
