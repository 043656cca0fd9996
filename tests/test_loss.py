"""The chunked loss against torch's own on materialised logits."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from ncamix.training.loss import MASKED, ActiveIds, linear_cross_entropy, usual_chunk

pytestmark = pytest.mark.usefixtures("one_thread")

RANGES = [[(0, 40)], [(5, 31)], [(0, 7), (9, 12), (30, 40)], [(3, 4), (20, 39)]]


def problem(
    ranges: Sequence[tuple[int, int]], dtype: torch.dtype = torch.float64, masked: float = 0.3
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden [13, 8], weight [40, 8], targets [13] among the ranges, active ids [A]."""
    torch.manual_seed(0)
    hidden = torch.randn(13, 8, dtype=dtype, requires_grad=True)
    weight = torch.randn(40, 8, dtype=dtype, requires_grad=True)
    ids = torch.cat([torch.arange(*span) for span in ranges])
    targets = ids[torch.randint(len(ids), (13,))]
    targets[torch.rand(13) < masked] = MASKED
    return hidden, weight, targets, ids


def reference(hidden: Tensor, weight: Tensor, targets: Tensor, ids: Tensor) -> Tensor:
    """Losses [N] from full logits."""
    lookup = torch.full((weight.shape[0],), -1)
    lookup[ids] = torch.arange(len(ids))
    local = torch.where(targets == MASKED, MASKED, lookup[targets.clamp(min=0)])
    return cross_entropy(hidden @ weight[ids].T, local, reduction="none")


@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("chunk", [1, 4, 13, 100, None])
def test_equals_torch(ranges: list[tuple[int, int]], dtype: torch.dtype, chunk: int | None) -> None:
    hidden, weight, targets, ids = problem(ranges, dtype)
    total, losses = linear_cross_entropy(
        hidden, weight, targets, ActiveIds(ranges), scale=0.37, chunk=chunk
    )
    expected = reference(hidden, weight, targets, ids)
    assert total.dtype == dtype and total.shape == ()
    assert losses.dtype == torch.float32 and not losses.requires_grad
    torch.testing.assert_close(total, 0.37 * expected.sum())
    torch.testing.assert_close(losses, expected.detach().float())
    assert (losses[targets == MASKED] == 0).all()

    # A factor from above, as a loss scaler puts there.
    found = torch.autograd.grad(3 * total, [hidden, weight])
    wanted = torch.autograd.grad(3 * 0.37 * expected.sum(), [hidden, weight])
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)
    inactive = torch.ones(40, dtype=torch.bool)
    inactive[ids] = False
    assert (found[1][inactive] == 0).all()


@pytest.mark.parametrize("ranges", RANGES)
def test_gradcheck(ranges: list[tuple[int, int]]) -> None:
    hidden, weight, targets, _ = problem(ranges)
    active = ActiveIds(ranges)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, active, scale=0.5, chunk=4)[0],
        (hidden, weight),
        fast_mode=True,
    )


def test_tied_weight_sums_both_uses() -> None:
    _, weight, targets, ids = problem(RANGES[1])
    inputs = torch.randint(40, (13,))
    total, _ = linear_cross_entropy(weight[inputs].tanh(), weight, targets, ActiveIds(RANGES[1]))
    expected = reference(weight[inputs].tanh(), weight, targets, ids).sum()
    torch.testing.assert_close(
        torch.autograd.grad(total, weight), torch.autograd.grad(expected, weight)
    )


def test_scale_may_be_a_tensor_and_backward_may_run_twice() -> None:
    hidden, weight, targets, _ = problem(RANGES[2])
    total, losses = linear_cross_entropy(
        hidden, weight, targets, ActiveIds(RANGES[2]), scale=torch.tensor(0.25)
    )
    torch.testing.assert_close(total.float(), 0.25 * losses.sum())
    first = torch.autograd.grad(total, [hidden, weight], retain_graph=True)
    second = torch.autograd.grad(total, [hidden, weight])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_all_masked_is_zero() -> None:
    hidden, weight, targets, _ = problem(RANGES[2], masked=1.1)
    total, losses = linear_cross_entropy(hidden, weight, targets, ActiveIds(RANGES[2]))
    total.backward()
    assert total == 0 and (losses == 0).all()
    assert hidden.grad is not None and (hidden.grad == 0).all()
    assert weight.grad is not None and (weight.grad == 0).all()


def test_losses_alone_without_gradients() -> None:
    hidden, weight, targets, _ = problem(RANGES[2])
    active = ActiveIds(RANGES[2])
    _, wanted = linear_cross_entropy(hidden, weight, targets, active)
    with torch.no_grad():
        total, losses = linear_cross_entropy(hidden, weight, targets, active)
    assert not total.requires_grad and torch.equal(losses, wanted)


