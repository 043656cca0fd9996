"""Next-token loss of a linear output head, without ever holding the full logits.

    hidden states [N, D] + head rows [A, D] of the active ids
      -> chunk by chunk: logits [chunk, A] -> log-softmax -> loss and both gradients
      -> scalar for the optimizer, per-position losses for the records

The gradients are formed in the forward pass, while a chunk's logits exist: three matrix products a
chunk, nothing recomputed, memory of one chunk. Losses are in nats. The softmax runs over the
active ids only, so rows of other ids receive a gradient of exactly zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ncamix.sources.base import MASKED

# Positions per chunk. Training on two cores is about equally fast from 64 to 512 and slower above.
# Accelerators get larger products, a size that has not been measured.
CPU_CHUNK = 256
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


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    active: ActiveIds,
    scale: Tensor | float = 1.0,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of `hidden @ weight.T` over the active ids: (scalar, losses [N]).

    `hidden` is [N, D] and `weight` [V, D], floating; `targets` int64 [N], global ids, MASKED where
    there is no loss. The scalar is `scale` times the sum of the unmasked losses in nats, float32
    (float64 for float64 inputs), differentiable in `hidden` and `weight` and not in `scale`, which
    is a number or a 0-d tensor. Losses are float32, detached, 0 where masked. `chunk` is the
    number of positions whose logits exist at once; it changes speed, memory and rounding only.

    Products run in the autocast type where autocast is on, softmax statistics and the sum of the
    weight's gradient in float32 at least. Without grad mode, or if neither input needs a gradient,
    only losses are computed.

    Raises ValueError if shapes do not fit together, or an unmasked target is not an active id.
    """
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(
            f"hidden {list(hidden.shape)} and weight {list(weight.shape)} must be [N, D] and [V, D]"
        )
    if targets.shape != hidden.shape[:1]:
        raise ValueError(f"targets {list(targets.shape)} must be [{hidden.shape[0]}]")
    if chunk is None:
        chunk = CPU_CHUNK if hidden.device.type == "cpu" else ACCELERATOR_CHUNK
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    rows = active.rows(weight)
    kept = (targets != MASKED).nonzero()[:, 0]
    local = active.local(targets[kept])
    if torch.is_grad_enabled() and (hidden.requires_grad or rows.requires_grad):
        return _LinearCrossEntropy.apply(hidden, rows, kept, local, scale, chunk)
    scalar, losses, _, _ = _run(hidden, rows, kept, local, chunk, False, False)
    return scalar * scale, losses


class _LinearCrossEntropy(torch.autograd.Function):
    """Hands the gradients found by the forward pass to autograd, times what comes from above."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        rows: Tensor,
        kept: Tensor,
        local: Tensor,
        scale: Tensor | float,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        total, losses, d_hidden, d_rows = _run(
            hidden, rows, kept, local, chunk, ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        )
        ctx.save_for_backward(d_hidden, d_rows)
        ctx.scale = scale
        ctx.mark_non_differentiable(losses)
        return total * scale, losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor | None, ...]:
        # Gradients are stored unscaled: 1 / (targets of a batch) would underflow in half precision
        # before a loss scaler, part of the factor here, can lift it.
        factor = above[0] * ctx.scale
        d_hidden, d_rows = (
            None if stored is None else (stored.to(factor.dtype) * factor).to(stored.dtype)
            for stored in ctx.saved_tensors
        )
        return d_hidden, d_rows, None, None, None, None


def _run(
    hidden: Tensor,
    rows: Tensor,
    kept: Tensor,
    local: Tensor,
    chunk: int,
    needs_hidden: bool,
    needs_rows: bool,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Sum of losses (0-d), losses float32 [N], unscaled gradients [N, D] and [A, D] where needed.

    `kept` int64 [K] indexes the unmasked positions, `local` int64 [K] are their targets.
    """
    device, (num_positions, width) = hidden.device.type, hidden.shape
    dtype = hidden.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    exact = torch.promote_types(torch.promote_types(hidden.dtype, rows.dtype), torch.float32)
    whole = len(kept) == num_positions
    # The products below choose their types themselves, on whatever device autocast is on for.
    with torch.no_grad(), torch.autocast(device, enabled=False):
        head = rows.to(dtype)
        found = hidden.new_empty(len(kept), dtype=exact)
        d_hidden = hidden.new_zeros(num_positions, width) if needs_hidden else None
        d_rows = rows.new_zeros(rows.shape, dtype=exact) if needs_rows else None
        for first in range(0, len(kept), chunk):
            part = slice(first, first + chunk)
            positions = part if whole else kept[part]
            inputs = hidden[positions].to(dtype)
            log_probs = torch.log_softmax(inputs @ head.T, dim=1, dtype=exact)
            column = local[part, None]
            torch.neg(log_probs.gather(1, column)[:, 0], out=found[part])
            if not (needs_hidden or needs_rows):
                continue
            # Probabilities minus one-hot targets: the gradient of the logits, in place.
            d_logits = log_probs.exp_()
            d_logits.scatter_add_(1, column, d_logits.new_full((1, 1), -1.0).expand_as(column))
            d_logits = d_logits.to(dtype)
            if d_hidden is not None:
                d_hidden[positions] = (d_logits @ head).to(d_hidden.dtype)
            if d_rows is not None and dtype == exact:
                d_rows.addmm_(d_logits.T, inputs)
            elif d_rows is not None:
                d_rows.add_(d_logits.T @ inputs)
        losses = hidden.new_zeros(num_positions, dtype=torch.float32)
        losses[kept] = found.to(torch.float32)
        return found.sum(), losses, d_hidden, d_rows
