"""Neural cellular automata: random rules, their complexity, and the token sequences they make.

After Lee, Han, Kumar, Agrawal: Training Language Models via Neural Cellular Automata, 2026 (arXiv
2603.10055). Docstrings name what is taken from it: (paper: rules), automaton, tokens, complexity.

Imports no compiled code until something is computed.
"""

from ncamix.automata.complexity import (
    COUNTED_BYTES,
    MEASURES,
    SPREAD_RULES,
    Band,
    Spread,
    measure_spread,
    scored_steps,
    shipped_spread,
    spread_from_json,
    whole,
)
from ncamix.automata.rule import VERSION, Automaton
from ncamix.automata.search import UnreachableBand

__all__ = [
    "COUNTED_BYTES",
    "MEASURES",
    "SPREAD_RULES",
    "VERSION",
    "Automaton",
    "Band",
    "Spread",
    "UnreachableBand",
    "measure_spread",
    "scored_steps",
    "shipped_spread",
    "spread_from_json",
    "whole",
]