@pytest.mark.parametrize("frozen", [0, 1])
def test_one_frozen_input(frozen: int) -> None:
    hidden, weight, targets, ids = problem(RANGES[2])
    inputs = [hidden, weight]
    inputs[frozen].requires_grad_(False)
    total, _ = linear_cross_entropy(hidden, weight, targets, ActiveIds(RANGES[2]))
    other = inputs[1 - frozen]
    wanted = torch.autograd.grad(reference(hidden, weight, targets, ids).sum(), other)
    torch.testing.assert_close(torch.autograd.grad(total, other), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    hidden, weight, targets, ids = problem(RANGES[2], torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        total, losses = linear_cross_entropy(hidden, weight, targets, ActiveIds(RANGES[2]))
        # Half-precision hidden states beside float32 weights, as layers under autocast give them.
        half, _ = linear_cross_entropy(hidden.to(dtype), weight, targets, ActiveIds(RANGES[2]))
    expected = reference(hidden, weight, targets, ids)
    assert total.dtype == torch.float32 and half.dtype == torch.float32
    torch.testing.assert_close(losses, expected, atol=0.05, rtol=0.02)
    for scalar in (total, half):
        found = torch.autograd.grad(scalar, [hidden, weight])
        wanted = torch.autograd.grad(expected.sum(), [hidden, weight], retain_graph=True)
        for a, b in zip(found, wanted, strict=True):
            assert a.dtype == torch.float32 and a.isfinite().all()
            torch.testing.assert_close(a, b, atol=0.05, rtol=0.05)


def test_half_precision_parameters_keep_their_type() -> None:
    hidden, weight, targets, _ = problem(RANGES[2], torch.bfloat16)
    total, _ = linear_cross_entropy(hidden, weight, targets, ActiveIds(RANGES[2]))
    total.backward()
    assert total.dtype == torch.float32
    assert hidden.grad is not None and hidden.grad.dtype == torch.bfloat16
    assert weight.grad is not None and weight.grad.dtype == torch.bfloat16


def test_small_scale_survives_half_precision() -> None:
    hidden, weight, targets, _ = problem(RANGES[0], torch.float16)
    total, _ = linear_cross_entropy(hidden, weight, targets, ActiveIds(RANGES[0]), scale=1e-8)
    lifted = torch.autograd.grad(total * 1e8, hidden)[0]
    plain, _ = linear_cross_entropy(hidden, weight, targets, ActiveIds(RANGES[0]))
    torch.testing.assert_close(lifted, torch.autograd.grad(plain, hidden)[0])


@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize("chunk", [4, None])
def test_every_term_against_full_logits(ranges: list[tuple[int, int]], chunk: int | None) -> None:
    """z-loss, weights, bias and cap: the sum and all gradients; recorded losses stay plain."""
    hidden, weight, targets, ids = problem(ranges)
    bias = torch.randn(40, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(13, dtype=torch.float64) * 3
    weights[2] = 0
    lookup = torch.full((40,), -1)
    lookup[ids] = torch.arange(len(ids))
    kept = targets != MASKED
    for cap, z_loss in ((None, 0.3), (2.0, 0.0), (1.5, 0.7)):
        logits = (hidden @ weight.T + bias)[:, ids]
        logits = logits if cap is None else cap * torch.tanh(logits / cap)
        local = torch.where(kept, lookup[targets.clamp(min=0)], MASKED)
        plain = cross_entropy(logits, local, reduction="none")
        penalty = z_loss * torch.logsumexp(logits, 1)[kept] ** 2
        wanted = 0.37 * (weights[kept] * (plain[kept] + penalty)).sum()
        total, losses = linear_cross_entropy(
            hidden,
            weight,
            targets,
            ActiveIds(ranges),
            0.37,
            chunk,
            bias=bias,
            weights=weights,
            z_loss=z_loss,
            cap=cap,
        )
        torch.testing.assert_close(total, wanted)
        torch.testing.assert_close(losses, plain.detach().float())
        inputs = [hidden, weight, bias]
        for a, b in zip(
            torch.autograd.grad(total, inputs), torch.autograd.grad(wanted, inputs), strict=True
        ):
            torch.testing.assert_close(a, b)
        with torch.no_grad():
            alone, same = linear_cross_entropy(
                hidden, weight, targets, ActiveIds(ranges), bias=bias, z_loss=z_loss, cap=cap
            )
        assert torch.equal(same, losses) and not alone.requires_grad


def test_a_weight_of_one_and_no_z_loss_change_no_bit() -> None:
    hidden, weight, targets, _ = problem(RANGES[2], torch.float32)
    active = ActiveIds(RANGES[2])
    plain, _ = linear_cross_entropy(hidden, weight, targets, active)
    ones, _ = linear_cross_entropy(hidden, weight, targets, active, weights=torch.ones(13))
    found = torch.autograd.grad(ones, [hidden, weight])
    assert torch.equal(plain, ones)
    for a, b in zip(found, torch.autograd.grad(plain, [hidden, weight]), strict=True):
        assert torch.equal(a, b)


def test_z_loss_under_autocast() -> None:
    """The sum and its gradient have float32 statistics, whatever type the products run in."""
    hidden, weight, targets, _ = problem(RANGES[2], torch.float32)
    terms: dict[str, Any] = {"z_loss": 0.3, "bias": torch.zeros(40, requires_grad=True)}
    exact, _ = linear_cross_entropy(hidden, weight, targets, ActiveIds(RANGES[2]), **terms)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, losses = linear_cross_entropy(
            hidden.bfloat16(), weight, targets, ActiveIds(RANGES[2]), **terms
        )
    assert total.dtype == torch.float32 and losses.dtype == torch.float32
    torch.testing.assert_close(total, exact, atol=0.05, rtol=0.02)
    inputs = [hidden, weight, terms["bias"]]
    for a, b in zip(
        torch.autograd.grad(total, inputs), torch.autograd.grad(exact, inputs), strict=True
    ):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=0.05, rtol=0.05)


def test_extreme_logits_stay_finite() -> None:
    hidden, weight, targets, ids = problem(RANGES[0], torch.float32)
    total, losses = linear_cross_entropy(hidden * 1e4, weight, targets, ActiveIds(RANGES[0]))
    total.backward()
    torch.testing.assert_close(losses, reference(hidden * 1e4, weight, targets, ids).detach())
    assert weight.grad is not None and weight.grad.isfinite().all()


def test_target_outside_is_named() -> None:
    hidden, weight, targets, _ = problem(RANGES[2], masked=0)
    targets[4] = 29
    with pytest.raises(ValueError, match=r"target id 29 .*active: 0 to 6, 9 to 11, 30 to 39"):
        linear_cross_entropy(hidden, weight, targets, ActiveIds(RANGES[2]))
    targets[4] = -1
    with pytest.raises(ValueError, match="target id -1"):
        linear_cross_entropy(hidden, weight, targets, ActiveIds([(0, 40)]))


def test_shapes_that_do_not_fit() -> None:
    hidden, weight, targets, _ = problem(RANGES[0])
    active = ActiveIds(RANGES[0])
    with pytest.raises(ValueError, match="must be"):
        linear_cross_entropy(hidden[:, :3], weight, targets, active)
    with pytest.raises(ValueError, match="must be"):
        linear_cross_entropy(hidden, weight, targets[:3], active)
    with pytest.raises(ValueError, match="weights"):
        linear_cross_entropy(hidden, weight, targets, active, weights=torch.ones(3))
    with pytest.raises(ValueError, match="bias"):
        linear_cross_entropy(hidden, weight, targets, active, bias=torch.ones(3))
    with pytest.raises(ValueError, match="chunk"):
        linear_cross_entropy(hidden, weight, targets, active, chunk=0)
    with pytest.raises(ValueError, match="40 rows"):
        linear_cross_entropy(hidden, weight, targets, ActiveIds([(0, 41)]))


@pytest.mark.parametrize(
    "ranges", [[], [(0, 0)], [(3, 2)], [(-1, 4)], [(0, 5), (4, 9)], [(5, 9), (0, 2)]]
)
def test_bad_ranges(ranges: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="range"):
        ActiveIds(ranges)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=12).map(lambda xs: xs[: len(xs) // 2 * 2]))
def test_local_ids(steps: list[int]) -> None:
    bounds = [sum(steps[: i + 1]) for i in range(len(steps))]
    active = ActiveIds(list(zip(bounds[::2], bounds[1::2], strict=True)))
    ids = torch.cat([torch.arange(*span) for span in active.ranges])
    assert len(active) == len(ids)
    assert torch.equal(active.local(ids), torch.arange(len(ids)))
    assert torch.equal(active.local(ids.flip(0)[None]), torch.arange(len(ids)).flip(0)[None])
    table = torch.arange(100.0)[:, None] if bounds[-1] <= 100 else torch.arange(200.0)[:, None]
    assert torch.equal(active.rows(table)[:, 0], ids.float())


def test_active_ids_are_a_value() -> None:
    joined = ActiveIds([(2, 4), (4, 9)])
    assert joined == ActiveIds([(2, 9)]) and hash(joined) == hash(ActiveIds([(2, 9)]))
    assert pickle.loads(pickle.dumps(joined)) == joined
    weight = torch.zeros(12, 3)
    assert joined.rows(weight).data_ptr() == weight[2].data_ptr(), "one range is not copied"
    with pytest.raises(AttributeError):
        joined.count = 3  # type: ignore[misc]


def test_half_precision_holds_the_gradient_of_a_batch_of_one_id() -> None:
    """Its numbers end at 65,504, whatever a loss scaler does: no chunk may sum up to more."""
    hidden, targets = torch.full((2048, 2), 100.0), torch.zeros(2048, dtype=torch.int64)
    weight = torch.zeros(3, 2, requires_grad=True)
    every = ActiveIds([(0, 3)])
    for chunk in (usual_chunk("cuda", torch.float16), usual_chunk("cpu", torch.float16)):
        with torch.autocast("cpu", dtype=torch.float16):
            loss, _ = linear_cross_entropy(hidden, weight, targets, every, chunk=chunk)
        (gradient,) = torch.autograd.grad(loss, weight)
        torch.testing.assert_close(
            gradient[:, 0], torch.tensor([-2.0, 1.0, 1.0]) / 3 * 204_800, rtol=1e-3, atol=0
        )
    assert usual_chunk("cuda", torch.bfloat16) == usual_chunk("cuda", torch.float32) > chunk
