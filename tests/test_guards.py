"""What each guard promises, for any logits: its limits, its bound, its support, and alpha 0."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import tiny_model
from hypothesis import given
from hypothesis import strategies as st
from test_amplify import kl_divergence, logits
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from diffamp.engine import guards
from diffamp.engine.amplify import amplify
from diffamp.engine.guards import UNGUARDED, Chain, Guard, nucleus_threshold
from diffamp.engine.loading import load_law
from diffamp.engine.pairs import SoloPair
from diffamp.params import SETTING, GuardParams

Pair = tuple[Tensor, Tensor]
ALPHAS = st.floats(-3, 30, width=32)
ALL: list[Guard] = [
    UNGUARDED,
    guards.Plausibility(0.1),
    guards.Floor(0.01),
    guards.AfterTopP(0.8),
    guards.TopP(0.8),
    guards.TopP(0.8, temperature=0.6),
    guards.TopK(3),
    guards.MinP(0.2, temperature=0.6),
    guards.Clip(1.0),
    guards.Unamplified((0, 1)),
    guards.KLCap(0.3),
    guards.KLCap(0.3, temperature=0.6),
    guards.Gate(),
    guards.Peaks(0.3),
    guards.Peaks(0.3, temperature=0.6),
    guards.Rescale(0.7),
    Chain((guards.TopK(1), guards.Plausibility(0.1), guards.Floor(0.3), guards.AfterTopP(0.5))),
    Chain((guards.KLCap(0.3), guards.Clip(1.0), guards.Plausibility(0.1), guards.TopK(2), guards.Rescale(1.0))),
]
MASKS = (guards.Plausibility, guards.Floor, guards.AfterTopP, guards.TopP, guards.TopK, guards.MinP, Chain)
named = pytest.mark.parametrize("guard", ALL, ids=repr)


@named
@given(logits(rows=3), ALPHAS)
def test_some_token_is_always_left_and_nothing_is_nan(guard: Guard, pair: Pair, alpha: float) -> None:
    found = guard(*pair, alpha)
    assert found.dtype == torch.float32
    assert found.shape == pair[1].shape
    assert not found.isnan().any()
    assert (found > -torch.inf).any(-1).all()


@named
@given(logits(rows=3), ALPHAS)
def test_the_models_logits_are_not_written_to(guard: Guard, pair: Pair, alpha: float) -> None:
    before, after = (x.clone() for x in pair)
    guard(*pair, alpha)
    assert torch.equal(pair[0], before)
    assert torch.equal(pair[1], after)


@pytest.mark.parametrize("guard", [g for g in ALL if not isinstance(g, MASKS) or g == UNGUARDED], ids=repr)
@given(logits(rows=2))
def test_alpha_zero_is_the_after_model(guard: Guard, pair: Pair) -> None:
    assert torch.equal(guard(*pair, 0.0), pair[1])


@named
@given(logits(rows=4), st.lists(ALPHAS, min_size=4, max_size=4))
def test_a_row_does_not_see_the_others(guard: Guard, pair: Pair, alphas: list[float]) -> None:
    before, after = pair
    together = guard(before, after, torch.tensor(alphas))
    for row, alpha in enumerate(alphas):
        alone = guard(before[row : row + 1], after[row : row + 1], alpha)
        torch.testing.assert_close(together[row : row + 1], alone, atol=2e-3, rtol=2e-3)


@named
def test_leading_dimensions_are_free(guard: Guard) -> None:
    torch.manual_seed(0)
    before, after = torch.randn(2, 3, 1, 20).expand(2, 3, 4, 20).unbind(0)
    alphas = torch.rand(3, 4) * 5
    found = guard(before, after, alphas)
    flat = guard(before.reshape(12, 20), after.reshape(12, 20), alphas.flatten())
    torch.testing.assert_close(found.reshape(12, 20), flat, atol=1e-3, rtol=1e-3)


@given(logits(), ALPHAS, st.floats(0.01, 1))
def test_plausibility_and_floor_keep_what_the_after_model_finds_likely(pair: Pair, alpha: float, c: float) -> None:
    p = pair[1].double().softmax(-1)
    kept = guards.Plausibility(c)(*pair, alpha) > -torch.inf
    clear = (p / (c * p.max()) - 1).abs() > 1e-4
    assert torch.equal(kept[clear], (p >= c * p.max())[clear])
    floor = min(c, 0.99)
    kept = guards.Floor(floor)(*pair, alpha) > -torch.inf
    clear = (p / floor - 1).abs() > 1e-4
    assert torch.equal(kept[clear], ((p >= floor) | (pair[1] == pair[1].max()))[clear])


@given(logits(), st.floats(0.01, 1))
def test_a_nucleus_is_the_smallest_set_of_top_tokens_that_reaches_p(pair: Pair, p: float) -> None:
    after = pair[1]
    kept = (after >= nucleus_threshold(after, p))[0]
    law = after.double().softmax(-1)[0]
    assert law[kept].sum() >= p - 1e-5
    least = law[kept].min()
    assert law[kept & (law > least)].sum() < p + 1e-5  # without its least tokens it does not reach p
    assert (law[~kept] < least + 1e-12).all()


def test_a_nucleus_larger_than_the_first_look_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = torch.linspace(0, 0.1, 500)[None]
    expected = nucleus_threshold(flat, 0.9)
    monkeypatch.setattr(guards, "NUCLEUS", 7)
    assert torch.equal(nucleus_threshold(flat, 0.9), expected)


@given(logits(), ALPHAS, st.floats(0.05, 1), st.floats(0.3, 2))
def test_top_p_and_min_p_see_the_tempered_law(pair: Pair, alpha: float, p: float, temperature: float) -> None:
    law = (amplify(*pair, alpha).double() / temperature).softmax(-1)[0]
    kept = (guards.MinP(p, temperature)(*pair, alpha) > -torch.inf)[0]
    clear = (law / (p * law.max()) - 1).abs() > 1e-3
    assert torch.equal(kept[clear], (law >= p * law.max())[clear])
    kept = (guards.TopP(p, temperature)(*pair, alpha) > -torch.inf)[0]
    assert law[kept].sum() >= p - 1e-4
    least = law[kept].min()
    assert law[kept & (law > least * (1 + 1e-3))].sum() < p + 1e-4  # the smallest such set


@given(logits(), ALPHAS, st.integers(1, 14))
def test_top_k_keeps_k(pair: Pair, alpha: float, k: int) -> None:
    amplified = amplify(*pair, alpha)
    kept = guards.TopK(k)(*pair, alpha) > -torch.inf
    assert kept.sum() >= min(k, amplified.shape[-1])  # more where several are equal
    if (~kept).any():
        assert amplified[kept].min() > amplified[~kept].max()


@given(logits(), ALPHAS, st.floats(0.125, 5, width=32))
def test_clip_bounds_the_difference_of_log_probs(pair: Pair, alpha: float, nats: float) -> None:
    before, after = pair
    moved = (guards.Clip(nats)(before, after, 1.0) - after).double()
    difference = (after.double().log_softmax(-1) - before.double().log_softmax(-1)).clamp(-nats, nats)
    torch.testing.assert_close(moved, difference, atol=1e-4, rtol=1e-4)
    loose = guards.Clip(1e4)(before, after, alpha).double().log_softmax(-1)
    torch.testing.assert_close(loose.exp(), amplify(*pair, alpha).double().softmax(-1), atol=2e-3, rtol=0)


@given(logits(), ALPHAS)
def test_unamplified_tokens_keep_their_odds_against_a_token_that_did_not_change(pair: Pair, alpha: float) -> None:
    before, after = pair
    shift = after.double().logsumexp(-1) - before.double().logsumexp(-1)
    # up to the constant that the log-probs' normalisers put between the two ways of writing it
    found = guards.Unamplified((1,))(before, after, alpha).double() - alpha * shift
    torch.testing.assert_close(found[0, 1], after[0, 1].double(), atol=1e-3, rtol=1e-4)
    others = [i for i in range(after.shape[-1]) if i != 1]
    expected = after.double() + alpha * (after.double() - before.double() - shift)
    torch.testing.assert_close(found[0, others], expected[0, others], atol=5e-3, rtol=1e-4)


def tempered_kl(pair: Pair, amplified: Tensor, temperature: float) -> Tensor:
    p, q = ((x.double() / temperature).log_softmax(-1) for x in (amplified, pair[1]))
    return kl_divergence(p, q)


@given(logits(rows=3, bound=8), ALPHAS, st.floats(0.01, 2), st.floats(0.5, 1.5))
def test_a_capped_law_stays_within_its_budget_and_uses_it(
    pair: Pair, alpha: float, nats: float, temperature: float
) -> None:
    cap = guards.KLCap(nats, temperature)
    found, free = (tempered_kl(pair, guard(*pair, alpha), temperature) for guard in (cap, UNGUARDED))
    assert (found <= nats * (1 + 2e-3) + 1e-5).all()
    for one, other in zip(found, free, strict=True):
        assert one == pytest.approx(min(float(other), nats), rel=5e-3, abs=1e-4)


@given(logits(rows=3, bound=8), st.floats(0.125, 30, width=32), st.sampled_from([-1.0, 1.0]))
def test_a_cap_only_ever_shortens_alpha(pair: Pair, alpha: float, sign: float) -> None:
    capped = guards.KLCap(0.2).strength(*pair, sign * alpha)
    assert ((sign * capped >= 0) & (sign * capped <= alpha)).all()
    assert torch.equal(guards.KLCap(1e6).strength(*pair, sign * alpha), torch.full((3,), sign * alpha))


@given(logits(rows=2), ALPHAS)
def test_a_gate_is_shut_where_the_models_agree_and_open_where_they_contradict(pair: Pair, alpha: float) -> None:
    before, after = pair
    strength = guards.Gate().strength(before, after, alpha)
    assert (strength.abs() <= abs(alpha) * (1 + 1e-5)).all()
    assert (guards.Gate().strength(after, after, alpha).abs() < 1e-5 * max(1, abs(alpha))).all()
    certain = torch.tensor([[60.0, 0.0], [0.0, 60.0]])
    assert guards.Gate().strength(certain[:1], certain[1:], alpha).item() == pytest.approx(alpha, rel=1e-4)


@given(logits(rows=3, bound=8), ALPHAS, st.floats(0.01, 5), st.sampled_from([0.6, 1.0]))
def test_peaks_are_amplified_plainly_and_the_rest_not_at_all(
    pair: Pair, alpha: float, nats: float, temperature: float
) -> None:
    before, after = pair
    divergence = tempered_kl((after, before), after, temperature)
    found = guards.Peaks(nats, temperature)(before, after, alpha)
    for row, kl in enumerate(divergence):
        if abs(kl / nats - 1) > 1e-3:
            wanted = amplify(before, after, alpha)[row] if kl > nats else after[row]
            assert torch.equal(found[row], wanted)


@given(logits(rows=2), ALPHAS)
def test_equal_models_have_no_peaks(pair: Pair, alpha: float) -> None:
    after = pair[1]
    assert torch.equal(guards.Peaks(1e-3)(after, after, alpha), after)
    assert torch.equal(guards.Peaks(1e-3).strength(after, after, alpha), torch.zeros(2))


@given(logits(rows=3, bound=8), st.lists(ALPHAS, min_size=3, max_size=3))
def test_peaks_take_alpha_row_by_row(pair: Pair, alphas: list[float]) -> None:
    peaks = guards.Peaks(0.5)
    strength = peaks.strength(*pair, torch.tensor(alphas))
    assert all(s in (0, a) for s, a in zip(strength.tolist(), alphas, strict=True))
    assert torch.equal(strength != 0, (peaks.strength(*pair, 1.0) == 1) & (torch.tensor(alphas) != 0))


@given(logits(), ALPHAS)
def test_fully_rescaled_logits_spread_like_the_after_models(pair: Pair, alpha: float) -> None:
    found = guards.Rescale(1.0)(*pair, alpha)
    if amplify(*pair, alpha).std(correction=0) > 1e-2:
        assert found.std(correction=0) == pytest.approx(float(pair[1].std(correction=0)), rel=1e-2, abs=1e-3)
    assert torch.equal(guards.Rescale(0.0)(*pair, alpha), amplify(*pair, alpha))


@given(logits(rows=2), ALPHAS)
def test_a_chain_of_one_is_that_guard_and_order_within_a_moment_is_kept(pair: Pair, alpha: float) -> None:
    for guard in ALL:
        assert torch.equal(Chain((guard,))(*pair, alpha), guard(*pair, alpha))
    first, second = (guard(*pair, alpha) > -torch.inf for guard in (guards.TopK(2), guards.Plausibility(0.5)))
    found = Chain((guards.TopK(2), guards.Plausibility(0.5)))(*pair, alpha) > -torch.inf
    for row, both in enumerate(first & second):
        if both.any():
            assert torch.equal(found[row], both)
        else:  # they would leave nothing: the after-model's best of what the first has left
            assert torch.equal(found[row], first[row] & (pair[1][row] == pair[1][row][first[row]].max()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: guards.Floor(1.0), r"floor: probability must lie in \(0, 1\), got 1.0"),
        (lambda: guards.TopP(0.0), r"top_p: p must lie in \(0, 1\], got 0.0"),
        (lambda: guards.AfterTopP(math.nan), r"after_top_p: p must lie"),
        (lambda: guards.TopK(0), "top_k: k must lie in 1 or more, got 0"),
        (lambda: guards.MinP(1.5), "min_p: p must lie"),
        (lambda: guards.Clip(0.0), "clip: nats must lie in above 0, got 0.0"),
        (lambda: guards.KLCap(-1.0), "kl_cap: nats must lie"),
        (lambda: guards.Peaks(0.0), r"peaks: nats must lie in \(0, inf\), got 0.0"),
        (lambda: guards.Rescale(1.5), r"rescale: phi must lie in \[0, 1\], got 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("method", SETTING)
def test_every_method_of_params_yaml_is_a_guard(method: str, tokenizer: PreTrainedTokenizerBase) -> None:
    setting = {} if SETTING[method] is None else {SETTING[method]: 3 if method == "top_k" else 0.5}
    law = load_law([GuardParams(method=method, **setting)], 0.6, SoloPair(tiny_model(), tokenizer))
    assert law.temperature == 0.6
    assert law.half_life == (0.5 if method == "decay" else math.inf)
    assert len(law.guard.guards) == (method != "decay")
    for guard in law.guard.guards:
        assert getattr(guard, "temperature", 0.6) == 0.6
