"""Held-out documents: which document each target of a text belongs to.

    text    samples follow each other, so that a document goes on over their borders
    pairs   samples are apart; between two pairs, and behind the last one, stand ends of text

A document's end of text is its own. What a sample's border or a limit cuts off is not missed: a
document counts with those of its targets that are there. Documents without a target do not count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ncamix.collation import segments_of
from ncamix.sources.base import MASKED


@dataclass(frozen=True)
class Documents:
    """The documents of held-out samples, in order.

    numbers: of the document that each target belongs to, int64 [num_samples, sequence_length], from
    0; 0 also where there is no loss. num_tokens, num_bytes: targets of each document, and their
    bytes of UTF-8, int64 [documents].
    """

    numbers: NDArray[np.int64]
    num_tokens: NDArray[np.int64]
    num_bytes: NDArray[np.int64]

    def sums(self, part: slice, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums by document, float64 [documents], of values of the targets of some samples, float64
        [n, sequence_length], which are 0 where there is no loss."""
        sums = np.bincount(self.numbers[part].ravel(), values.ravel(), len(self.num_tokens))
        return sums.astype(np.float64)


def documents_of(
    samples: NDArray[np.uint32],
    labels: NDArray[np.int64],
    end_of_text_id: int,
    joined: bool,
    bytes_per_id: NDArray[np.int64],
) -> Documents:
    """The documents of samples, uint32 [n, L + 1], with the targets `labels`, int64 [n, L].

    joined: a sample begins with the last id of the one before it, and goes on where that ended.
    bytes_per_id: int64, of ids of text.
    """
    trained = labels != MASKED
    ids = samples.astype(np.int64)
    if joined:
        stream = np.concatenate([ids[:1, 0], ids[:, 1:].ravel()])
        numbers = segments_of(stream, end_of_text_id)[1:].reshape(labels.shape)
    else:
        rows = np.arange(len(ids))[:, None] * ids.shape[1]  # no row has more documents
        numbers = segments_of(ids, end_of_text_id)[:, 1:] + rows
    counted, dense = np.unique(numbers[trained], return_inverse=True)
    numbers = np.zeros_like(numbers)
    numbers[trained] = dense
    num_tokens = np.bincount(dense, minlength=len(counted))
    num_bytes = np.bincount(dense, bytes_per_id[labels[trained]], len(counted))
    return Documents(numbers, num_tokens, num_bytes.astype(np.int64))
