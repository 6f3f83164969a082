"""Drawing by the inverse of the cumulative distribution, against a plain float64 cumulative sum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffamp.engine.law import inverse_cdf
from diffamp.engine.noise import uniforms

TOP = 1 - 2.0**-53  # the largest uniform there is
SIZES = [1, 2, 255, 256, 257, 511, 700, 50257]


def plain(p: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """(rows, vocab) weights, (rows,) uniforms -> the first token whose cumulative weight passes the target."""
    cumulative = p.astype(np.float64).cumsum(-1)
    target = uniform * cumulative[:, -1]
    return np.array([np.searchsorted(c, t, side="right") for c, t in zip(cumulative, target, strict=True)])


def draw(p: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    return inverse_cdf(torch.from_numpy(p), torch.from_numpy(uniform)).numpy()


@given(st.integers(0, 2**32 - 1), st.sampled_from(SIZES[:-1]), st.sampled_from([0.01, 0.5, 1.0]))
def test_exact_where_every_sum_is(seed: int, vocab: int, density: float) -> None:
    """Whole numbers have no rounding: the two must agree at every uniform, also on the edge of a token or a block."""
    generator = np.random.default_rng(seed)
    weights = generator.integers(1, 1000, vocab) * (generator.random(vocab) < density)
    weights[generator.integers(vocab)] += 1
    edges = weights.cumsum() / weights.sum()
    uniform = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1), generator.random(20), [0, TOP]])
    uniform = uniform[(uniform >= 0) & (uniform < 1)]
    p = np.tile(weights.astype(np.float32), (len(uniform), 1))
    np.testing.assert_array_equal(draw(p, uniform), plain(p, uniform))


@pytest.mark.parametrize("vocab", SIZES)
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 10.0])
def test_softmaxes_of_any_size(vocab: int, sharpness: float) -> None:
    generator = torch.Generator().manual_seed(vocab)
    p = (sharpness * torch.randn(64, vocab, generator=generator)).softmax(-1).numpy()
    uniform = np.random.default_rng(vocab).random(64)
    np.testing.assert_array_equal(draw(p, uniform), plain(p, uniform))


@pytest.mark.parametrize("vocab", SIZES)
@pytest.mark.parametrize("uniform", [0.0, 5e-324, 0.5, TOP])
def test_a_single_possible_token_is_drawn_at_any_uniform(vocab: int, uniform: float) -> None:
    tokens = np.unique(np.linspace(0, vocab - 1, 50, dtype=np.int64))
    for weight in (1.0, 1e-30):
        p = np.zeros((len(tokens), vocab), dtype=np.float32)
        p[np.arange(len(tokens)), tokens] = weight
        np.testing.assert_array_equal(draw(p, np.full(len(tokens), uniform)), tokens)


@given(st.integers(0, 2**32 - 1), st.integers(257, 1200))
def test_no_token_without_probability_even_where_sums_round(seed: int, vocab: int) -> None:
    """Uniforms on the edges of blocks, whose running sums round one way or the other, with gaps at the edges."""
    generator = np.random.default_rng(seed)
    p = (generator.random(vocab) ** 8).astype(np.float32)
    for edge in range(0, vocab, 256):
        p[max(0, edge - 3) : edge + 3] = 0
    cumulative = p.astype(np.float64).cumsum()
    mass = np.add.reduceat(p.astype(np.float64), range(0, vocab, 256))
    edges = np.concatenate([cumulative[255::256] / cumulative[-1], mass.cumsum() / mass.sum()])
    uniform = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, 1), [0, TOP]])
    uniform = uniform[(uniform >= 0) & (uniform < 1)]
    assert (p[draw(np.tile(p, (len(uniform), 1)), uniform)] > 0).all()


def test_scale_does_not_matter() -> None:
    p = np.random.default_rng(0).random((200, 300)).astype(np.float32)
    uniform = np.random.default_rng(1).random(200)
    np.testing.assert_array_equal(draw(p, uniform), draw(p * np.float32(1024), uniform))


def test_luck_depends_on_its_key_only() -> None:
    luck = uniforms(0, "a prompt", 3, 50)
    np.testing.assert_array_equal(uniforms(0, "a prompt", 3, 20), luck[:20])
    for other in (uniforms(1, "a prompt", 3, 50), uniforms(0, "a prompt.", 3, 50), uniforms(0, "a prompt", 4, 50)):
        assert not (other == luck).any()
    assert ((luck >= 0) & (luck < 1)).all()
