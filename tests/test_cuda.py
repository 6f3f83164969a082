"""What only a GPU can show: the graphs are captured, replayed, and change no text. Skipped where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import FAMILIES, random_adapter, tiny_model, tiny_tokenizer
from test_sampling import ALPHAS, PROMPTS, assert_same, family_pair, grid

from benchmarks.subject import quantised
from diffamp.engine import graphs, guards
from diffamp.engine.adapters import shared_pair
from diffamp.engine.batch import Batch
from diffamp.engine.graphs import Captured, GraphBatch
from diffamp.engine.guards import AfterTopP, Guard, KLCap, Plausibility, TopP, Unamplified
from diffamp.engine.law import Law
from diffamp.engine.norms import fuse_norms
from diffamp.engine.pairs import ModelPair, SeparatePair

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def checkpoints(family: str, dtype: torch.dtype = torch.float32) -> SeparatePair:
    before = tiny_model(family)
    after = random_adapter(before).merge_and_unload()
    return SeparatePair(before.to("cuda", dtype), after.to("cuda", dtype), tiny_tokenizer())


def adapter(family: str, dtype: torch.dtype = torch.float32, scale: float = 0.1) -> ModelPair:
    pair = shared_pair(random_adapter(tiny_model(family), scale=scale).to("cuda", dtype), tiny_tokenizer())
    assert pair is not None
    return pair


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every attempt to capture, whether it succeeded."""
    seen: list[bool] = []
    capture = graphs._capture

    def recorded(run: Callable[[], None], pool: Any = None) -> torch.cuda.CUDAGraph | None:
        graph = capture(run, pool)
        seen.append(graph is not None)
        return graph

    monkeypatch.setattr(graphs, "_capture", recorded)
    monkeypatch.setattr(graphs, "COLUMNS", 8)
    return seen


@pytest.mark.parametrize("make", [checkpoints, adapter])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", [200, 100_000])
def test_a_gpu_gives_what_the_naive_loop_gives_on_a_cpu(
    family: str, budget: int, make: Callable[[str], ModelPair], captured: list[bool]
) -> None:
    # random_adapter has one seed: both kinds of pair are the CPU's
    assert_same(grid(make(family), token_budget=budget), family_pair(family)[1])
    assert captured
    assert all(captured)


