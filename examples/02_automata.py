"""Draw rules in two complexity bands and show a few frames of each in the terminal."""

import numpy as np

from ncamix.automata import Automaton, band_share

automaton = Automaton(alphabet=4)
for low, high in ((0.1, 0.2), (0.3, 0.6)):
    share = band_share(automaton, low, high)
    attempts, scores = automaton.sample_rules(rules_key=1, band=(low, high), slots=[0])
    rules = automaton.rules(1, [0], attempts)
    frames = automaton.rollout(rules, grid_key=2, sample_indices=[0], num_frames=4)[0]
    print(
        f"\nband {low:.1f}-{high:.1f}: {share:.1%} of random rules; this one scores {scores[0]:.2f}"
    )
    for row in np.moveaxis(frames, 0, 1):  # frames side by side
        print("   ".join("".join(" .+#"[cell] for cell in cells) for cells in row))
