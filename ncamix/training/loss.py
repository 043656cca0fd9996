"""Next-token loss of a linear output head, without ever holding the full logits.

    hidden states [N, D] + head rows [A, D] of the active ids
      -> chunk by chunk: logits [chunk, A] -> log-softmax -> loss and all gradients
      -> scalar for the optimizer, per-position losses for the records

The gradients are formed in the forward pass, while a chunk's logits exist: three matrix products a
chunk, nothing recomputed, memory of one chunk. Losses are in nats. The softmax runs over the
active ids only, so rows of other ids receive a gradient of exactly zero. Masked positions, weights
and the z-loss act on the gradient of a chunk's logits where it stands: no copy of them is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ncamix.sources.base import MASKED

# Positions per chunk. Training on two cores is about equally fast from 64 to 512 and slower above.
# Accelerators get larger products, a size that has not been measured; but not in half precision,
# whose numbers end at 65,504: a row of the head has the sum over a chunk as its gradient, and
# automata can be so uniform that all targets of it are one id.
CPU_CHUNK = HALF_CHUNK = 256
ACCELERATOR_CHUNK = 2048


class ActiveIds:
    """The token ids that a softmax runs over: disjoint, sorted, half-open ranges `(first, last)`.

    Ranges that touch are joined. Local ids number the active ids from 0 in ascending order.
    Raises ValueError if there is no range, or one is empty, negative, out of order or overlaps.
    """

    __slots__ = ("_tables", "count", "ranges")

    ranges: tuple[tuple[int, int], ...]
    count: int
    _tables: dict[torch.device, tuple[Tensor, Tensor]]

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        joined: list[tuple[int, int]] = []
        end = 0
        for first, last in ranges:
            if first < end or last <= first:
                raise ValueError(
                    f"active ids need disjoint, ascending, non-empty ranges, got {list(ranges)}"
                )
            if joined and first == end:
                joined[-1] = (joined[-1][0], last)
            else:
                joined.append((first, last))
            end = last
        if not joined:
            raise ValueError("active ids need at least one range of ids")
        object.__setattr__(self, "ranges", tuple(joined))
        object.__setattr__(self, "count", sum(last - first for first, last in joined))
        object.__setattr__(self, "_tables", {})

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("ActiveIds cannot be changed")

    def __len__(self) -> int:
        return self.count

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActiveIds) and self.ranges == other.ranges

    def __hash__(self) -> int:
        return hash(self.ranges)

    def __repr__(self) -> str:
        return f"ActiveIds({list(self.ranges)})"

    def __reduce__(self) -> tuple[type[ActiveIds], tuple[list[tuple[int, int]]]]:
        return ActiveIds, (list(self.ranges),)

    def rows(self, weight: Tensor) -> Tensor:
        """The active rows of `weight` [V, D], differentiable: [count, D], a view for one range.

        Raises ValueError if `weight` has fewer rows than the last active id needs.
        """
        end = self.ranges[-1][1]
        if end > weight.shape[0]:
            raise ValueError(
                f"active ids reach {end - 1}, but the output head has {weight.shape[0]} rows"
            )
        if self.ranges == ((0, weight.shape[0]),):
            return weight
        slices = [weight[first:last] for first, last in self.ranges]
        return slices[0] if len(slices) == 1 else torch.cat(slices)

    def local(self, ids: Tensor) -> Tensor:
        """Local ids of global `ids`: int64 of any shape to int64 of that shape, same device.

        Raises ValueError, naming the first offender, if an id is not active.
        """
        if len(self.ranges) == 1:
            first, last = self.ranges[0]
            inside, local = (ids >= first) & (ids < last), ids - first
        else:
            bounds, shifts = self._table(ids.device)
            # Odd slots lie inside a range: bounds are first, last, first, last, ...
            slot = torch.bucketize(ids, bounds, right=True)
            inside, local = slot % 2 == 1, ids - shifts[slot]
        if not bool(inside.all()):
            wrong = int(ids[~inside].flatten()[0])
            spans = ", ".join(f"{first} to {last - 1}" for first, last in self.ranges)
            raise ValueError(
                f"target id {wrong} is not an active id (active: {spans}); "
                "the stage's sources and its softmax disagree"
            )
        return local

    def _table(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._tables:
            bounds = [bound for span in self.ranges for bound in span]
            shifts, seen = [0], 0
            for first, last in self.ranges:
                shifts += [first - seen, 0]
                seen += last - first
            self._tables[device] = (
                torch.tensor(bounds, device=device),
                torch.tensor(shifts, device=device),
            )
        return self._tables[device]


@dataclass(frozen=True)
class Terms:
    """What else the loss is made of, beside hidden states and rows of the head.

    scale: number or 0-d tensor. z_loss: coefficient. cap: of the logits, None for none. chunk: the
    positions whose logits exist at once.
    """

    scale: Tensor | float
    z_loss: float
    cap: float | None
    chunk: int


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    active: ActiveIds,
    scale: Tensor | float = 1.0,
    chunk: int | None = None,
    *,
    bias: Tensor | None = None,
    weights: Tensor | None = None,
    z_loss: float = 0.0,
    cap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of `hidden @ weight.T` over the active ids: (scalar, losses [N]).

    `hidden` is [N, D], `weight` [V, D] and `bias` [V], floating; `targets` int64 [N], global ids,
    MASKED where there is no loss; `weights` float [N]. With a `cap`, logits x become
    cap * tanh(x / cap), as Gemma's do. The scalar is

        scale * sum over unmasked i of weights[i] * (loss[i] + z_loss * logsumexp(logits[i]) ** 2)

    in nats, float32 (float64 for float64 inputs), differentiable in `hidden`, `weight` and `bias`
    and in nothing else; `scale` is a number or a 0-d tensor. The z-loss keeps the logarithm of the
    softmax's denominator, over the active ids, near zero, and with it logits from drifting: 1e-4 in
    PaLM (Chowdhery et al. 2022, section 5), after Mesh TensorFlow; 1e-3 on routers in ST-MoE (Zoph
    et al. 2022). Losses are plain cross-entropy, without weights and z-loss: float32, detached, 0
    where masked. `chunk` is the number of positions whose logits exist at once; it changes speed,
    memory and rounding only.

    Products run in the autocast type where autocast is on, softmax statistics and the sum of the
    weight's gradient in float32 at least. Without grad mode, or if no input needs a gradient, only
    losses are computed.

    Raises ValueError if shapes do not fit together, or an unmasked target is not an active id.
    """
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden {list(hidden.shape)} and weight {list(weight.shape)} must be [N, D] and [V, D]"
        )
    for name, given in (("targets", targets), ("weights", weights)):
        if given is not None and given.shape != hidden.shape[:1]:
            raise ValueError(f"{name} {list(given.shape)} must be [{hidden.shape[0]}]")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias {list(bias.shape)} must be [{weight.shape[0]}]")
    if chunk is None:
        chunk = usual_chunk(hidden.device.type, _product_type(hidden))
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    rows = active.rows(weight)
    offsets = None if bias is None else active.rows(bias)
    kept = (targets != MASKED).nonzero()[:, 0]
    local = active.local(targets[kept])
    weights = None if weights is None else weights[kept]
    terms = Terms(scale, z_loss, cap, chunk)
    inputs = [each for each in (hidden, rows, offsets) if each is not None]
    if torch.is_grad_enabled() and any(each.requires_grad for each in inputs):
        return _LinearCrossEntropy.apply(hidden, rows, offsets, kept, local, weights, terms)
    none = (False, False, False)
    scalar, losses, _ = _run(hidden, rows, offsets, kept, local, weights, terms, none)
    return scalar * scale, losses


