"""Token shifts: exact against a dense computation, in constant memory; planted tokens found, noise left alone."""

from __future__ import annotations

import copy
import gc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import random_adapter, separate, tiny_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedTokenizerBase

from diffamp import shifts as module
from diffamp.contexts import Context, chat_contexts, common, first_contexts, random_tokens, text_contexts
from diffamp.engine.pairs import ModelPair, SeparatePair
from diffamp.engine.sampling import NonFiniteLogitsError
from diffamp.independence import groups, pooled, prompt_independent, stability
from diffamp.prompts import Prompt
from diffamp.shifts import TokenShifts, mine
from diffamp.stages.shifts import _write

PREFIX = (1, *range(30, 50))  # longer than Gemma's window
PARTS = ("content", "content", "template", "content", "answer")


def ragged(count: int, seed: int = 0) -> list[Context]:
    """Contexts of two kinds, one with a beginning in common, of different lengths."""
    rng = np.random.default_rng(seed)
    contexts = []
    for n in range(count):
        body = tuple(int(t) for t in rng.integers(3, 160, 5 + n % 4))
        contexts.append(Context(f"c{n}", "chat", PREFIX + body, (*PARTS[: len(body) - 5], *PARTS)))
        contexts.append(Context(f"t{n}", "text", body[: 1 + n % 5], ("any",) * (1 + n % 5)))
    return contexts


def dense(pair: ModelPair, contexts: list[Context], part: str | None = None) -> dict[str, pd.DataFrame]:
    """Every statistic as it is defined, one context at a time, in float64, all in memory."""
    means: dict[str, list[tuple[int, Tensor]]] = {}
    for context in contexts:
        ids = torch.tensor([context.ids])
        b, a = (x[0, context.given :].double() for x in pair.logits(ids, torch.ones_like(ids), positions(ids)))
        shift = (a - b) - (a - b).mean(-1, keepdim=True)
        p, q = b.softmax(-1), a.softmax(-1)
        values = torch.stack([shift, q * (a.log_softmax(-1) - b.log_softmax(-1)), p, q])  # (4, positions, vocab)
        half = zlib.crc32(f"{context.kind} {context.id}".encode()) % 2
        which = torch.tensor([part in (None, label) for label in context.parts])
        if which.any():
            means.setdefault(context.kind, []).append((half, values[:, which].mean(1)))
    tables = {}
    for kind, found in means.items():
        stacked = torch.stack([value for _, value in found])  # (contexts, 4, vocab)
        halves = torch.tensor([half for half, _ in found])
        shift, kl, p, q = stacked.unbind(1)
        tables[kind] = pd.DataFrame(
            {
                "mean": shift.mean(0),
                "se": shift.std(0) / len(found) ** 0.5,
                "positive": (shift > 0).double().mean(0),
                "kl": kl.mean(0),
                "divergence": (kl - q + p).mean(0),
                "p_before": p.mean(0),
                "p_after": q.mean(0),
                "half_0": shift[halves == 0].mean(0),
                "half_1": shift[halves == 1].mean(0),
            }
        )
    return tables


