"""Measures the table of bands again: python -m ncamix.automata"""

import json

from ncamix.automata.complexity import TABLE, measure_spread
from ncamix.automata.rule import Automaton

ALPHABETS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 16)

if __name__ == "__main__":
    entries = [json.dumps(measure_spread(Automaton(n)).to_json()) for n in ALPHABETS]
    TABLE.write_text("[\n" + ",\n".join(entries) + "\n]\n", "utf-8")
