"""The algebra of the equation and its guard, for any logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from diffamp.engine.amplify import amplify
from diffamp.engine.guards import UNGUARDED, Plausibility

ALPHAS = st.floats(-4, 8, width=32)


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) in nats of two log-prob tensors, written out; tokens with p = 0 contribute nothing."""
    return torch.where(p > -torch.inf, p.exp() * (p - q), 0).sum(-1)


@st.composite
def logits(draw: st.DrawFn, rows: int = 1, bound: float = 16) -> tuple[Tensor, Tensor]:
    """Before- and after-logits (rows, vocab) of 2 to 12 tokens."""
    shape = (rows, draw(st.integers(2, 12)))
    values = arrays(np.float32, shape, elements=st.floats(-bound, bound, width=32))
    return torch.from_numpy(draw(values)), torch.from_numpy(draw(values))


def law(before: Tensor, after: Tensor, alpha: float) -> Tensor:
    """Float64 log-probs, so that only the equation itself rounds."""
    return amplify(before, after, alpha).double().log_softmax(-1)


@given(logits(rows=3, bound=1e4))
def test_the_ends_are_the_two_models_exactly(pair: tuple[Tensor, Tensor]) -> None:
    before, after = pair
    assert torch.equal(amplify(before, after, 0.0), after)
    assert torch.equal(amplify(before, after, -1.0), before)
    assert torch.equal(
        amplify(before, after, torch.tensor([0.0, -1.0, 0.0])), torch.stack([after[0], before[1], after[2]])
    )


@given(logits(), ALPHAS, st.floats(-50, 50, width=32), st.floats(-50, 50, width=32))
def test_constants_added_to_either_vector_change_no_distribution(
    pair: tuple[Tensor, Tensor], alpha: float, to_before: float, to_after: float
) -> None:
    before, after = pair
    torch.testing.assert_close(
        law(before + to_before, after + to_after, alpha).exp(), law(before, after, alpha).exp(), atol=2e-3, rtol=0
    )


@given(logits(), ALPHAS)
def test_it_is_the_written_out_equation(pair: tuple[Tensor, Tensor], alpha: float) -> None:
    before, after = (x.double() for x in pair)
    expected = after + alpha * (after - before)
    torch.testing.assert_close(amplify(*pair, alpha).double(), expected, atol=1e-4, rtol=1e-6)


@given(logits(), ALPHAS, ALPHAS, st.floats(0, 1))
def test_linear_in_alpha(pair: tuple[Tensor, Tensor], one: float, other: float, share: float) -> None:
    between = amplify(*pair, share * one + (1 - share) * other)
    expected = share * amplify(*pair, one) + (1 - share) * amplify(*pair, other)
    torch.testing.assert_close(between, expected, atol=2e-4, rtol=0)


@given(logits(), logits(), ALPHAS)
def test_linear_in_the_logits(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], alpha: float) -> None:
    n = min(one[0].shape[-1], other[0].shape[-1])
    (b1, a1), (b2, a2) = ((x[:, :n] for x in pair) for pair in (one, other))
    summed = amplify(b1, a1, alpha) + amplify(b2, a2, alpha)
    torch.testing.assert_close(amplify(b1 + b2, a1 + a2, alpha), summed, atol=2e-4, rtol=0)


@given(logits(rows=4), st.lists(st.integers(-32, 64).map(lambda k: k / 8), min_size=4, max_size=4))
def test_one_alpha_per_row_is_each_row_on_its_own(pair: tuple[Tensor, Tensor], alphas: list[float]) -> None:
    before, after = pair
    one_by_one = torch.stack([amplify(b, a, alpha) for b, a, alpha in zip(before, after, alphas, strict=True)])
    torch.testing.assert_close(amplify(before, after, torch.tensor(alphas)), one_by_one, atol=1e-5, rtol=1e-6)
    positions = [x[:, None].expand(-1, 5, -1) for x in pair]  # (rows, positions, vocab)
    expected = one_by_one[:, None].expand(-1, 5, -1)
    torch.testing.assert_close(amplify(*positions, torch.tensor(alphas)), expected, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_difference_is_taken_in_float32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.randn(3, 50, generator=generator).to(dtype) for _ in range(2))
    amplified = amplify(before, after, 10.0)
    assert amplified.dtype == torch.float32
    assert torch.equal(amplified, amplify(before.float(), after.float(), 10.0))


