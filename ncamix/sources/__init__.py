"""Sources: one file a kind, and the registry that the language and the generators read.

    nca    rollouts of cellular automata in a complexity band     endless
    noise  independent symbols, a control                         endless
    dyck   brackets that match: nested, or shuffled               endless
    text   documents from files or the hub                        finite, compiled ahead
    pairs  prompts and responses from files or the hub            finite, compiled ahead
    mds    token samples that exist already                       finite, read as they are
    blend  a mixture of others that changes by itself             no samples of its own

A new kind is one file here and one line in each table below.
"""

from __future__ import annotations

from ncamix.sources.base import Generator, LeafSource, Meaning, SourceSpec, Spec
from ncamix.sources.blend import BlendSource
from ncamix.sources.corpus import CorpusSource, FiniteSource
from ncamix.sources.dyck import DyckGenerator, DyckSource
from ncamix.sources.mds import MdsSource
from ncamix.sources.nca import NcaGenerator, NcaSource
from ncamix.sources.noise import NoiseGenerator, NoiseSource
from ncamix.sources.pairs import PairsSource
from ncamix.sources.text import TextSource

KINDS: dict[str, type[SourceSpec]] = {
    "nca": NcaSource,
    "text": TextSource,
    "pairs": PairsSource,
    "mds": MdsSource,
    "noise": NoiseSource,
    "dyck": DyckSource,
    "blend": BlendSource,
}
GENERATORS: dict[str, type[Generator]] = {
    "nca": NcaGenerator,
    "noise": NoiseGenerator,
    "dyck": DyckGenerator,
}


def open_generator(meaning: Meaning) -> Generator:
    """The generator of an endless source from its full meaning."""
    own = {key: value for key, value in meaning.items() if key != "transform"}
    return GENERATORS[meaning["kind"]](own, meaning.get("transform"))


__all__ = [
    "GENERATORS",
    "KINDS",
    "BlendSource",
    "CorpusSource",
    "DyckSource",
    "FiniteSource",
    "Generator",
    "LeafSource",
    "MdsSource",
    "Meaning",
    "NcaSource",
    "NoiseSource",
    "PairsSource",
    "SourceSpec",
    "Spec",
    "TextSource",
    "open_generator",
]