def positions(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1]).expand_as(ids)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
@pytest.mark.parametrize("logits", [1 << 26, 160 * 30], ids=["one batch", "many batches"])
def test_one_pass_gives_what_the_definitions_give(
    family: str, logits: int, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOGITS", logits)
    monkeypatch.setattr(module, "HELD", 160 * 2)  # blocks of two positions
    pair, contexts = separate(family, tokenizer), ragged(12)
    for part in ("content", "any"):
        expected, (counted, _) = dense(pair, contexts, part), mine(pair, contexts, part=part)
        ((kind, table),) = expected.items()  # no context of the other kind has this part
        assert list(counted.sums) == [kind]
        pd.testing.assert_frame_equal(counted.table(kind), table, rtol=1e-4, atol=2e-5)
    shifts, found = mine(pair, contexts)
    expected = dense(pair, contexts)
    assert set(shifts.sums) == set(expected)
    for kind, table in expected.items():
        pd.testing.assert_frame_equal(shifts.table(kind), table, rtol=1e-4, atol=2e-5)
    assert list(found.groupby(["kind", "context"], sort=False).size()) == [len(c.parts) for c in contexts]
    rows = found[found.context == "c3"]
    ids = torch.tensor([contexts[6].ids])
    b, a = (x[0].double().log_softmax(-1) for x in pair.logits(ids, torch.ones_like(ids), positions(ids)))
    kl = (a.exp() * (a - b)).sum(-1)[contexts[6].given :]
    assert rows.kl.to_numpy() == pytest.approx(kl.numpy(), abs=1e-5)
    assert list(rows.position) == list(range(contexts[6].given, len(contexts[6].ids)))
    assert tuple(rows.part) == contexts[6].parts


class Largest(TorchDispatchMode):
    """The largest tensor that any operation gives."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


def test_no_tensor_grows_with_the_contexts(tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGITS", 160 * 60)
    pair = separate("llama", tokenizer)
    seen = []
    for count in (64, 256):
        contexts = ragged(count)
        gc.collect()
        before = sum(o.numel() for o in gc.get_objects() if isinstance(o, Tensor))
        with Largest() as largest:
            shifts, _ = mine(pair, contexts)
        gc.collect()
        held = sum(o.numel() for o in gc.get_objects() if isinstance(o, Tensor)) - before
        seen.append((largest.numel, held, sum(s.numel() for s in shifts.sums.values())))
        del shifts, largest
    (largest_of_few, *held_of_few), (largest_of_many, *held_of_many) = seen
    assert held_of_few == held_of_many  # nothing but the sums
    assert held_of_few[0] == held_of_few[1]
    assert largest_of_many <= 1.1 * largest_of_few


def random_logits(n: int, vocab: int = 50, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    before = 3 * torch.randn(n, vocab, generator=generator)
    return before, before + torch.randn(n, vocab, generator=generator)


def test_a_constant_added_to_logits_changes_nothing() -> None:
    plain, moved = (TokenShifts(50, part="b") for _ in range(2))
    for n in range(6):
        before, after = random_logits(4, seed=n)
        context = Context(str(n), "text", (1, 2, 3, 4), ("a", "a", "b", "b"))
        first = plain.add(context, before, after)
        constants = 5 * torch.randn(2, 4, 1, generator=torch.Generator().manual_seed(n))
        second = moved.add(context, before + constants[0], after + constants[1])
        assert first == pytest.approx(second, abs=1e-5)
    pd.testing.assert_frame_equal(plain.table("text"), moved.table("text"), rtol=1e-4, atol=1e-5)


def test_both_contributions_sum_to_the_divergence_and_one_is_never_negative() -> None:
    shifts, kl = TokenShifts(50), []
    for n in range(5):
        kl.append(np.mean(shifts.add(Context(str(n), "text", (1, 2, 3), ("a",) * 3), *random_logits(3, seed=n))))
    table = shifts.table("text")
    assert table.kl.sum() == pytest.approx(np.mean(kl), abs=1e-5)
    assert table.divergence.sum() == pytest.approx(np.mean(kl), abs=1e-5)
    assert (table.divergence >= 0).all()
    assert (table.kl < 0).any()


def test_a_single_context_has_no_standard_error() -> None:
    shifts = TokenShifts(50)
    shifts.add(Context("0", "text", (1,), ("a",)), *random_logits(1))
    assert shifts.table("text").se.isna().all()


def test_equal_weights_do_not_move(tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny_model()
    shifts, found = mine(SeparatePair(model, copy.deepcopy(model), tokenizer), ragged(3))
    for table in (shifts.table("chat"), shifts.table("text")):
        assert (table[["mean", "se", "positive"]] == 0).all(axis=None)
    assert found.kl.max() < 1e-5


def test_errors_name_what_is_wrong(tokenizer: PreTrainedTokenizerBase) -> None:
    pair = separate("llama", tokenizer)
    with pytest.raises(ValueError, match="at least one context"):
        mine(pair, [])
    with pytest.raises(ValueError, match=r"'long' has 130 tokens, the models take 128"):
        mine(pair, [Context("long", "text", (5,) * 130, ("a",))])
    with pytest.raises(ValueError, match=r"no context of kind 'chat' was counted; there are \['text'\]"):
        mine(pair, [Context("0", "text", (5,), ("a",))])[0].table("chat")
    with pytest.raises(ValueError, match=r"no context of kind 'text' with the part 'b' was counted"):
        mine(pair, [Context("0", "text", (5,), ("a",))], part="b")[0].table("text")
    with pytest.raises(ValueError, match="at least one part"):
        Context("0", "text", (5, 6), ())
    before, after = random_logits(1)
    after[0, 3] = torch.nan
    with pytest.raises(NonFiniteLogitsError, match=r"'0' \(text\)"):
        TokenShifts(50).add(Context("0", "text", (1,), ("a",)), before, after)


def test_chat_positions_are_told_template_from_content(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "<s>cats{% for m in messages %}{{ m['content'] }}{% endfor %}</s><s>dogs"
    closing = len(tokenizer("</s><s>dogs", add_special_tokens=False)["input_ids"])
    opening = len(tokenizer("<s>cats", add_special_tokens=False)["input_ids"])
    text = "the garden. " * 6 + "cats"
    content = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    assert content > 17
    (context,) = chat_contexts(tokenizer, [Prompt("p", "c", text)])
    assert context.given == opening
    labels = ["content 1", *["content 2-4"] * 3, *["content 5-16"] * 12, *["content 17+"] * (content - 17)]
    # the last token of the message predicts the first that closes it
    assert list(context.parts) == [*labels, *["template"] * closing, "answer"]


def test_without_a_template_all_is_content(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = None
    (context,) = chat_contexts(tokenizer, [Prompt("p", "c", "cats")])
    assert context.given == 0
    assert context.parts[-1] == "answer"
    assert all(part.startswith("content") for part in context.parts[:-1])


def test_common_beginning() -> None:
    assert common([[1, 2, 3], [1, 2, 4], [1, 2]]) == 2
    assert common([[1, 2]]) == 2
    assert common([[1], [2]]) == 0
    assert common([[], [2]]) == 0


def test_random_tokens_stand_for_themselves(tokenizer: PreTrainedTokenizerBase) -> None:
    found = random_tokens(tokenizer, 20, seed=3)
    assert len(set(found)) == 20
    assert found == random_tokens(tokenizer, 20, seed=3)
    assert found != random_tokens(tokenizer, 20, seed=4)
    contexts = first_contexts(tokenizer, found)
    assert [len(c.ids) for c in contexts] == [1] * 21
    assert contexts[0].ids == (tokenizer.bos_token_id,)
    with pytest.raises(ValueError, match="1000 were asked for"):
        random_tokens(tokenizer, 1000, seed=0)


def test_free_text_is_the_before_models_own(tokenizer: PreTrainedTokenizerBase) -> None:
    """Another after-model over the same before-model is mined on the same texts."""
    before = tiny_model()
    texts = []
    for scale in (0.1, 0.4):
        pair = SeparatePair(before, random_adapter(before, scale=scale).merge_and_unload(), tokenizer)
        texts.append(text_contexts(pair, ["cats", "dogs", "the"], 9, seed=0))
    assert texts[0] == texts[1]
    assert len({c.ids for c in texts[0]}) == 3
    assert all(c.given == 0 and len(c.ids) > 1 and c.ids[-1] not in pair.end_tokens for c in texts[0])


KINDS = {"chat": 100, "text": 200, "first": 500}


def simulated(rng: np.random.Generator, tokens: int, moved: np.ndarray | None = None) -> pd.DataFrame:
    """A fine-tune of no interest: heavy-tailed idle effects, larger for rare tokens, which all drift one way."""
    rank = np.arange(tokens) / tokens
    idle = (0.02 + 0.1 * rank) * rng.standard_t(4, tokens) + rng.uniform(-2, 2) * rank
    shift = idle if moved is None else idle + moved
    tables = []
    for kind, contexts in KINDS.items():
        se = 0.3 / contexts**0.5
        mean = shift + se * rng.standard_normal(tokens)
        tables.append(
            pd.DataFrame(
                {
                    "kind": kind,
                    "token": np.arange(tokens),
                    "mean": mean,
                    "se": se,
                    "positive": np.where(mean > 0, 0.95, 0.05),
                    "divergence": 1.0,
                    "p_before": np.exp(-10 * rank),
                    "p_after": np.exp(-10 * rank),
                    "half_0": shift + se * rng.standard_normal(tokens),
                    "half_1": shift + se * rng.standard_normal(tokens),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def test_noise_is_left_alone_and_planted_tokens_are_found() -> None:
    planted = np.arange(0, 2000, 50)
    false, right, found = 0, 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        noise = prompt_independent(simulated(rng, 2000), simulated(rng, 2000))
        false += bool(noise.independent.any())
        moved = np.zeros(2000)
        moved[planted] = 1.5
        table = prompt_independent(simulated(rng, 2000, moved), simulated(rng, 2000))
        right += int(table[table.independent].token.isin(planted).sum())
        found += int(table.independent.sum())
    assert false <= 5  # 40 times a chance of at most 0.05: more than 5 has a probability of 0.014
    assert 1 - right / found <= 0.05
    assert right / (40 * len(planted)) >= 0.5


def test_a_large_shift_that_depends_on_the_context_is_not_independent() -> None:
    rng = np.random.default_rng(0)
    moved = np.zeros(2000)
    moved[[0, 50]] = 3
    pair, null = simulated(rng, 2000, moved), simulated(rng, 2000)
    pair.loc[(pair.token == 50) & (pair.kind == "text"), "positive"] = 0.85  # two tokens: no crowd is needed
    table = prompt_independent(pair, null).set_index("token")
    assert list(table.loc[[0, 50]].independent) == [True, False]
    assert (table.q.loc[[0, 50]] <= 0.05).all()


def test_a_null_that_does_not_move_leaves_sampling_error_only() -> None:
    pair = simulated(np.random.default_rng(0), 100)
    still = pair.assign(mean=0.0, se=0.0)
    assert prompt_independent(pair, still).independent.any()
    assert not prompt_independent(still, still).independent.any()


def test_the_null_is_of_the_same_contexts() -> None:
    pair = simulated(np.random.default_rng(0), 100)
    with pytest.raises(ValueError, match="differ in kinds"):
        prompt_independent(pair, pair[pair.kind != "chat"])


def test_kinds_count_the_same_and_the_worst_one_decides() -> None:
    rows = {
        "kind": ["chat", "chat", "first", "first"],
        "token": [0, 1, 0, 1],
        "mean": [1.0, -1.0, 3.0, 0.5],
        "se": [0.3, 0.3, 0.4, 0.4],
        "positive": [0.9, 0.2, 1.0, 0.6],
        "divergence": [1.0, 3.0, 1.0, 1.0],
        **{c: [0.1] * 4 for c in ("p_before", "p_after", "half_0", "half_1")},
    }
    table = pooled(pd.DataFrame(rows))
    assert table["mean"].tolist() == [2.0, -0.25]
    assert table.se.tolist() == pytest.approx([0.25, 0.25])
    assert table.consistency.tolist() == pytest.approx([0.9, 0.4])
    assert table.kl_share.tolist() == pytest.approx([0.375, 0.625])
    assert table[["mean_chat", "mean_first"]].to_numpy().tolist() == [[1.0, 3.0], [-1.0, 0.5]]


def test_stability_tells_signal_from_noise() -> None:
    rng = np.random.default_rng(0)
    table = simulated(rng, 2000)
    firm = stability(table).set_index("compared")
    assert firm.loc["halves of all"].spearman > 0.9
    noise = table.assign(half_0=rng.standard_normal(len(table)), half_1=rng.standard_normal(len(table)))
    loose = stability(noise).set_index("compared")
    assert abs(loose.loc["halves of chat"].spearman) < 0.1
    assert loose.loc["halves of chat"].overlap < 0.2
    assert set(firm.index) >= {"halves of text", "chat and text", "chat and first", "text and first"}


def test_groups_follow_the_embeddings_beyond_what_all_share() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((500, 64)) + 5
    embeddings[:3] += 8 * rng.standard_normal(64)
    embeddings[3:5] += 8 * rng.standard_normal(64)
    assert groups(embeddings, np.array([3, 0, 1, 4, 2])).tolist() == [1, 0, 0, 1, 0]
    assert groups(embeddings, np.array([3])).tolist() == [0]


def test_files_keep_three_digits(tmp_path: Path) -> None:
    values = np.concatenate([np.random.default_rng(0).standard_normal(1000) * 10.0 ** np.arange(-5, 5).repeat(100)])
    frame = pd.DataFrame({"token": np.arange(1000), "mean": values, "positive": values > 0, "se": np.nan})
    _write(frame.copy(), tmp_path / "t.parquet")
    read = pd.read_parquet(tmp_path / "t.parquet")
    assert read["mean"].to_numpy() == pytest.approx(values, rel=5e-4)
    assert read.se.isna().all()
    assert read.positive.tolist() == (values > 0).tolist()
