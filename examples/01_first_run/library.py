"""The same as a library: exact counts of a plan, and two automata in the terminal.

Nothing is trained or downloaded.
"""

from pathlib import Path

import numpy as np

from ncamix.automata import Automaton, Band, shipped_spread
from ncamix.library import find
from ncamix.loading import load_curriculum
from ncamix.planning import make_plan
from ncamix.trainer import load_trainer

curriculum = load_curriculum(Path(__file__).parent / "first.yaml")
plan = make_plan(curriculum, load_trainer(find("trainers", "cpu")))
for stage in plan.stages:
    print(f"{stage.name}: {stage.num_batches} batches of {stage.batch_size} samples")
    print(f"  in all    {stage.counts}")
    for batch in (0, stage.num_batches // 2, stage.num_batches - 1):
        counts = stage.apportionment.counts[batch].tolist()
        print(f"  batch {batch:3} {dict(zip(stage.sources, counts, strict=True))}")

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
