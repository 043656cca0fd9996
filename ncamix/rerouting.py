"""Rerouting: what makes an apportionment exact where choosing batch by batch gets stuck.

Counts are a flow. Each batch sends its samples to the sources; at (batch, source) they join those
of earlier batches, so that what leaves it for the next batch is the cumulative count, which has to
be the floor or the ceiling of the cumulative quota. When a batch is stuck with a sample too many or
too few, a path of steps that each keep all other sums right carries the difference to the last
cumulative count of some source. There is such a path whenever the counts so far can be mended at
all (max-flow, min-cut), and they always can: the quotas themselves are a fractional flow.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ACTIVE, LOOSE, UP, SEEN = 1, 2, 4, 8  # see `reroute`


def reroute(
    counts: NDArray[np.signedinteger], flags: NDArray[np.uint8], batch: int, change: int
) -> int:
    """Change the sum of a batch's counts by `change`, 1 or -1; the sums of earlier ones stay.

    counts: [batches, sources]. flags, uint8 [batches, sources + 1]: ACTIVE where a source has
    weight, LOOSE where its cumulative quota is not whole, UP where its cumulative count is the
    ceiling of it. Both are mended in place. Compiled code runs this very function.

    Returns the source whose cumulative count changed by `change`; -1 if there is no way.
    """
    sources = counts.shape[1]
    width = sources + 1  # node (batch, source); (batch, sources) is the batch's own
    nodes = np.empty(64 * width, np.int64)  # a queue, breadth first
    came_from = np.empty(64 * width, np.int64)  # places in the queue
    nodes[0] = batch * width + sources
    flags[batch, sources] |= SEEN
    at, end, last = 0, 1, -1
    while at < end and last < 0:
        if end + width > len(nodes):
            nodes = np.concatenate((nodes, np.empty_like(nodes)))
            came_from = np.concatenate((came_from, np.empty_like(nodes)))
        b, s = nodes[at] // width, nodes[at] % width
        first = end
        if s == sources:
            for other in range(sources):
                may = flags[b, other] & ACTIVE if change > 0 else counts[b, other] > 0
                if may and not flags[b, other] & SEEN:
                    nodes[end] = b * width + other
                    end += 1
        else:
            rises = flags[b, s] & (LOOSE | UP) == LOOSE
            if rises if change > 0 else flags[b, s] & UP:
                if b == batch:
                    last = at
                elif not flags[b + 1, s] & SEEN:
                    nodes[end] = nodes[at] + width
                    end += 1
            if b > 0 and not flags[b - 1, s] & SEEN:
                rises = flags[b - 1, s] & (LOOSE | UP) == LOOSE
                if flags[b - 1, s] & UP if change > 0 else rises:
                    nodes[end] = nodes[at] - width
                    end += 1
            may = counts[b, s] > 0 if change > 0 else flags[b, s] & ACTIVE
            if may and not flags[b, sources] & SEEN:
                nodes[end] = b * width + sources
                end += 1
        for i in range(first, end):
            came_from[i] = at
            flags[nodes[i] // width, nodes[i] % width] |= SEEN
        at += 1
    for i in range(end):
        flags[nodes[i] // width, nodes[i] % width] &= 255 - SEEN
    if last < 0:
        return -1
    source = nodes[last] % width
    flags[batch, source] ^= UP
    while last > 0:
        before = came_from[last]
        b, s = nodes[last] // width, nodes[last] % width
        c, r = nodes[before] // width, nodes[before] % width
        if r == sources:  # the batch gives one more or less
            counts[c, s] += change
        elif s == sources:  # another batch one less or more
            counts[c, r] -= change
        else:  # the cumulative count between two batches
            flags[min(b, c), s] ^= UP
        last = before
    return int(source)
