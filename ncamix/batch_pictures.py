"""The automata of a global batch as one picture: a block a source, a row a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ncamix.batches import Batch, Placed
from ncamix.decoding import frames_of
from ncamix.errors import fail
from ncamix.pictures import FRAME_GAP, FRAME_SIDE, Rollouts, contact_sheet, rows_height
from ncamix.plan import Plan
from ncamix.sources import NcaSource
from ncamix.spreading import describe

SMALL_SIDE = 72  # pixels of a frame, about, where a line does not hold all frames of a sample
MAX_WIDTH, MAX_HEIGHT = 2200, 20_000  # pixels of a line of frames, and of all rows


def draw_samples(
    plan: Plan,
    batch: Batch,
    samples: Sequence[Placed],
    ids: Mapping[int, NDArray[np.uint32]],
    scores: Mapping[int, float],
) -> bytes:
    """A contact sheet (PNG) of automaton samples of a batch; their ids and scores by place.

    Raises:
        UserError: it would be too large.
    """
    own = [[s for s in samples if s.source == name] for name in batch.stage.sources]
    blocks = [_block(plan, some, ids, scores) for some in own if some]
    height = sum(map(rows_height, blocks))
    if height > MAX_HEIGHT:
        raise fail(
            f"a picture of {len(samples):,} samples would be {height:,} pixels high",
            "draw some places of the batch: --place 0..7",
        )
    title = f"{plan.name}, stage {batch.stage.name}, batch {batch.number:,}"
    about = (
        "One row is one sample: its place in the batch, its number, and its rule's score. Frames "
        "are numbered by step; the last one ends where the sample does."
    )
    return contact_sheet(title, about, blocks)


def _block(
    plan: Plan,
    samples: Sequence[Placed],
    ids: Mapping[int, NDArray[np.uint32]],
    scores: Mapping[int, float],
) -> Rollouts:
    """The samples of one source."""
    source = plan.sources[samples[0].dataset]
    spec = source.spec
    assert isinstance(spec, NcaSource)
    block = Rollouts(
        name=source.name,
        settings=f"{spec.band}, {describe(spec.automaton)}",
        band=str(spec.band),
        alphabet=spec.alphabet,
        frames=frames_of(source, np.stack([ids[s.place] for s in samples])),
        scores=np.array([scores[s.place] for s in samples]),
        first_step=spec.burn_in,
        stride=spec.stride,
        labels=tuple(
            (f"place {s.place:,}", f"sample {s.sample:,}, score {scores[s.place]:.3f}")
            for s in samples
        ),
        in_line=1,
    )
    for side in (FRAME_SIDE, SMALL_SIDE):
        _, _, width = block.scaled(side)
        in_line = max(1, MAX_WIDTH // (width + FRAME_GAP))
        block = replace(block, side=side, in_line=in_line)
        if len(block.lines()) == 1:
            break
    return block
