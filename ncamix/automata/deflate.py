"""Compiled: the exact size of `gzip -9`, without making the compressed bytes.

    tokens [N, T] uint32 -> little-endian int32 bytes -> matches -> Huffman codes -> sizes [N] int64

Deflate leaves the choice of matches and codes to the compressor, so a size is a fact about one
compressor: here zlib at level 9, whose choices (lazy matching over hash chains, heap-built codes)
are followed one by one. Counting bits instead of writing them is faster than zlib, needs no
interpreter lock, and gives the same score on machines whose zlib is another one, such as zlib-ng.
The format is RFC 1951's. Only streams of one block are sized here; longer ones are zlib's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ncamix.automata.complexity import COUNTED_BYTES
from ncamix.random import compiled

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Shorts = NDArray[np.uint16]
Words = NDArray[np.uint32]

MAX_BYTES = COUNTED_BYTES  # one block, in one window: zlib ends a block after 16,383 symbols
GZIP_BYTES = 18  # header and trailer
MIN_MATCH, MAX_MATCH = 3, 258
CHAIN, GOOD_CHAIN, GOOD_MATCH = 4096, 1024, 32  # zlib's search effort at level 9
HASHES = 1 << 15
TOO_FAR = 4096  # a match of three bytes further back is not taken

NODE, DEPTH, ABOVE = np.int64(0xFFFF), np.int64(0xFFFF0000), np.int64(1) << 62  # of heap entries
NUM_LITERALS, NUM_DISTANCES, NUM_LENGTHS = 286, 30, 19
NUM_NODES = 2 * NUM_LITERALS + 2  # of the largest code's tree, and a guard
END_OF_BLOCK = 256
LENGTH_ORDER = np.array(
    [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15], np.int32
)


def _code_of(bases: list[int], size: int) -> Ints:
    """Index of the last base that is <= i, for i in 0 .. size - 1."""
    return (np.searchsorted(bases, np.arange(size), side="right") - 1).astype(np.int32)


LENGTH_EXTRA = np.array([0] * 8 + [k for k in range(1, 6) for _ in range(4)] + [0], np.int32)
LENGTH_BASES = [3, *(3 + np.cumsum(1 << LENGTH_EXTRA[:-1])).tolist()]
LENGTH_BASES[28] = 258  # the longest match has a code of its own
LENGTH_CODE = _code_of(LENGTH_BASES, MAX_MATCH + 1)
DISTANCE_EXTRA = np.array([0, 0] + [k for k in range(14) for _ in range(2)], np.int32)
DISTANCE_BASES = [1, *(1 + np.cumsum(1 << DISTANCE_EXTRA[:-1])).tolist()]
DISTANCE_CODE = _code_of(DISTANCE_BASES, MAX_BYTES + 1)
FIXED_LENGTHS = np.array([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8, np.int32)


@compiled
def link(
    data: Bytes, size: int, heads: Longs, base: int, order: Shorts, places: Shorts, floors: Shorts
) -> None:
    """Lay the hash chains of data [size] side by side: positions of equal hash are consecutive.

    The chain of position p, earlier positions with the nearest first, is order[places[p] - 1] down
    to order[floors[p]]. Position 0 is on no chain: zlib takes it for the end of one. heads [32768]
    may hold anything below `base`; it counts buckets from there.
    """
    last = size - MIN_MATCH
    counts = np.zeros(size, np.uint16)
    code = (np.int64(data[0]) << 5) ^ np.int64(data[1])
    num_buckets = 0
    for p in range(last + 1):
        code = ((code << 5) ^ np.int64(data[p + 2])) & (HASHES - 1)
        bucket = heads[code] - base
        if bucket < 0:
            bucket = num_buckets
            heads[code] = base + num_buckets
            num_buckets += 1
        floors[p] = np.uint16(bucket)  # for now
        places[p] = counts[bucket]
        counts[bucket] += np.uint16(p > 0)
    total = np.uint16(0)
    for bucket in range(num_buckets):
        counts[bucket], total = total, np.uint16(total + counts[bucket])
    for p in range(last + 1):
        floors[p] = counts[floors[p]]
        places[p] += floors[p]
        if p > 0:
            order[places[p]] = np.uint16(p)


@compiled
def find_matches(
    data: Bytes,
    size: int,
    order: Shorts,
    places: Shorts,
    floors: Shorts,
    words: Words,
    literals: Ints,
    distances: Ints,
) -> None:
    """Count the symbols that zlib makes of data [size + 262 or more]: lazy matching along chains.

    words [size + 258] is scratch: the four bytes from each position.
    """
    last = size - MIN_MATCH
    for p in range(size + MAX_MATCH):
        low = np.uint32(data[p]) | np.uint32(data[p + 1]) << np.uint32(8)
        high = np.uint32(data[p + 2]) | np.uint32(data[p + 3]) << np.uint32(8)
        words[p] = low | high << np.uint32(16)
    length, start, pending = MIN_MATCH - 1, np.uint64(0), False
    p = 0
    while p < size:
        old_length, old_start = length, start
        length = MIN_MATCH - 1
        floor = np.int64(floors[p]) if p <= last else 0
        k = np.int64(places[p]) - 1 if p <= last else -1
        if k >= floor and old_length < MAX_MATCH:
            room = size - p
            floor = max(floor, k + 1 - (GOOD_CHAIN if old_length >= GOOD_MATCH else CHAIN))
            best = old_length
            # A longer match agrees in the last bytes of a match one longer than the best.
            offset = np.uint64(max(best - 3, 0))
            mask = np.uint32(0xFFFFFF) if best < MIN_MATCH else np.uint32(0xFFFFFFFF)
            wanted = words[np.uint64(p) + offset] & mask
            while k >= floor:
                q = np.uint64(order[np.uint64(k)])
                k -= 1
                if words[q + offset] & mask == wanted:
                    n = 0
                    while n < MAX_MATCH and words[q + np.uint64(n)] == words[p + n]:
                        n += 4
                    while n < MAX_MATCH and data[q + np.uint64(n)] == data[p + n]:
                        n += 1
                    if n > best:
                        start, best = q, min(n, MAX_MATCH)
                        if best >= min(MAX_MATCH, room):
                            break
                        offset, mask = np.uint64(best - 3), np.uint32(0xFFFFFFFF)
                        wanted = words[np.uint64(p) + offset]
            length = min(best, room)
            if length == MIN_MATCH and p - np.int64(start) > TOO_FAR:
                length = MIN_MATCH - 1
        if old_length >= MIN_MATCH and length <= old_length:
            literals[257 + LENGTH_CODE[old_length]] += 1
            distances[DISTANCE_CODE[p - 1 - np.int64(old_start)]] += 1
            p += old_length - 1
            length, pending = MIN_MATCH - 1, False
        else:
            if pending:
                literals[data[p - 1]] += 1
            pending = True
            p += 1
    if pending:
        literals[data[size - 1]] += 1
    literals[END_OF_BLOCK] += 1


@compiled
def sink(heap: Longs, size: int, k: int, entry: int) -> None:
    """Put an entry into the heap [1 .. size] at k or below; heap[size + 1] is above all others."""
    j = 2 * k
    while j <= size:
        left, right = heap[np.uint64(j)], heap[np.uint64(j + 1)]
        to_right = right <= (left | NODE)
        child = right if to_right else left
        if entry <= (child | NODE):
            break
        heap[np.uint64(k)] = child
        k = j + 1 if to_right else j
        j = 2 * k
    heap[np.uint64(k)] = entry


@compiled
def code_lengths(
    counts: Ints, max_length: int, lengths: Ints, heap: Longs, taken: Ints, parents: Ints
) -> int:
    """Fill lengths [S] with zlib's Huffman code lengths for counts [S]; the last used symbol.

    Entries of the heap are count << 32 | depth << 16 | node, compared without the node: ties fall
    as the heap has them. heap, taken and parents [2 S + 2] are scratch.
    """
    num_symbols = counts.shape[0]
    size, last = 0, -1
    for s in range(num_symbols):
        lengths[s] = 0
        if counts[s] > 0:
            size, last = size + 1, s
            heap[size] = np.int64(counts[s]) << 32 | np.int64(s)
    while size < 2:  # a code needs two words
        s = last + 1 if last < 2 else 0
        last = max(last, s)
        size += 1
        heap[size] = np.int64(1) << 32 | np.int64(s)
    heap[size + 1] = ABOVE
    for k in range(size // 2, 0, -1):
        sink(heap, size, k, heap[k])
    node, num_taken = num_symbols, 0
    while True:
        a, entry = heap[1], heap[size]
        heap[size] = ABOVE
        size -= 1
        sink(heap, size, 1, entry)
        b = heap[1]
        for child in (a & NODE, b & NODE):
            taken[num_taken] = np.int32(child)
            parents[child] = np.int32(node)
            num_taken += 1
        if size < 2:
            break
        depth = max(a & DEPTH, b & DEPTH) + NODE + 1
        sink(heap, size, 1, ((a >> 32) + (b >> 32)) << 32 | depth | node)
        node += 1
    # From the root down, in the reverse of the order they were taken in; depths take heap's place.
    heap[node] = 0
    overflow = 0
    words = np.zeros(max_length + 1, np.int64)
    for i in range(num_taken - 1, -1, -1):
        s = taken[i]
        length = heap[parents[s]] + 1
        if length > max_length:
            length, overflow = max_length, overflow + 1
        heap[s] = length
        if s < num_symbols:
            lengths[s] = np.int32(length)
            words[length] += 1
    if overflow > 0:
        while overflow > 0:  # shorten a word of the longest, lengthen one that is shorter
            length = max_length - 1
            while words[length] == 0:
                length -= 1
            words[length] -= 1
            words[length + 1] += 2
            words[max_length] -= 1
            overflow -= 2
        i = 0
        for length in range(max_length, 0, -1):
            while words[length] > 0:
                if taken[i] < num_symbols:
                    lengths[taken[i]] = np.int32(length)
                    words[length] -= 1
                i += 1
    return last


@compiled
def count_runs(lengths: Ints, last: int, counts: Ints) -> int:
    """Add to counts [19] the words that describe lengths [0 .. last]; bits of their repeats."""
    bits, before, run = 0, -1, 0
    most, least = (138, 3) if lengths[0] == 0 else (7, 4)
    for s in range(last + 1):
        length = lengths[s]
        following = lengths[s + 1] if s < last else -1
        run += 1
        if run < most and length == following:
            continue
        if run < least:
            counts[length] += run
        elif length != 0:
            counts[length] += length != before
            counts[16] += 1
            bits += 2
        elif run <= 10:
            counts[17] += 1
            bits += 3
        else:
            counts[18] += 1
            bits += 7
        run, before = 0, length
        if following == 0:
            most, least = 138, 3
        elif length == following:
            most, least = 6, 3
        else:
            most, least = 7, 4
    return bits


@compiled
def block_bytes(
    size: int, literals: Ints, distances: Ints, lengths: Ints, heap: Longs, links: Ints
) -> int:
    """Bytes of the one block that holds `size` bytes as these symbols: stored, fixed or dynamic.

    literals [286] and distances [30] count them. lengths [335], heap [574] and links [2 * 574] are
    scratch.
    """
    literal_lengths, lengths = lengths[:NUM_LITERALS], lengths[NUM_LITERALS:]
    distance_lengths, lengths = lengths[:NUM_DISTANCES], lengths[NUM_DISTANCES:]
    run_lengths = lengths[:NUM_LENGTHS]
    taken, parents = links[: heap.shape[0]], links[heap.shape[0] :]
    last_literal = code_lengths(literals, 15, literal_lengths, heap, taken, parents)
    last_distance = code_lengths(distances, 15, distance_lengths, heap, taken, parents)
    runs = np.zeros(NUM_LENGTHS, np.int32)
    repeats = count_runs(literal_lengths, last_literal, runs)
    repeats += count_runs(distance_lengths, last_distance, runs)
    code_lengths(runs, 7, run_lengths, heap, taken, parents)
    described = NUM_LENGTHS
    while described > 4 and run_lengths[LENGTH_ORDER[described - 1]] == 0:
        described -= 1
    dynamic, fixed = 14 + 3 * described + repeats, 0
    for s in range(NUM_LENGTHS):
        dynamic += runs[s] * run_lengths[s]
    for s in range(NUM_LITERALS):
        extra = LENGTH_EXTRA[s - 257] if s > END_OF_BLOCK else 0
        dynamic += literals[s] * (literal_lengths[s] + extra)
        fixed += literals[s] * (FIXED_LENGTHS[s] + extra)
    for s in range(NUM_DISTANCES):
        dynamic += distances[s] * (distance_lengths[s] + DISTANCE_EXTRA[s])
        fixed += distances[s] * (5 + DISTANCE_EXTRA[s])
    packed = (min(dynamic, fixed) + 3 + 7) // 8
    return size + 5 if size + 4 <= packed else packed


@compiled
def gzip_sizes(tokens: Words, sizes: Longs) -> None:
    """Fill sizes [N] with the bytes of `gzip -9` of each row of tokens [N, T], 4 T <= MAX_BYTES."""
    size = 4 * tokens.shape[1]
    data = np.zeros(size + 2 * MAX_MATCH, np.uint8)
    heads = np.zeros(HASHES, np.int64)
    order, places = np.empty(size, np.uint16), np.empty(size, np.uint16)
    floors, words = np.empty(size, np.uint16), np.empty(size + MAX_MATCH, np.uint32)
    literals, distances = np.empty(NUM_LITERALS, np.int32), np.empty(NUM_DISTANCES, np.int32)
    lengths = np.empty(NUM_LITERALS + NUM_DISTANCES + NUM_LENGTHS, np.int32)
    heap, links = np.empty(NUM_NODES, np.int64), np.empty(2 * NUM_NODES, np.int32)
    for r in range(tokens.shape[0]):
        for t in range(tokens.shape[1]):
            token = tokens[r, t]
            data[4 * t] = np.uint8(token & 0xFF)
            data[4 * t + 1] = np.uint8((token >> 8) & 0xFF)
            data[4 * t + 2] = np.uint8((token >> 16) & 0xFF)
            data[4 * t + 3] = np.uint8(token >> 24)
        literals[:] = 0
        distances[:] = 0
        link(data, size, heads, r * size + 1, order, places, floors)
        find_matches(data, size, order, places, floors, words, literals, distances)
        sizes[r] = GZIP_BYTES + block_bytes(size, literals, distances, lengths, heap, links)
