"""Draw rules in two complexity bands and show a few frames of each in the terminal."""

import numpy as np

from ncamix.automata import Automaton, Band, shipped_spread

automaton = Automaton(alphabet=4)
spread = shipped_spread(automaton)
for band in (Band(0.1, 0.2), Band(0.3, 0.6)):
    attempts, scores = automaton.find_rules(seed=1, band=band, slots=[0])
    rules = automaton.rules(1, [0], attempts)
    frames = automaton.rollout(rules, num_frames=4, seed=2)[0]
    share = spread.share(band)
    print(f"\nband {band}: {share:.1%} of random rules; this one scores {scores[0]:.2f}")
    for row in np.moveaxis(frames, 0, 1):  # frames side by side
        print("   ".join("".join(" .+#"[cell] for cell in cells) for cells in row))
