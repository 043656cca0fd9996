"""Sources: one file a kind, and the registry that the language and the generators read.

    nca    rollouts of cellular automata in a complexity band     endless
    noise  independent symbols, a control                         endless
    dyck   brackets that match: nested, or shuffled               endless
    text   documents from files or the hub                        finite, compiled ahead
    blend  a mixture of others that changes by itself             no samples of its own

A new kind is one file here and one line in each table below.
"""

from __future__ import annotations

from ncamix.sources.base import Generator, Meaning, SourceSpec, Spec
from ncamix.sources.blend import BlendSource
from ncamix.sources.dyck import DyckGenerator, DyckSource
from ncamix.sources.nca import NcaGenerator, NcaSource
from ncamix.sources.noise import NoiseGenerator, NoiseSource
from ncamix.sources.text import TextSource

KINDS: dict[str, type[SourceSpec]] = {
    "nca": NcaSource,
    "text": TextSource,
    "noise": NoiseSource,
    "dyck": DyckSource,
    "blend": BlendSource,
}
GENERATORS: dict[str, type[Generator]] = {
    "nca": NcaGenerator,
    "noise": NoiseGenerator,
    "dyck": DyckGenerator,
}
LATER_KINDS = ("pairs", "mds")  # of the language, not yet of this version


def open_generator(meaning: Meaning) -> Generator:
    """The generator of an endless source from its full meaning."""
    return GENERATORS[meaning["kind"]](meaning)


__all__ = [
    "GENERATORS",
    "KINDS",
    "LATER_KINDS",
    "BlendSource",
    "DyckSource",
    "Generator",
    "Meaning",
    "NcaSource",
    "NoiseSource",
    "SourceSpec",
    "Spec",
    "TextSource",
    "open_generator",
]
