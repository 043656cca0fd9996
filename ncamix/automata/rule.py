"""The automaton: settings, candidate rules and their scores, rollouts, token samples.

A source of NCA data is an automaton, a seed for its rules and a seed for its grids and noise:

    (seed, slot, attempt)          -> candidate rule -> score
    (seed, band, slot)             -> first attempt whose score lies in the band -> rule
    (rule, grid seed, sample)      -> rollout -> frames -> tokens

Each arrow is a pure function, whatever the number of threads, processes or the instruction set.
Tokens are ids; frames are grids of cell states; scores are shares of 1. Compiled code is imported
when first used, so that settings alone cost no start-up time.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ncamix.automata.complexity import (
    SCORED_FRAMES,
    Band,
    measure_frames,
    shipped_spread,
    whole,
)
from ncamix.automata.search import UnreachableBand, search
from ncamix.threads import spread

VERSION = 2  # of the bytes: raise it when rules, frames or scores change
SLOT_BITS = 40  # a candidate's stream number is slot + attempt * 2**40
CLOSE = 23.025850929940457  # ln 1e10: a logit this much lower is drawn once in 1e10
BLOCK = 32  # slots or samples that a thread takes at a time


@dataclass(frozen=True)
class Automaton:
    """A family of neural cellular automata on a torus and how they become tokens.

    Defaults are the paper's. alphabet: number of cell states n. grid: height and width in cells, or
    the side of a square. patch: side p of the square patch that makes a token, in cells.
    temperature and identity_bias: the next state is drawn from softmax((logits + identity_bias *
    onehot(state)) / temperature). burn_in: steps before the first frame. stride: steps from a frame
    to the next.
    """

    alphabet: int = 10
    grid: tuple[int, int] = (12, 12)
    patch: int = 2
    temperature: float = 1e-4
    identity_bias: float = 0.0
    burn_in: int = 10
    stride: int = 1

    def __post_init__(self) -> None:
        sides = (self.grid, self.grid) if isinstance(self.grid, Integral) else tuple(self.grid)
        object.__setattr__(self, "grid", sides)
        for name in ("alphabet", "patch", "burn_in", "stride"):
            value = getattr(self, name)
            _demand(isinstance(value, Integral), f"{name} must be a whole number, not {value!r}")
            object.__setattr__(self, name, int(value))
        _demand(2 <= self.alphabet <= 64, f"alphabet must be 2 to 64 states, not {self.alphabet}")
        _demand(1 <= self.patch <= 4, f"patch must be 1 to 4 cells a side, not {self.patch}")
        _demand(
            len(self.grid) == 2
            and all(isinstance(s, Integral) and s > 0 and s % self.patch == 0 for s in self.grid),
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

    def rules(self, seed: int, slots: ArrayLike, attempts: ArrayLike = 0) -> NDArray[np.float32]:
        """Candidate rules (slot, attempt), int [N] each: float32 [N, num_weights] (paper: rules).

        Every weight is LeCun-normal: variance 1 / fan-in, truncated at two standard deviations.
        """
        slots, attempts = np.broadcast_arrays(_ids(slots, "slots"), _ids(attempts, "attempts"))
        _demand(bool((slots < 2**SLOT_BITS).all()), f"slots must be below 2**{SLOT_BITS}")
        _demand(bool((attempts < 2 ** (63 - SLOT_BITS)).all()), "attempts must be below 2**23")
        return self._draw(seed, _stream(slots, attempts))

    def scores(
        self,
        seed: int,
        num_rules: int,
        *,
        measure: str = "gzip",
        first: int = 0,
        num_threads: int | None = None,
    ) -> NDArray[np.float64]:
        """Complexity of the first candidates of slots first, first + 1, ...: float64 [num_rules].

        measure: `gzip`, compressed size of the ten frames after burn-in, patch tokens as int32
        without delimiters, per byte (paper: complexity); `zstd` of the same; or `change_rate`, the
        share of cells that differ from the frame before. Scores know no band and no grid seed.
        """
        amounts = self.amounts(
            seed, num_rules, measure=measure, first=first, num_threads=num_threads
        )
        return amounts / whole(self, measure)

    def amounts(
        self,
        seed: int,
        num_rules: int,
        *,
        measure: str = "gzip",
        first: int = 0,
        num_threads: int | None = None,
    ) -> NDArray[np.int64]:
        """What `scores` are shares of `whole`: compressed bytes or changed cells, int64."""
        _demand(num_rules >= 0, f"num_rules must not be negative, not {num_rules}")
        slots = _slots(first, num_rules)
        amounts = np.empty(num_rules, np.int64)

        def score(block: slice) -> None:
            zeros = np.zeros(block.stop - block.start, np.int64)
            amounts[block] = self._amounts(seed, measure, slots[block], zeros)

        Band(0, 1, measure)  # the measure's name is checked before any work
        spread(score, num_rules, num_threads, largest_block=BLOCK)
        return amounts

    def find_rules(
        self, seed: int, band: Band, slots: ArrayLike, *, num_threads: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """First attempt of each slot, int [N], that scores in a band: int64 [N]; scores, float64.

        Raises:
            UnreachableBand: no rule scores there: at once where the spread of these settings is
                shipped, else once a slot has failed 100,000 times.
        """
        known = shipped_spread(self, band.measure)
        if known is not None and not known.share(band):
            raise UnreachableBand(
                f"none of {known.num_rules:,} random rules of {self} scored in {band}"
            )
        slots = _ids(slots, "slots")
        _demand(bool((slots < 2**SLOT_BITS).all()), f"slots must be below 2**{SLOT_BITS}")
        interval = band.amounts(whole(self, band.measure))
        attempts, amounts = np.empty(len(slots), np.int64), np.empty(len(slots), np.int64)

        def find(block: slice) -> None:
            attempts[block], amounts[block] = self._search(seed, band, interval, slots[block])

        spread(find, len(slots), num_threads, largest_block=BLOCK)
        return attempts, amounts / whole(self, band.measure)

    def rollout(
        self,
        rules: NDArray[np.float32],
        num_frames: int,
        *,
        seed: int = 0,
        first: int = 0,
        num_threads: int | None = None,
    ) -> NDArray[np.uint8]:
        """Frames of rules [N, num_weights]: uint8 [N, num_frames, H, W] (paper: automaton).

        The initial grid and the noise of row i belong to (seed, sample first + i): n logits are
        N(0, 1), the cells independent draws of their softmax. Frame f is the state after burn_in
        + f * stride steps.
        """
        rules = np.ascontiguousarray(rules, np.float32)
        _demand(
            rules.ndim == 2 and rules.shape[1] == self.num_weights,
            f"rules must be [N, {self.num_weights}], not {list(rules.shape)}",
        )
        _demand(num_frames > 0, f"num_frames must be positive, not {num_frames}")
        samples = _slots(first, len(rules))
        frames = np.empty((len(rules), num_frames, *self.grid), np.uint8)

        def roll(block: slice) -> None:
            rolled = self._frames(rules[block], seed, samples[block], num_frames)
            frames[block] = rolled.reshape(-1, num_frames, *self.grid)

        spread(roll, len(rules), num_threads, largest_block=BLOCK)
        return frames

    def tokens(self, frames: NDArray[np.uint8], num_tokens: int) -> NDArray[np.uint32]:
        """Delimited tokens of frames [N, F, H, W], cut at num_tokens: uint32 [N, num_tokens].

        A patch is the number whose base-n digits are its cells, row-major, the first the lowest;
        frame_start and frame_end stand around a frame's patches (paper: tokens).
        """
        from ncamix.automata.tokens import tokenize

        _demand(
            frames.ndim == 4 and frames.shape[2:] == self.grid,
            f"frames must be [N, F, {self.grid[0]}, {self.grid[1]}], not {list(frames.shape)}",
        )
        _demand(
            frames.size == 0 or int(frames.max()) < self.alphabet,
            f"frames hold states of {self.alphabet} and above",
        )
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
        seed: int,
        band: Band,
        num_samples: int,
        num_tokens: int,
        *,
        first: int = 0,
        grid_seed: int | None = None,
        pool: int | None = None,
        num_threads: int | None = None,
    ) -> NDArray[np.uint32]:
        """Token sequences of samples first, first + 1, ...: uint32 [num_samples, num_tokens].

        Sample i is a rollout of the rule of slot i, or of slot i % pool if the pool of rules is
        finite, on a grid of its own. grid_seed: of grids and noise, `seed` if not given.

        Raises:
            UnreachableBand: as `find_rules` does.
        """
        _demand(num_tokens > 0, f"num_tokens must be positive, not {num_tokens}")
        _demand(num_samples >= 0, f"num_samples must not be negative, not {num_samples}")
        _demand(pool is None or pool > 0, f"pool must be positive, not {pool}")
        samples = _slots(first, num_samples)
        slots = samples % pool if pool else samples
        # A block finds its own rules, unless others need the same ones: then they are found first.
        # One is in any case, so that an unreachable band fails once and not in every thread.
        shared = np.unique(slots) if len(slots) > (pool or len(slots)) else slots[:1]
        self.find_rules(seed, band, shared, num_threads=num_threads)
        interval = band.amounts(whole(self, band.measure))
        num_frames = -(-num_tokens // self.tokens_per_frame)
        tokens = np.empty((num_samples, num_tokens), np.uint32)

        def make(block: slice) -> None:
            attempts, _ = self._search(seed, band, interval, slots[block])
            rules = self._draw(seed, _stream(slots[block], attempts))
            grids = seed if grid_seed is None else grid_seed
            frames = self._frames(rules, grids, samples[block], num_frames)
            rolled = frames.reshape(-1, num_frames, *self.grid)
            tokens[block] = self.tokens(rolled, num_tokens)

        spread(make, num_samples, num_threads, largest_block=BLOCK)
        return tokens

    def _search(
        self, seed: int, band: Band, interval: tuple[int, int], slots: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Attempts and amounts of one thread's block of slots."""

        def score(slots: NDArray[np.int64], attempts: NDArray[np.int64]) -> NDArray[np.int64]:
            return self._amounts(seed, band.measure, slots, attempts)

        of = f" of {self} scored in {band}"
        return search(score, (self, seed, band.measure), interval, slots, of)

    def _amounts(
        self, seed: int, measure: str, slots: NDArray[np.int64], attempts: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Amounts int64 [N] of one thread's block of candidates."""
        from ncamix.automata import draws

        streams = _stream(slots, attempts)
        rules = self._draw(seed, streams)
        frames = self._frames(rules, seed, streams, SCORED_FRAMES, purpose=draws.SCORING)
        return measure_frames(self, measure, frames)

    def _draw(self, seed: int, streams: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Rules float32 [N, num_weights] of candidates' stream numbers."""
        from ncamix.automata import draws
        from ncamix.random import derive

        rules = np.empty((len(streams), self.num_weights), np.float32)
        draws.draw_rules(derive(_key(seed), draws.RULES), streams, self.alphabet, rules)
        return rules

    def _frames(
        self,
        rules: NDArray[np.float32],
        seed: int,
        streams: NDArray[np.integer],
        num_frames: int,
        purpose: np.uint64 | None = None,
    ) -> NDArray[np.uint8]:
        """Frames uint8 [N, F, H * W] of one thread's block of rules."""
        from ncamix.automata import draws, kernel
        from ncamix.random import derive

        key = derive(_key(seed), draws.SAMPLES if purpose is None else purpose)
        streams = streams.astype(np.uint64)
        cells = self.grid[0] * self.grid[1]
        grids = np.empty((len(rules), cells), np.uint8)
        draws.draw_grids(key, streams, self.alphabet, grids)
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


def _key(seed: int) -> int:
    _demand(
        isinstance(seed, Integral) and 0 <= seed < 2**64,
        f"a seed must be an integer of 64 bits, not {seed!r}",
    )
    return int(seed)


def _slots(first: int, count: int) -> NDArray[np.int64]:
    _demand(0 <= first <= 2**SLOT_BITS - count, f"first must be 0 to 2**{SLOT_BITS}, not {first}")
    return np.arange(first, first + count, dtype=np.int64)


def _ids(values: ArrayLike, what: str) -> NDArray[np.int64]:
    """Non-negative int64 [N] from any integer sequence."""
    array = np.atleast_1d(np.asarray(values))
    if array.size == 0:
        return np.zeros(0, np.int64)
    _demand(array.ndim == 1 and array.dtype.kind in "iu", f"{what} must be a row of integers")
    _demand(bool(array.min() >= 0), f"{what} must not be negative")
    ids: NDArray[np.int64] = array.astype(np.int64)
    return ids


def _stream(slots: NDArray[np.int64], attempts: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Stream numbers uint64 [N] of candidates."""
    return (slots + (attempts << SLOT_BITS)).astype(np.uint64)
