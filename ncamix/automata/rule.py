"""The automaton: settings, candidate rules and their scores, rollouts, token samples.

A source of NCA data is an automaton, a key for its rules and a key for its grids and noise:

    (rules_key, slot, attempt) -> candidate rule -> score
    (rules_key, band, slot)    -> first attempt whose score lies in the band -> rule
    (rule, grid_key, sample)   -> rollout -> frames -> tokens

Each arrow is a pure function, whatever the number of threads, processes or the instruction set.
Tokens are ids; frames are grids of cell states; scores are compressed bytes per byte.
Compiled code is imported when first used, so that settings alone cost no start-up time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncamix.automata.complexity import SCORED_FRAMES, gzip_bytes

SLOT_BITS = 40  # a candidate's stream number is slot + attempt * 2**40
MAX_ATTEMPTS = 20_000
CLOSE = 23.025850929940457  # ln 1e10: a logit this much lower is drawn once in 1e10


class UnreachableBand(ValueError):
    """No rule of a slot scored inside the band within the allowed number of attempts."""


@dataclass(frozen=True)
class Automaton:
    """A family of neural cellular automata on a torus and how they become tokens (paper).

    alphabet: number of cell states n. grid: height and width in cells. patch: side p of the
    square patch that makes a token, in cells. temperature and identity_bias: the next state is
    drawn from softmax((logits + identity_bias * onehot(state)) / temperature). burn_in: steps
    before the first frame. stride: steps from a frame to the next.
    """

    alphabet: int = 10
    grid: tuple[int, int] = (12, 12)
    patch: int = 2
    temperature: float = 1e-4
    identity_bias: float = 0.0
    burn_in: int = 10
    stride: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "grid", tuple(self.grid))
        _demand(2 <= self.alphabet <= 64, f"alphabet must be 2 to 64 states, not {self.alphabet}")
        _demand(1 <= self.patch <= 4, f"patch must be 1 to 4 cells a side, not {self.patch}")
        _demand(
            len(self.grid) == 2 and all(s > 0 and s % self.patch == 0 for s in self.grid),
            f"grid must be (height, width), multiples of patch {self.patch}, not {self.grid}",
        )
        _demand(
            self.num_symbols <= 2**31,
            f"{self.alphabet} states in {self.patch} x {self.patch} patches make "
            f"{self.num_symbols:,} symbols; at most 2**31 fit a token",
        )
        _demand(self.grid[0] * self.grid[1] <= 2**16, f"grid of over 65,536 cells: {self.grid}")
        _demand(0 < self.temperature <= 1, f"temperature must be in (0, 1], not {self.temperature}")
        _demand(
            abs(self.identity_bias) <= 1e6, f"identity_bias is out of range: {self.identity_bias}"
        )
        _demand(0 <= self.burn_in < 2**20, f"burn_in must be 0 to 2**20, not {self.burn_in}")
        _demand(1 <= self.stride < 2**10, f"stride must be 1 to 1023 steps, not {self.stride}")

    @property
    def patches_per_frame(self) -> int:
        return self.grid[0] * self.grid[1] // self.patch**2

    @property
    def tokens_per_frame(self) -> int:
        return self.patches_per_frame + 2

    @property
    def num_symbols(self) -> int:
        """Number of token ids: n**(p*p) patches and two delimiters."""
        num_patches: int = self.alphabet ** (self.patch * self.patch)
        return num_patches + 2

    @property
    def frame_start(self) -> int:
        return self.num_symbols - 2

    @property
    def frame_end(self) -> int:
        return self.num_symbols - 1

    @property
    def num_weights(self) -> int:
        """Weights of a rule: 9 n x 4, then 4 x 16, then 16 x n."""
        return 52 * self.alphabet + 64

    def rules(self, rules_key: int, slots: ArrayLike, attempts: ArrayLike) -> NDArray[np.float32]:
        """Candidate rules (slot, attempt), int [N] each: float32 [N, num_weights] (paper)."""
        from ncamix.automata import kernel
        from ncamix.random import derive

        streams = _candidates(slots, attempts)
        rules = np.empty((len(streams), self.num_weights), np.float32)
        key = derive(_key(rules_key), kernel.RULES)
        kernel.draw_rules(key, streams, self.alphabet, rules)
        return rules

    def scores(
        self,
        rules_key: int,
        slots: ArrayLike,
        attempts: ArrayLike,
        num_threads: int | None = None,
    ) -> NDArray[np.float64]:
        """Complexity of candidates (slot, attempt), int [N] each: float64 [N] (paper).

        Gzip ratio of the ten frames after burn-in: patch tokens without delimiters, as int32.
        It knows no band and no grid_key, so one score serves every band and source.
        """
        from ncamix.automata import kernel
        from ncamix.automata.tokens import tokenize
        from ncamix.random import derive

        slots, attempts = np.broadcast_arrays(_ids(slots, "slots"), _ids(attempts, "attempts"))
        streams = _candidates(slots, attempts)
        key = derive(_key(rules_key), kernel.SCORING)
        scores = np.empty(len(streams), np.float64)

        def score(block: slice) -> None:
            rules = self.rules(rules_key, slots[block], attempts[block])
            frames = self._frames(rules, key, streams[block], SCORED_FRAMES)
            tokens = np.empty((len(rules), SCORED_FRAMES * self.patches_per_frame), np.uint32)
            tokenize(frames, self.grid[1], self.patch, self.alphabet, False, tokens)
            scores[block] = gzip_bytes(tokens) / tokens[0].nbytes

        _spread(score, len(streams), num_threads)
        return scores

    def sample_rules(
        self,
        rules_key: int,
        band: tuple[float, float],
        slots: ArrayLike,
        num_threads: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """First attempt of each slot, int [N], that scores in [low, high): int64, float64 [N].

        Raises UnreachableBand once a slot has failed MAX_ATTEMPTS times.
        """
        low, high = band
        _demand(low < high, f"a band needs low < high, not [{low}, {high})")
        slots = _ids(slots, "slots")
        accepted = np.full(len(slots), -1, np.int64)
        scores = np.full(len(slots), np.nan)
        tried = np.zeros(len(slots), np.int64)  # attempts so far, per slot
        batch = 32 * _num_threads(num_threads)
        pending = np.arange(len(slots))
        while pending.size:
            # While nothing at all was found, settle whether one slot can be filled, then the rest.
            if pending.size == len(slots) and tried.sum() >= MAX_ATTEMPTS:
                pending = pending[:1]
            # Few slots left: try several attempts of each at once, as many as failed so far.
            ahead = int(max(1, min(tried[pending].min(), batch // pending.size)))
            ahead = min(ahead, MAX_ATTEMPTS - int(tried[pending].max()))
            attempts = tried[pending, None] + np.arange(ahead)
            found = self.scores(
                rules_key, slots[pending].repeat(ahead), attempts.ravel(), num_threads
            ).reshape(attempts.shape)
            inside = (low <= found) & (found < high)
            first = inside.argmax(axis=1)
            hit = inside.any(axis=1)
            accepted[pending[hit]] = attempts[hit, first[hit]]
            scores[pending[hit]] = found[hit, first[hit]]
            tried[pending] += ahead
            pending = np.flatnonzero(accepted < 0)
            if pending.size and tried[pending].max() >= MAX_ATTEMPTS:
                raise UnreachableBand(
                    f"no rule of {self} scored in [{low}, {high}) in {MAX_ATTEMPTS:,} attempts at "
                    f"one slot ({tried.sum():,} candidates were tried in all, "
                    f"{len(slots) - pending.size:,} of {len(slots):,} slots filled)"
                )
        return accepted, scores

    def rollout(
        self,
        rules: NDArray[np.float32],
        grid_key: int,
        sample_indices: ArrayLike,
        num_frames: int,
        num_threads: int | None = None,
    ) -> NDArray[np.uint8]:
        """Frames of rules [N, num_weights], one a sample index [N]: uint8 [N, F, H, W] (paper).

        The initial grid and the noise of row i belong to (grid_key, sample_indices[i]). Frame f
        is the state after burn_in + f * stride steps.
        """
        from ncamix.automata import kernel
        from ncamix.random import derive

        streams = _ids(sample_indices, "sample_indices").astype(np.uint64)
        rules = np.ascontiguousarray(rules, np.float32)
        _demand(
            rules.shape == (len(streams), self.num_weights),
            f"rules must be [{len(streams)}, {self.num_weights}], not {list(rules.shape)}",
        )
        _demand(num_frames > 0, f"num_frames must be positive, not {num_frames}")
        key = derive(_key(grid_key), kernel.SAMPLES)
        frames = np.empty((len(streams), num_frames, *self.grid), np.uint8)

        def roll(block: slice) -> None:
            rolled = self._frames(rules[block], key, streams[block], num_frames)
            frames[block] = rolled.reshape(-1, num_frames, *self.grid)

        _spread(roll, len(streams), num_threads)
        return frames

    def tokens(self, frames: NDArray[np.uint8], num_tokens: int) -> NDArray[np.uint32]:
        """Delimited tokens of frames [N, F, H, W], cut at num_tokens: uint32 [N, num_tokens]."""
        from ncamix.automata.tokens import tokenize

        _demand(
            0 < num_tokens <= frames.shape[1] * self.tokens_per_frame,
            f"{frames.shape[1]} frames do not hold {num_tokens} tokens",
        )
        tokens = np.empty((len(frames), num_tokens), np.uint32)
        cells = np.ascontiguousarray(frames).reshape(*frames.shape[:2], -1)
        tokenize(cells, self.grid[1], self.patch, self.alphabet, True, tokens)
        return tokens

    def samples(
        self,
        rules_key: int,
        grid_key: int,
        band: tuple[float, float],
        sample_indices: ArrayLike,
        num_tokens: int,
        pool: int | None = None,
        num_threads: int | None = None,
    ) -> NDArray[np.uint32]:
        """Token sequences of sample_indices [N]: uint32 [N, num_tokens] (paper).

        Sample i has the rule of slot i, or of slot i % pool if the pool of rules is finite.
        """
        _demand(num_tokens > 0, f"num_tokens must be positive, not {num_tokens}")
        _demand(pool is None or pool > 0, f"pool must be positive, not {pool}")
        indices = _ids(sample_indices, "sample_indices")
        distinct, places = np.unique(indices % pool if pool else indices, return_inverse=True)
        attempts = self.sample_rules(rules_key, band, distinct, num_threads)[0][places]
        slots = distinct[places]
        num_frames = -(-num_tokens // self.tokens_per_frame)
        tokens = np.empty((len(indices), num_tokens), np.uint32)

        def make(block: slice) -> None:
            rules = self.rules(rules_key, slots[block], attempts[block])
            frames = self.rollout(rules, grid_key, indices[block], num_frames, num_threads=1)
            tokens[block] = self.tokens(frames, num_tokens)

        _spread(make, len(indices), num_threads)
        return tokens

    def _frames(
        self,
        rules: NDArray[np.float32],
        key: np.uint64,
        streams: NDArray[np.uint64],
        num_frames: int,
    ) -> NDArray[np.uint8]:
        """Frames uint8 [N, F, H * W] of one thread's block of rules."""
        from ncamix.automata import kernel

        cells = self.grid[0] * self.grid[1]
        grids = np.empty((len(rules), cells), np.uint8)
        kernel.draw_grids(key, streams, self.alphabet, grids)
        frames = np.empty((len(rules), num_frames, cells), np.uint8)
        kernel.roll_out(
            rules,
            grids,
            self.grid[0],
            key,
            streams,
            float(self.temperature),
            np.float32(self.temperature * CLOSE),
            np.float32(self.identity_bias),
            self.burn_in,
            self.stride,
            frames,
        )
        return frames