@given(logits(bound=4), st.floats(0, 6), st.floats(0, 6), st.sampled_from([-1, 1]))
def test_divergence_from_the_after_model_grows_with_distance(
    pair: tuple[Tensor, Tensor], one: float, other: float, sign: int
) -> None:
    near, far = sorted((one, other))
    divergences = [kl_divergence(law(*pair, sign * a), law(*pair, 0)) for a in (near, far)]
    assert divergences[1] - divergences[0] >= -1e-5
    assert kl_divergence(law(*pair, 0), law(*pair, 0)) == 0


@given(logits(bound=2), st.floats(-3, 3))
def test_divergence_has_slope_alpha_times_variance(pair: tuple[Tensor, Tensor], alpha: float) -> None:
    h, p = 0.02, law(*pair, alpha).exp()
    kl = {k: kl_divergence(law(*pair, alpha + k * h), law(*pair, 0)) for k in (-2, -1, 1, 2)}
    slope = (kl[-2] - 8 * kl[-1] + 8 * kl[1] - kl[2]) / (12 * h)  # fourth-order central difference
    difference = (pair[1] - pair[0]).double()
    mean = (p * difference).sum(-1, keepdim=True)
    variance = (p * (difference - mean) ** 2).sum(-1)
    torch.testing.assert_close(slope, alpha * variance, atol=1e-3, rtol=1e-3)


def test_divergence_counts_no_token_without_probability() -> None:
    p, q = torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.25, 0.25, 0.5]]).log()
    torch.testing.assert_close(kl_divergence(p, q), torch.tensor([math.log(2)]))
    assert kl_divergence(q, p).item() == math.inf


@given(logits(rows=2), ALPHAS, st.floats(0.01, 1))
def test_plausibility_keeps_what_is_likely_after_and_touches_nothing_else(
    pair: tuple[Tensor, Tensor], alpha: float, c: float
) -> None:
    before, after = pair
    guarded, plain = Plausibility(c)(before, after, alpha), UNGUARDED(before, after, alpha)
    kept = guarded > -torch.inf
    assert kept.gather(-1, after.argmax(-1, keepdim=True)).all()  # so never empty
    assert torch.equal(guarded[kept], plain[kept])
    ratio = (after.double() - after.double().amax(-1, keepdim=True)).exp()
    clear = (ratio / c - 1).abs() > 1e-4  # away from the threshold, where float32 decides
    assert torch.equal(kept[clear], (ratio >= c)[clear])


@given(logits(rows=2), st.floats(0.01, 1))
def test_plausibility_at_alpha_zero_leaves_the_after_model_on_the_kept_tokens(
    pair: tuple[Tensor, Tensor], c: float
) -> None:
    before, after = pair
    guarded = Plausibility(c)(before, after, 0.0)
    kept = guarded > -torch.inf
    assert torch.equal(guarded[kept], after[kept])
    expected = torch.where(kept, after.softmax(-1), 0)
    torch.testing.assert_close(guarded.softmax(-1), expected / expected.sum(-1, keepdim=True))


@given(logits(rows=2), ALPHAS)
def test_plausibility_of_one_keeps_only_the_top(pair: tuple[Tensor, Tensor], alpha: float) -> None:
    before, after = pair
    assert torch.equal(Plausibility(1.0)(before, after, alpha) > -torch.inf, after == after.amax(-1, keepdim=True))


@given(logits(rows=2), ALPHAS, st.floats(-50, 50))
def test_plausibility_does_not_depend_on_constants(pair: tuple[Tensor, Tensor], alpha: float, constant: float) -> None:
    before, after = (x.round(decimals=1) for x in pair)
    kept = [Plausibility(0.105)(before, x, alpha) > -torch.inf for x in (after, after + constant)]
    assert torch.equal(*kept)


def test_plausibility_does_not_write_into_its_inputs() -> None:
    before, after = torch.tensor([[0.0, 3.0, 9.0]]), torch.tensor([[9.0, 3.0, 0.0]])
    Plausibility(0.5)(before, after, 0.0)
    assert before.tolist() == [[0, 3, 9]]
    assert after.tolist() == [[9, 3, 0]]


@pytest.mark.parametrize("c", [0.0, -0.1, 1.0001, math.nan])
def test_plausibility_refuses_a_c_outside_its_range(c: float) -> None:
    with pytest.raises(ValueError, match="c must lie in"):
        Plausibility(c)
