"""Next-frame accuracy: whether a model infers an automaton's rule from the frames it has seen.

    held-out rollouts -> ids predicted under teacher forcing -> cells -> right or wrong, by frame

A rule is met for the first time in its sample, so accuracy that rises with the number of frames
seen is inference in context. A token is right in so many of its cells. Beside it stands what
copying the frame before would score. Frames count that are whole in a sample and are targets. Where
a patch comes, patches alone compete: that none of its delimiters does is known, and a young model,
to which a delimiter is the likeliest id, would otherwise seem to unlearn what it knows of cells.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from composer.utils import dist
from numpy.typing import NDArray

from ncamix.sources import NcaSource
from ncamix.training.evaluation import EvaluationSet
from ncamix.training.model import CurriculumModel

NUM_ROLLOUTS = 16  # predicted at most, of a held-out set's first
BATCH_LOGITS = 1 << 25  # that a device holds at once, if one sample has no more


@torch.no_grad()
def next_frame_accuracy(
    model: CurriculumModel, held: EvaluationSet, device: torch.device
) -> dict[str, Any]:
    """Accuracy by number of frames seen; nothing for what is not made of frames.

    Lists over `frames_seen`: `cell_accuracy` and `frame_accuracy`, shares of 1 of the next frame's
    cells and of whole next frames, and the same of copying (`copied_cells`, `copied_frames`). All
    ranks take part, and get the same.
    """
    spec, source = held.source.spec, held.source
    if not isinstance(spec, NcaSource) or spec.transform == "shuffle_tokens":
        return {}
    automaton = spec.automaton
    per_frame, cells = automaton.tokens_per_frame, spec.patch * spec.patch
    samples = held.samples[:NUM_ROLLOUTS].astype(np.int64)
    num_frames, first = samples.shape[1] // per_frame, max(1, spec.loss_from_frame)
    if num_frames <= first or not len(samples):
        return {}
    powers = spec.alphabet ** np.arange(cells)

    def split(ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Cells of ids [n, >= frames * ids of one]: [n, frames, patches, cells], -1 for none."""
        tokens = ids[:, : num_frames * per_frame].reshape(len(ids), num_frames, per_frame)
        patches = tokens[..., 1:-1, None] - source.first_id
        whole = (patches >= 0) & (patches < spec.alphabet**cells)
        return np.where(whole, patches // powers % spec.alphabet, -1)

    counts = np.zeros((4, num_frames), np.int64)  # cells and frames right, copied right
    vocabulary = model.model.config.vocab_size
    step = max(1, BATCH_LOGITS // (samples.shape[1] * vocabulary))
    ranks, rank = dist.get_world_size(), dist.get_global_rank()
    was_training = model.training
    model.eval()
    try:
        for begin in range(0, len(samples), step * ranks):
            part = slice(begin + rank, min(begin + step * ranks, len(samples)), ranks)
            some = part.start < part.stop  # sharded models move in step
            ids = samples[part if some else slice(1)]
            inputs = torch.from_numpy(ids[:, :-1]).to(device)
            logits = model.model(input_ids=inputs, use_cache=False).logits
            own = logits[..., source.first_id : source.first_id + spec.alphabet**cells]
            guessed = own.argmax(-1).cpu().numpy() + source.first_id
            if not some:
                continue
            truth = split(ids)
            guess = split(np.concatenate([ids[:, :1], guessed], axis=1))
            before = np.concatenate([np.full_like(truth[:, :1], -1), truth[:, :-1]], axis=1)
            for row, shown in ((0, guess), (2, before)):
                right = shown == truth
                counts[row] += right.sum(axis=(0, 2, 3))
                counts[row + 1] += right.all(axis=(2, 3)).sum(axis=0)
    finally:
        model.train(was_training)
    summed = torch.from_numpy(counts).to(device)
    dist.all_reduce(summed)
    frame_cells = automaton.patches_per_frame * cells
    sizes = np.array([[frame_cells], [1], [frame_cells], [1]]) * len(samples)
    shares = (summed.cpu().numpy() / sizes)[:, first:].round(6).tolist()
    names = ("cell_accuracy", "frame_accuracy", "copied_cells", "copied_frames")
    return {"frames_seen": list(range(first, num_frames)), **dict(zip(names, shares, strict=True))}