def _demand(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _key(key: int) -> int:
    _demand(0 <= key < 2**64, f"a key must be an integer of 64 bits, not {key}")
    return int(key)


def _ids(values: ArrayLike, what: str) -> NDArray[np.int64]:
    """Non-negative int64 [N] from any integer sequence."""
    array = np.atleast_1d(np.asarray(values))
    if array.size == 0:
        return np.zeros(0, np.int64)
    _demand(array.ndim == 1 and array.dtype.kind in "iu", f"{what} must be a row of integers")
    _demand(bool(array.min() >= 0), f"{what} must not be negative")
    ids: NDArray[np.int64] = array.astype(np.int64)
    return ids


def _candidates(slots: ArrayLike, attempts: ArrayLike) -> NDArray[np.uint64]:
    """Stream numbers uint64 [N] of candidates."""
    slots, attempts = _ids(slots, "slots"), _ids(attempts, "attempts")
    _demand(bool((slots < 2**SLOT_BITS).all()), f"slots must be below 2**{SLOT_BITS}")
    _demand(bool((attempts < 2 ** (63 - SLOT_BITS)).all()), "attempts must be below 2**23")
    return (slots + (attempts << SLOT_BITS)).astype(np.uint64)


def _num_threads(num_threads: int | None) -> int:
    _demand(num_threads is None or num_threads > 0, f"num_threads cannot be {num_threads}")
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return num_threads or len(os.sched_getaffinity(0))
    return num_threads or os.cpu_count() or 1


def _spread(work: Callable[[slice], None], num_items: int, num_threads: int | None) -> None:
    """Do blocks of items on a pool of threads that ends with the call: none survive into a fork."""
    threads = _num_threads(num_threads)
    size = max(1, min(32, -(-num_items // (4 * threads))))
    blocks = [slice(i, min(i + size, num_items)) for i in range(0, num_items, size)]
    if threads == 1 or len(blocks) < 2:
        for block in blocks:
            work(block)
        return
    with ThreadPoolExecutor(min(threads, len(blocks)), "automata") as pool:
        for _ in pool.map(work, blocks):
            pass