@pytest.mark.parametrize(
    ("guard", "waits"),
    [
        (Plausibility(0.1), False),
        (Unamplified((2, 3)), False),
        (TopP(0.9), True),
        (AfterTopP(0.9), True),
        (KLCap(0.5), True),
    ],
)
def test_guards_that_wait_for_the_device_run_beside_the_graphs(
    guard: Guard, waits: bool, captured: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    laws: list[Captured] = []

    def recorded(*given: Any) -> Captured:
        laws.append(Captured(*given))
        return laws[-1]

    monkeypatch.setattr(guards, "NUCLEUS", 16)  # of 160 tokens: the nucleus may lie beyond
    monkeypatch.setattr(graphs, "Captured", recorded)
    pair, law = adapter("llama"), Law(guard, 0.7)
    found = grid(pair, law=law)
    assert all(captured)
    assert [law.waits for law in laws] == [waits]
    monkeypatch.setattr(graphs, "GraphBatch", Batch)
    monkeypatch.setattr(Captured, "__call__", lambda self, *tensors: self.function(*tensors))
    assert_same(found, grid(pair, law=law))


def test_equal_weights_give_the_same_bytes_at_every_alpha() -> None:
    pair = adapter("llama", torch.bfloat16, scale=0.0)
    found = grid(pair, shared=False)
    assert len(found) == len(PROMPTS) * len(ALPHAS) * 2
    for _, group in found.groupby(["prompt_id", "sample"]):
        assert len({tuple(t) for t in group["tokens"]}) == 1
        assert (group["kl_alpha_after"].map(max) < 1e-6).all()


def test_a_scaled_pair_is_not_replayed_from_the_graphs_of_an_unscaled_one() -> None:
    pair = adapter("llama")
    plain = grid(pair)
    with pair.scaled(2.0):
        scaled = grid(pair)
    assert scaled.text.tolist() != plain.text.tolist()
    assert_same(grid(pair), plain)
    with pair.scaled(2.0):
        assert_same(grid(pair), scaled)


def test_the_same_grid_gives_the_same_bytes() -> None:
    first, second = (grid(adapter("qwen2", torch.bfloat16)) for _ in range(2))
    assert first.drop(columns="tokens").astype(str).equals(second.drop(columns="tokens").astype(str))


def test_a_forward_that_cannot_be_captured_runs_as_it_is(
    captured: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    pair, other = adapter("llama"), adapter("llama")
    expected = grid(other)

    def wait(*_: object) -> None:
        torch.ones(1, device="cuda").item()

    pair.modules[0].register_forward_pre_hook(wait)
    captured.clear()
    assert_same(grid(pair), expected)
    assert captured.count(False) == 1
    assert "no CUDA graph" in caplog.text
    assert torch.cuda.current_stream() == torch.cuda.default_stream()

    assert_same(grid(pair), expected)  # by the ordinary batch, without another attempt
    assert captured.count(False) == 1
    captured.clear()
    assert_same(grid(other), expected)  # another pair's are captured as before
    assert captured
    assert all(captured)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    pair, tried = adapter("llama"), []

    class Small(GraphBatch):
        def step(self, draw: Any) -> None:
            if len(tried) < 2 and self.clock > self.longest + 4:  # behind the capture
                tried.append(self.most)
                raise RuntimeError("CUDA error: out of memory")
            super().step(draw)

    expected = grid(pair)
    monkeypatch.setattr(graphs, "GraphBatch", Small)
    assert_same(grid(pair, token_budget=2000), expected)
    assert tried[0] > tried[1]
    assert caplog.text.count("out of memory") == 2


def test_a_row_does_not_depend_on_the_slots_beside_it() -> None:
    pair = adapter("llama")
    together = grid(pair)
    for prompt in PROMPTS:
        assert_same(together[together["prompt_id"] == prompt.id], grid(pair, [prompt]))


def test_four_bit_layers_are_captured(captured: list[bool]) -> None:
    pytest.importorskip("bitsandbytes")
    model = quantised(tiny_model("llama", hidden_size=64, intermediate_size=128).to("cuda", torch.bfloat16))
    pair = shared_pair(random_adapter(model).to("cuda"), tiny_tokenizer())
    assert pair is not None
    found = grid(pair, alphas=[0.0, 1.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "GraphBatch", Batch)
        expected = grid(pair, alphas=[0.0, 1.0])
    assert captured
    assert all(captured)
    # the second token's comes from a captured pass; the first was drawn from the prefill, alike in both
    assert [t[0] for t in found["tokens"]] == [t[0] for t in expected["tokens"]]
    both = zip(found["logp_after"], expected["logp_after"], found["tokens"], expected["tokens"], strict=True)
    alike = [(a[1], b[1]) for a, b, s, t in both if len(s) > 1 and len(t) > 1 and s[1] == t[1]]
    assert len(alike) > len(found) / 2
    assert [a for a, _ in alike] == pytest.approx([b for _, b in alike], abs=0.1)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_in_one_kernel_give_what_many_give(family: str, dtype: torch.dtype) -> None:
    plain, fused = (tiny_model(family).to("cuda", dtype) for _ in range(2))
    for model in (plain, fused):
        torch.manual_seed(0)
        for norm in (m for m in model.modules() if "RMSNorm" in type(m).__name__):
            norm.weight.data = torch.randn_like(norm.weight)
    fuse_norms(fused)
    norms = [m for m in fused.modules() if "RMSNorm" in type(m).__name__]
    assert norms
    assert all("forward" in m.__dict__ for m in norms)
    if dtype == torch.float32:
        ids = torch.arange(40, device="cuda").view(2, 20)
        found, expected = (m(ids).logits.log_softmax(-1) for m in (fused, plain))
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
