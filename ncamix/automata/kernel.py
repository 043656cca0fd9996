"""Compiled core of the automata: rollouts.

    rules [N, 52 n + 64] float32, grids [N, cells] uint8 -> frames [N, F, cells] uint8

A step has three parts: neighbourhoods to table indices, the 3x3 convolution of a one-hot state as
look-ups, and the two 1x1 layers with the best two logits of every cell. The last two are written as
vector instructions of LLVM, for it does not find them itself: they keep a cell's four channels, or
sixteen cells' hidden units, in registers. They are lane by lane + and * in a written order, without
fast-math and without contraction, so every instruction set gives the same bits, whatever its width.

Cells are padded to `lanes`, a multiple of 16; what the padding computes is never looked at. Apart
from random numbers and their rows it stays in one file: numba's cache sees no change in another.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from ncamix.automata.draws import STEP_ROW
from ncamix.random import compiled, exp, uniform

Floats: TypeAlias = NDArray[np.float32]
Cells: TypeAlias = NDArray[np.uint8]
Codes: TypeAlias = NDArray[np.uint16]
State: TypeAlias = NDArray[np.int32]
Streams: TypeAlias = NDArray[np.uint64]

WIDTH = 16  # cells that a vector holds: a register of AVX-512, two of AVX, four of SSE or NEON
LOWEST = -3e38
vector_code: Any = intrinsic  # typed as a decorator that keeps the signature, which it does not
FLOAT, INT, INDEX = ir.FloatType(), ir.IntType(32), ir.IntType(64)


def _vector(kind: Any, size: int) -> Any:
    return ir.VectorType(kind, size)


def _load(builder: Any, base: Any, at: Any, kind: Any) -> Any:
    address = builder.bitcast(builder.gep(base, [at]), kind.as_pointer())
    return builder.load(address, align=4)


def _store(builder: Any, value: Any, base: Any, at: Any) -> None:
    address = builder.bitcast(builder.gep(base, [at]), value.type.as_pointer())
    builder.store(value, address, align=4)


def _shuffle(builder: Any, a: Any, b: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(_vector(INT, len(order)), order))


def _splat(builder: Any, scalar: Any) -> Any:
    """The scalar in every lane of a vector."""
    undefined = ir.Constant(_vector(scalar.type, WIDTH), ir.Undefined)
    one = builder.insert_element(undefined, scalar, ir.Constant(INT, 0))
    return _shuffle(builder, one, undefined, [0] * WIDTH)


def _scalar(builder: Any, base: Any, at: Any) -> Any:
    """The scalar at base[at], in every lane."""
    return _splat(builder, builder.load(builder.gep(base, [at])))


@vector_code
def convolve(
    context: Any,
    left: Any,
    right: Any,
    pairs: Any,
    rights: Any,
    width: Any,
    channels: Any,
    start: Any,
) -> Any:
    """Channels [4, lanes] of the four cells from `start`: the 3x3 convolution as look-ups.

    left [3 dy, 4 n n] holds the sums of the left and centre taps, right [3 dy, 4 n] the right ones,
    four channels side by side; pairs and rights say where a cell's stand, rows of `width` cells
    apart. Order of the sum: (left + centre) + right in each row, then (upper + middle) + lower.
    """
    signature = types.void(left, right, pairs, rights, width, channels, start)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def array(k: int) -> Any:
            return context.make_array(signature.args[k])(context, builder, arguments[k])

        def plus(index: Any, offset: Any, times: int = 1) -> Any:
            return builder.add(index, builder.mul(offset, ir.Constant(INDEX, times)))

        tables, codes = (array(0), array(1)), (array(2).data, array(3).data)
        width, channels, start = arguments[4], array(5), arguments[6]
        four = _vector(FLOAT, 4)
        cells = []
        for lane in range(4):
            rows = []
            for dy in range(3):
                at = plus(plus(start, ir.Constant(INDEX, lane)), width, dy)
                taps = []
                for table, code in zip(tables, codes, strict=True):
                    entry = builder.zext(builder.load(builder.gep(code, [at])), INDEX)
                    entry = plus(entry, builder.extract_value(table.shape, 1), dy)
                    taps.append(_load(builder, table.data, entry, four))
                rows.append(builder.fadd(*taps))
            cells.append(builder.fadd(builder.fadd(rows[0], rows[1]), rows[2]))
        # Four cells of four channels become four channels of four cells.
        lows = [_shuffle(builder, cells[k], cells[k + 1], [0, 4, 1, 5]) for k in (0, 2)]
        highs = [_shuffle(builder, cells[k], cells[k + 1], [2, 6, 3, 7]) for k in (0, 2)]
        lanes = builder.extract_value(channels.shape, 1)
        for c in range(4):
            low, high = lows if c < 2 else highs
            order = [0, 1, 4, 5] if c % 2 == 0 else [2, 3, 6, 7]
            channel = _shuffle(builder, low, high, order)
            _store(builder, channel, channels.data, plus(start, lanes, c))
        return context.get_dummy_value()

    return signature, generate


@vector_code
def decide(
    context: Any,
    inner: Any,
    outer: Any,
    channels: Any,
    identity_bias: Any,
    margin: Any,
    logits: Any,
    best: Any,
    second: Any,
    state: Any,
    start: Any,
) -> Any:
    """The WIDTH cells from `start` after the 1x1 layers; non-zero if any is within the margin.

    channels [4, lanes] -> 16 hidden units, ReLU -> logits [n, lanes], best and second [lanes], and
    the new state [lanes], the argmax (lowest index of a tie). inner [64] and outer [16 n] are the
    weights, identity_bias is added to the logit of the old state. Sums run over inputs in order.
    """
    signature = types.int64(
        inner, outer, channels, identity_bias, margin, logits, best, second, state, start
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def array(k: int) -> Any:
            return context.make_array(signature.args[k])(context, builder, arguments[k])

        def index(value: int) -> Any:
            return ir.Constant(INDEX, value)

        def weighted(weights: Any, first: Any, inputs: list[Any]) -> Any:
            total = builder.fmul(_scalar(builder, weights, first), inputs[0])
            for k in range(1, len(inputs)):
                weight = _scalar(builder, weights, builder.add(first, index(k)))
                total = builder.fadd(total, builder.fmul(weight, inputs[k]))
            return total

        def larger(a: Any, b: Any) -> tuple[Any, Any]:
            above = builder.fcmp_ordered(">", a, b)
            return above, builder.select(above, a, b)

        inner, outer, channels, logits = array(0).data, array(1).data, array(2), array(5)
        identity_bias, margin, start = arguments[3], arguments[4], arguments[9]
        best, second, state = array(6).data, array(7).data, array(8).data
        floats, ints = _vector(FLOAT, WIDTH), _vector(INT, WIDTH)
        lanes = builder.extract_value(channels.shape, 1)
        inputs = [
            _load(builder, channels.data, builder.add(builder.mul(lanes, index(c)), start), floats)
            for c in range(4)
        ]
        # A loop keeps LLVM from doing all products first, which overflows any set of registers.
        units = cgutils.alloca_once(builder, ir.ArrayType(floats, 16))
        with cgutils.for_range(builder, index(16)) as loop:
            unit = weighted(inner, builder.mul(loop.index, index(4)), inputs)
            _, unit = larger(unit, ir.Constant(floats, [0.0] * WIDTH))
            builder.store(unit, builder.gep(units, [index(0), loop.index]))
        hidden = [builder.load(builder.gep(units, [index(0), index(k)])) for k in range(16)]
        old = _load(builder, state, start, ints)
        bias = _splat(builder, identity_bias)
        lowest = ir.Constant(floats, [LOWEST] * WIDTH)
        top = cgutils.alloca_once_value(builder, lowest)
        runner_up = cgutils.alloca_once_value(builder, lowest)
        argmax = cgutils.alloca_once_value(builder, ir.Constant(ints, [0] * WIDTH))
        with cgutils.for_range(builder, builder.extract_value(logits.shape, 0)) as loop:
            value = weighted(outer, builder.mul(loop.index, index(16)), hidden)
            state_j = _splat(builder, builder.trunc(loop.index, INT))
            stays = builder.icmp_signed("==", state_j, old)
            value = builder.select(stays, builder.fadd(value, bias), value)
            _store(builder, value, logits.data, builder.add(builder.mul(lanes, loop.index), start))
            above, higher = larger(value, builder.load(top))
            lesser = builder.select(above, builder.load(top), value)
            builder.store(larger(lesser, builder.load(runner_up))[1], runner_up)
            builder.store(higher, top)
            builder.store(builder.select(above, state_j, builder.load(argmax)), argmax)
        top, runner_up = builder.load(top), builder.load(runner_up)
        _store(builder, top, best, start)
        _store(builder, runner_up, second, start)
        _store(builder, builder.load(argmax), state, start)
        gap = builder.fsub(top, runner_up)
        close = builder.fcmp_ordered("<", gap, _splat(builder, margin))
        return builder.zext(builder.bitcast(close, ir.IntType(WIDTH)), INDEX)

    return signature, generate


@compiled
def encode(
    state: State, cells: int, width: int, alphabet: int, pairs: Codes, rights: Codes
) -> None:
    """From state [cells]: where the taps of (left, centre) and of the right neighbour stand.

    Both [cells + 2 * width] carry a wrapped row above and below, so that all three rows of the
    stencil are one contiguous run of cells each, shifted by a row.
    """
    scale = 4 * alphabet
    pairs_of, rights_of = pairs[width:], rights[width:]
    for i in range(1, cells):
        pairs_of[i] = np.uint16(state[i - 1] * scale + state[i] * 4)
    for i in range(cells - 1):
        rights_of[i] = np.uint16(state[i + 1] * 4)
    for start in range(0, cells, width):
        last = start + width - 1
        pairs_of[start] = np.uint16(state[last] * scale + state[start] * 4)
        rights_of[last] = np.uint16(state[start] * 4)
    for x in range(width):
        pairs[x], rights[x] = pairs[cells + x], rights[cells + x]
        pairs[cells + width + x], rights[cells + width + x] = pairs[width + x], rights[width + x]


@compiled
def tabulate(rule: Floats, alphabet: int, left: Floats, right: Floats) -> None:
    """Fill the look-up tables of `convolve` from a rule: left [3, 4 n n], right [3, 4 n]."""
    for c in range(4):
        for dy in range(3):
            taps = rule[(9 * c + 3 * dy) * alphabet :]
            for b in range(alphabet):
                right[dy, 4 * b + c] = taps[2 * alphabet + b]
                for a in range(alphabet):
                    left[dy, 4 * (a * alphabet + b) + c] = taps[a] + taps[alphabet + b]


@compiled
def pick(weights: NDArray[np.float64], total: float, u: float, otherwise: int) -> int:
    """Index whose share of the total, in order, holds u: inverse of the cumulative sum."""
    target = u * total
    cumulative = 0.0
    for j in range(weights.shape[0]):
        cumulative += weights[j]
        if target < cumulative:
            return j
    return otherwise  # rounding can leave the target at the very end


@compiled
def roll_out(
    rules: Floats,
    grids: Cells,
    height: int,
    key: np.uint64,
    streams: Streams,
    temperature: float,
    margin: np.float32,
    identity_bias: np.float32,
    burn_in: int,
    stride: int,
    frames: Cells,
) -> None:
    """Fill frames [N, F, cells]: states of rule i [N, 52 n + 64] from grid i [N, cells].

    Frame f is the state after burn_in + f * stride steps. Where the best two logits are closer
    than the margin the next state is drawn from softmax(logits / temperature), elsewhere it is
    the argmax: the margin is wide enough for the difference to be one in 1e10.

    A state that comes back after steps without a draw will come back for ever: whole periods are
    skipped, and further frames copied (Brent's search, with one state kept).
    """
    num_cells, alphabet = grids.shape[1], (rules.shape[1] - 64) // 52
    num_frames, width = frames.shape[1], num_cells // height
    lanes = (num_cells + WIDTH - 1) // WIDTH * WIDTH
    pairs, rights = np.zeros(lanes + 2 * width, np.uint16), np.zeros(lanes + 2 * width, np.uint16)
    left = np.empty((3, 4 * alphabet * alphabet), np.float32)
    right = np.empty((3, 4 * alphabet), np.float32)
    channels = np.empty((4, lanes), np.float32)
    logits = np.empty((alphabet, lanes), np.float32)
    best, second = np.empty(lanes, np.float32), np.empty(lanes, np.float32)
    state, kept = np.zeros(lanes, np.int32), np.zeros(num_cells, np.int32)
    weights = np.empty(alphabet, np.float64)
    for r in range(rules.shape[0]):
        rule = rules[r]
        inner, outer = rule[36 * alphabet : 36 * alphabet + 64], rule[36 * alphabet + 64 :]
        tabulate(rule, alphabet, left, right)
        for i in range(num_cells):
            state[i] = np.int32(grids[r, i])
            kept[i] = state[i]
        step, frame, next_frame = 0, 0, burn_in
        age, limit = 0, 1  # of the kept state, in steps, and when a later one takes its place
        period, first_copy = 0, num_frames
        while True:
            if step == next_frame:
                out = frames[r, frame]
                for i in range(num_cells):
                    out[i] = np.uint8(state[i])
                frame += 1
                next_frame += stride
                if frame >= first_copy:
                    break
            encode(state, num_cells, width, alphabet, pairs, rights)
            for i in range(0, lanes, 4):
                convolve(left, right, pairs, rights, width, channels, i)
            close = 0
            for i in range(0, lanes, WIDTH):
                close |= decide(
                    inner,
                    outer,
                    channels,
                    identity_bias,
                    margin,
                    logits,
                    best,
                    second,
                    state,
                    i,
                )
            drawn = False
            if close != 0:  # perhaps of the padding
                row = STEP_ROW + np.uint64(step)
                for i in range(num_cells):
                    if best[i] - second[i] < margin:
                        drawn = True
                        total, top = 0.0, float(best[i])
                        for j in range(alphabet):
                            weights[j] = exp((float(logits[j, i]) - top) / temperature)
                            total += weights[j]
                        u = uniform(key, streams[r], row, np.uint64(i))
                        state[i] = np.int32(pick(weights, total, u, state[i]))
            step += 1
            if period > 0:
                continue
            age += 1
            same = not drawn
            i = 0
            while same and i < num_cells:
                same = state[i] == kept[i]
                i += 1
            if same:
                period = age
                step += (next_frame - step) // period * period
                first_copy = min(frame + period, num_frames)
            elif drawn or age == limit:
                kept[:] = state[:num_cells]
                limit = 1 if drawn else 2 * limit
                age = 0
        for f in range(first_copy, num_frames):
            frames[r, f] = frames[r, f - period]