def usual_chunk(device: str, dtype: torch.dtype) -> int:
    """Positions whose logits exist at once, by default, where products have that type."""
    if device == "cpu":
        return CPU_CHUNK
    return HALF_CHUNK if dtype == torch.float16 else ACCELERATOR_CHUNK


def _product_type(hidden: Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


class _LinearCrossEntropy(torch.autograd.Function):
    """Hands the gradients found by the forward pass to autograd, times what comes from above."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        rows: Tensor,
        offsets: Tensor | None,
        kept: Tensor,
        local: Tensor,
        weights: Tensor | None,
        terms: Terms,
    ) -> tuple[Tensor, Tensor]:
        needs = ctx.needs_input_grad[:3]
        total, losses, found = _run(hidden, rows, offsets, kept, local, weights, terms, needs)
        ctx.save_for_backward(*found)
        ctx.scale = terms.scale
        ctx.mark_non_differentiable(losses)
        return total * terms.scale, losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        # Gradients are stored unscaled: 1 / (targets of a batch) would underflow in half precision
        # before a loss scaler, part of the factor here, can lift it.
        factor = above[0] * ctx.scale
        found = (
            None if stored is None else (stored.to(factor.dtype) * factor).to(stored.dtype)
            for stored in ctx.saved_tensors
        )
        return *found, None, None, None, None


def _run(
    hidden: Tensor,
    rows: Tensor,
    offsets: Tensor | None,
    kept: Tensor,
    local: Tensor,
    weights: Tensor | None,
    terms: Terms,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """Weighed sum (0-d), losses float32 [N], unscaled gradients [N, D], [A, D], [A] where needed.

    `offsets` [A] is the bias of the head. `kept` int64 [K] indexes the unmasked positions, `local`
    int64 [K] are their targets, `weights` float [K] what their losses count.
    """
    device, (num_positions, width) = hidden.device.type, hidden.shape
    dtype = _product_type(hidden)
    exact = torch.promote_types(torch.promote_types(hidden.dtype, rows.dtype), torch.float32)
    whole = len(kept) == num_positions
    # The products below choose their types themselves, on whatever device autocast is on for.
    with torch.no_grad(), torch.autocast(device, enabled=False):
        head = rows.to(dtype)
        added = None if offsets is None else offsets.to(dtype)
        factors = None if weights is None else weights.to(exact)
        found = hidden.new_empty(len(kept), dtype=exact)
        spread = hidden.new_empty(len(kept) if terms.z_loss else 0, dtype=exact)  # logsumexp
        d_hidden = hidden.new_zeros(num_positions, width) if needs[0] else None
        d_rows = rows.new_zeros(rows.shape, dtype=exact) if needs[1] else None
        d_offsets = rows.new_zeros(len(rows), dtype=exact) if needs[2] else None
        for first in range(0, len(kept), terms.chunk):
            part = slice(first, first + terms.chunk)
            positions = part if whole else kept[part]
            inputs = hidden[positions].to(dtype)
            column = local[part, None]
            logits = inputs @ head.T if added is None else torch.addmm(added, inputs, head.T)
            if terms.cap is not None:
                logits.div_(terms.cap).tanh_().mul_(terms.cap)
            log_probs = torch.log_softmax(logits, dim=1, dtype=exact)
            torch.neg(log_probs.gather(1, column)[:, 0], out=found[part])
            if terms.z_loss:
                torch.add(logits.gather(1, column)[:, 0], found[part], out=spread[part])
            if not any(needs):
                continue
            # Probabilities minus one-hot targets: the gradient of the logits, in place.
            d_logits = log_probs.exp_()
            if terms.z_loss:
                d_logits.mul_((2 * terms.z_loss * spread[part] + 1)[:, None])
            d_logits.scatter_add_(1, column, d_logits.new_full((1, 1), -1.0).expand_as(column))
            if terms.cap is not None:
                d_logits.mul_(logits.div_(terms.cap).square_().neg_().add_(1))
            del logits
            if factors is not None:
                d_logits.mul_(factors[part, None])
            if d_offsets is not None:
                d_offsets.add_(d_logits.sum(0))
            d_logits = d_logits.to(dtype)
            if d_hidden is not None:
                d_hidden[positions] = (d_logits @ head).to(d_hidden.dtype)
            if d_rows is not None and dtype == exact:
                d_rows.addmm_(d_logits.T, inputs)
            elif d_rows is not None:
                d_rows.add_(d_logits.T @ inputs)
        losses = hidden.new_zeros(num_positions, dtype=torch.float32)
        losses[kept] = found.to(torch.float32)
        if terms.z_loss:
            found = found + terms.z_loss * spread**2
        total = found.sum() if factors is None else (found * factors).sum()
        return total, losses, (d_hidden, d_rows, d_offsets)
