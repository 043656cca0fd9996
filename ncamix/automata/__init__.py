"""Neural cellular automata: random rules, their complexity, and the token sequences they make.

Depends on NumPy and Numba alone, and on Numba only once something is computed.
"""

from ncamix.automata.complexity import band_share, measure_bands
from ncamix.automata.rule import Automaton, UnreachableBand

__all__ = ["Automaton", "UnreachableBand", "band_share", "measure_bands"]
