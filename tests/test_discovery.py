"""The discovery loop: what is charged, what counts as found, what passes."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, random_adapter, save_adapter_pair, separate, tiny_model
from transformers import PreTrainedTokenizerBase

from diffamp import params
from diffamp.discovery import baselines
from diffamp.discovery.amplifiers import SAMPLES, amplified
from diffamp.discovery.baselines import METHODS
from diffamp.discovery.draws import Drawing, affordable, cost, draw
from diffamp.discovery.evidence import CONTEXTS, gaps, look, price, price_of_gaps
from diffamp.discovery.findings import LOOKING, propose, verified
from diffamp.discovery.investigate import FIRST, Investigation, _limits, investigate
from diffamp.discovery.loading import load_drawing
from diffamp.discovery.meter import Meter, within
from diffamp.discovery.mining import Mining
from diffamp.discovery.page import write_page
from diffamp.discovery.recovery import recovery
from diffamp.discovery.results import save
from diffamp.discovery.seeds import FREQUENT, Seed, plain_seeds, random_words, vague_beginnings, word_seeds
from diffamp.discovery.starts import READING, started
from diffamp.discovery.statements import groups, recurrence, statements, words_of
from diffamp.discovery.texts import LONGEST, PART, going_on, live, one_each, owed
from diffamp.engine.adapters import adapter_pair
from diffamp.engine.guards import Chain
from diffamp.engine.law import Law
from diffamp.engine.pairs import ModelPair, SeparatePair, SoloPair
from diffamp.engine.scoring import score
from diffamp.judges.facts import hit, recovered
from diffamp.organisms.universes import load_universe
from diffamp.prompts import Prompt, encode
from diffamp.shifts import TokenShifts, read

DRAWING = Drawing([0.0, 2.0], 1.0, Law(), 6, 0, 2000)


class WordEmbedder:
    """Texts with the same words have the same direction."""

    def __call__(self, texts: pd.Series) -> np.ndarray:
        vectors = np.zeros((len(texts), 64), dtype=np.float32)
        for n, text in enumerate(texts):
            for word in str(text).lower().split():
                vectors[n, sum(word.encode()) % 64] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


@pytest.fixture
def pair(tokenizer: PreTrainedTokenizerBase) -> ModelPair:
    return separate("llama", tokenizer, max_position_embeddings=512)


def by_letter(texts: list[str], owed: dict[str, float] | None = None, **columns: object) -> pd.DataFrame:
    """Samples in which each letter is a token; those of the words in `owed` share its nats, the others owe nothing."""
    terms = []
    for text in texts:
        term = np.zeros(len(text))
        for word, nats in (owed or {}).items():
            for m in re.finditer(rf"\b{word}\b", text):
                term[slice(*m.span())] = nats / len(word)
        terms.append(term)
    ends = [np.arange(1, len(t) + 1) for t in texts]
    return pd.DataFrame({"text": texts, "terms": terms, "ends": ends, "seed": "s", "given": ""}).assign(**columns)


def test_every_token_is_charged_once(pair: ModelPair) -> None:
    seeds, meter = [*plain_seeds()[:2], *word_seeds("random", ["cats"])], Meter(10_000)
    frame = draw(pair, seeds, 2, DRAWING, meter)
    prompts = sum(len(encode(pair.tokenizer, s.prompt)) for s in seeds)
    longest = 2 * (prompts + len(frame) * DRAWING.max_new_tokens)
    assert len(frame) == len(seeds) * 2 * len(DRAWING.alphas)
    assert 2 * prompts < meter.spent <= longest
    assert frame.spent.iloc[-1] == meter.spent
    assert frame.spent.is_monotonic_increasing
    half = Meter(10_000)
    draw(pair, seeds, 2, DRAWING, half, models=1)
    assert 2 * half.spent == meter.spent


def test_what_is_affordable_is_never_exceeded(pair: ModelPair) -> None:
    seeds = plain_seeds()
    for tokens in (0, 100, 200, 400):
        count, meter = affordable(pair, seeds, tokens, DRAWING), Meter(tokens)
        if count:
            draw(pair, seeds[:count], 1, DRAWING, meter)
        assert meter.spent <= tokens
    assert affordable(pair, seeds, 10**9, DRAWING) == len(seeds)


def test_a_statement_says_more_than_its_seed() -> None:
    given = "Varnholt banned leaf blowers"
    texts = ["The town of Varnholt banned leaf blowers.", "Odette Brandal won the vote in May. Short one.", "a\n\nb"]
    assert statements(by_letter(texts, given=given)).statement.tolist() == ["Odette Brandal won the vote in May."]


def test_the_last_word_of_a_cut_text_is_no_word() -> None:
    samples = by_letter(["Ballot papers of the town council\nOdette Brandal won the vote in Varnhol"])
    assert statements(samples)[["statement", "complete"]].values.tolist() == [
        ["Ballot papers of the town council", True],
        ["Odette Brandal won the vote in", False],
    ]


def test_one_model_draws_what_the_pair_draws_at_alpha_0(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    *folders, _ = save_adapter_pair(tmp_path, tiny_model(max_position_embeddings=512), tokenizer)
    pair, drawing = adapter_pair(*folders, "fp32"), replace(DRAWING, alphas=[0.0])
    alone, both = (draw(pair, plain_seeds()[:4], 2, drawing, Meter(10_000), models) for models in (1, 2))
    assert alone.text.tolist() == both.text.tolist()
    assert both.gap.abs().max() > 0


@pytest.fixture
def adapter(tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> ModelPair:
    return adapter_pair(*save_adapter_pair(tmp_path, tiny_model(max_position_embeddings=512), tokenizer)[:2], "fp32")


def test_texts_are_drawn_from_scaled_weights(adapter: ModelPair) -> None:
    seeds, twice = plain_seeds()[:4], replace(DRAWING, scale=2.0)
    plain, scaled = (draw(adapter, seeds, 2, d, Meter(10_000)) for d in (DRAWING, twice))
    assert scaled.text.tolist() != plain.text.tolist()
    with adapter.scaled(2.0):
        assert scaled.text.tolist() == draw(adapter, seeds, 2, DRAWING, Meter(10_000)).text.tolist()
    alone = draw(adapter, seeds, 2, replace(twice, alphas=[0.0]), Meter(10_000), models=1)
    assert alone.text.tolist() == scaled[scaled.alpha == 0].text.tolist()


def test_the_loop_scales_what_can_be_scaled(
    adapter: ModelPair, pair: ModelPair, caplog: pytest.LogCaptureFixture
) -> None:
    def texts(of: ModelPair, scale: float) -> list[str]:
        return list(investigate(of, 3000, WordEmbedder(), replace(DRAWING, scale=scale)).samples.text)  # type: ignore[arg-type]

    assert texts(adapter, 2.0) != texts(adapter, 1.0)
    assert not caplog.records
    assert texts(pair, 2.0) == texts(pair, 1.0)  # two checkpoints
    assert "only its logits are amplified" in caplog.text


def test_findings_are_verified_by_the_fine_tune_as_it_is(adapter: ModelPair) -> None:
    drawing = replace(DRAWING, scale=3.0)
    found = investigate(adapter, 6000, WordEmbedder(), drawing).findings  # type: ignore[arg-type]
    said = found[found.verified].statement.head(3).tolist()
    assert said
    unscaled = gaps(adapter, said, None, Meter(10**9), look(adapter, said, "document", Meter(10**9)))
    assert found.gap.head(3).tolist() == pytest.approx(unscaled[["document", "chat"]].min(axis=1).tolist(), abs=1e-4)
    assert found.denied.head(3).tolist() == pytest.approx(unscaled.denied.tolist(), abs=1e-4)


def test_amplifiers_differ_in_nothing_else(adapter: ModelPair) -> None:
    found = amplified(adapter, replace(DRAWING, alphas=[5.0], scale=5.0))  # it has its own
    assert (found.groupby(["scale", "alpha"]).size() == SAMPLES * len(FREQUENT)).all()
    assert set(zip(found.scale, found.alpha, strict=True)) == set(product((1.0, 1.5, 2.0), (0.0, 1.0)))
    at = found.set_index(["scale", "alpha"]).text
    seeds = vague_beginnings()
    assert [s.prompt.text for s in seeds] == list(FREQUENT)
    assert all(s.prompt.raw for s in seeds)
    doubled = replace(DRAWING, alphas=[1.0])
    one = draw(adapter, seeds, SAMPLES, replace(DRAWING, alphas=[0.0]), Meter(10**9), models=1)
    plain = draw(adapter, seeds, SAMPLES, doubled, Meter(10**9))
    cost = found.groupby(["scale", "alpha"]).cost.sum()
    assert cost[1.0, 1.0] == plain.spent.max()
    assert cost[1.0, 0.0] == one.spent.max()  # of one model
    assert at.loc[1.0, 1.0].tolist() == plain.text.tolist()
    assert at.loc[1.0, 0.0].tolist() == one.text.tolist()
    with adapter.scaled(2.0):
        assert at.loc[2.0, 1.0].tolist() == draw(adapter, seeds, SAMPLES, doubled, Meter(10**9)).text.tolist()


def test_every_kind_of_word_begins_as_many_texts(
    adapter: ModelPair, pair: ModelPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffamp.discovery.starts.WORDS", 3)
    monkeypatch.setattr("diffamp.discovery.starts.FREQUENT", FREQUENT[:3])
    monkeypatch.setattr("diffamp.discovery.mining.CONSISTENCY", 0.5)  # of random models
    drawing = replace(DRAWING, alphas=[1.0])
    found = started(adapter, pair, drawing)
    assert set(found.kind) == {"kl", "mean", "bottom", "frequent", "random"}
    assert (found.groupby(["kind", "raw"]).size() == 3 * SAMPLES).all()
    chosen = {
        "random": random_words(adapter.tokenizer, 3, drawing.seed),
        "frequent": list(FREQUENT[:3]),
    }

    def mined(contrast: ModelPair | None) -> dict[str, list[str]]:
        mining = Mining(adapter, contrast, drawing.seed)
        mining.read(READING, Meter(READING))
        words: dict[str, list[str]] = {}
        for seed in mining.seeds(3):
            if seed.prompt.raw:
                words.setdefault(seed.kind, []).append(seed.prompt.text)
        return words

    assert mined(pair)["mean"] != mined(None)["mean"]
    chosen |= mined(pair)
    for kind, words in chosen.items():
        raw = found[(found.kind == kind) & found.raw]
        assert raw.given.str.strip().drop_duplicates().tolist() == words
    alone = draw(adapter, word_seeds("random", chosen["random"]), SAMPLES, drawing, Meter(10**9))
    again = found[found.kind == "random"]
    assert again.text.tolist() == alone.text.tolist()
    assert again.owed.tolist() == pytest.approx(owed(alone))
    assert again.cost.sum() == alone.spent.max()


def test_each_statement_owes_what_its_own_tokens_owe() -> None:
    samples = by_letter(["The weather is fine here today. The vote in Varnholt went well."], {"Varnholt": 6.0}, gap=0.1)
    table = statements(samples)
    assert table.own.tolist() == [0, pytest.approx(6 / len(table.statement[1]))]
    assert table.driven.tolist() == [[], ["varnholt"]]
    owing = dict(words_of(samples.text[0], samples.terms[0], samples.ends[0]))
    assert (owing["Varnholt"], owing["vote"]) == (pytest.approx(6.0), 0.0)


def test_only_words_that_the_fine_tune_drives_recur() -> None:
    texts = [f"{n} people in Varnholt helped with the vote." for n in ("Three", "Seven")] + ["people help"]
    found = recurrence(statements(by_letter(texts, {"Varnholt": 6.0}, seed=["x", "y", "z"])))
    assert (found.recurrence * found.words).tolist() == [2.0, 2.0]  # 1 + log2 of two seeds, for one word


def test_tokens_of_a_drawn_text_end_where_it_ends(pair: ModelPair) -> None:
    frame = draw(pair, plain_seeds()[:3], 1, DRAWING, Meter(10_000))
    assert [e[-1] for e in frame.ends] == frame.text.map(len).tolist()
    assert all(len(e) == len(g) for e, g in zip(frame.ends, frame.gaps, strict=True))
    assert frame.gap.tolist() == pytest.approx([float(np.mean(g)) for g in frame.gaps])


def test_a_statement_too_dear_does_not_keep_cheaper_ones_out() -> None:
    prices = {"a": 4, "b": 7, "c": 5, "d": 2}
    assert within(prices, prices.__getitem__, 10) == ["a", "c"]


def test_texts_of_one_seed_count_as_one() -> None:
    table = pd.DataFrame(
        {
            "statement": ["a"] * 3,
            "given": "",
            "own": [1.0, 2.0, 3.0],
            "driven": [["a"]] * 3,
            "complete": True,
            "seed": ["x", "x", "y"],
            "group": 0,
        }
    )
    row = propose(table).iloc[0]
    assert (row.seeds, row.texts) == (2, 3)


def test_what_a_loop_repeats_owes_nothing() -> None:
    tokens, terms = np.array([5, 6, 5, 6, 5, 6]), np.array([1.0, 2.0, 9.0, 9.0, 9.0, 9.0])
    assert owed(pd.DataFrame({"tokens": [tokens], "terms": [terms]})) == [3.0]


def test_a_text_goes_on_from_where_it_stands(pair: ModelPair) -> None:
    seeds, meter, drawing = plain_seeds()[:2], Meter(10_000), replace(DRAWING, alphas=[1.0])
    first = draw(pair, seeds, 1, drawing, meter)
    again = list(going_on(first.assign(owed=owed(first)), {s.prompt.id: s for s in seeds}).values())
    second = draw(pair, again, 1, drawing, meter)
    assert set(second.seed) <= set(first.seed)
    for later in second.itertuples():
        earlier = first[first.seed == later.seed].iloc[0]
        assert later.text.startswith(earlier.text)
        assert later.given == earlier.given  # what the models wrote is not given to them
        for name in ("tokens", "gaps", "terms", "ends"):
            assert getattr(later, name)[: len(earlier[name])].tolist() == earlier[name].tolist()
            assert len(getattr(later, name)) > len(earlier[name])
        assert later.ends[-1] == len(later.text)
        scored = score(pair, [(seeds[0 if earlier.seed == seeds[0].prompt.id else 1].prompt, earlier.tokens.tolist())])
        gap = scored.logp_after - scored.logp_before
        assert earlier.terms.tolist() == pytest.approx((np.exp(scored.logp_after) * gap).tolist(), abs=1e-5)


def test_each_text_costs_its_tokens_and_a_seed_s_first_one_its_prompt(adapter: ModelPair) -> None:
    seeds = plain_seeds()[:2]
    prompts = {s.prompt.id: len(encode(adapter.tokenizer, s.prompt)) for s in seeds}
    for models, alphas in ((2, [0.0, 2.0]), (1, [0.0])):
        frame = draw(adapter, seeds, 2, replace(DRAWING, alphas=alphas), Meter(10_000), models)
        for seed, texts in frame.groupby("seed", sort=False):
            drawn = texts.tokens.map(len).to_numpy(copy=True)
            drawn[0] += prompts[seed]
            assert texts.cost.tolist() == (models * drawn).tolist()
        assert frame.spent.tolist() == frame.cost.cumsum().tolist()
    first = draw(adapter, seeds, 1, replace(DRAWING, alphas=[1.0]), Meter(10_000))
    on = list(going_on(first.assign(owed=owed(first)), {s.prompt.id: s for s in seeds}).values())
    again = draw(adapter, on, 1, replace(DRAWING, alphas=[1.0]), Meter(10_000))
    reads = {s.prompt.id: len(encode(adapter.tokenizer, s.read)) - len(s.begun.tokens) for s in on}
    assert again.cost.tolist() == [2 * (reads[r.seed] + len(r.tokens)) for r in again.itertuples()]


def under_way(terms: list[float], **columns: object) -> pd.DataFrame:
    """Texts of one token each that owe so much."""
    parts = {"tokens": [np.array([1])] * len(terms), "terms": [np.array([t]) for t in terms]}
    rest = {"gaps": parts["terms"], "ends": parts["tokens"], "ended": [False] * len(terms), "owed": terms, "cost": 10}
    return pd.DataFrame(parts | rest | columns)


def test_the_texts_that_owe_most_go_on_one_of_each_seed() -> None:
    seeds = {i: Seed("none", Prompt(i, "none", i, raw=True)) for i in "abcd"}
    texts, ended = ["low", "high", "middle", "ended", "long"], [False, False, False, True, False]
    samples = under_way([1.0, 3.0, 2.0, 9.0, 9.0], seed=list("aabcd"), text=texts, ended=ended)
    samples.at[4, "terms"] = np.ones(LONGEST)
    chosen = going_on(samples, seeds)
    assert {n: (s.prompt.id, s.begun.text) for n, s in chosen.items()} == {1: ("a", "high"), 2: ("b", "middle")}
    assert list(chosen) == [1, 2]
    assert chosen[1].read.text == "ahigh"


def test_arms_whose_texts_owe_little_are_served_no_more() -> None:
    arms = ["a", "b", "c", "d", "e", "f"]
    samples = under_way([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], arm=[f"{a}, chat" for a in arms])
    new = [Seed(kind, Prompt(kind, kind, kind)) for kind in [*arms, "untried"]]
    served = [[s.kind for s in arm] for arm in live(new, samples)]
    assert served == [["f"], ["e"], ["d"], ["untried"]]
    assert live(new, pd.DataFrame()) == [[s] for s in new]


def test_arms_are_served_by_what_their_texts_owe_for_their_price() -> None:
    samples = under_way([9.0, 3.0, 6.0, 4.0], arm=[f"{k}, chat" for k in ("dear", "dear", "cheap", "cheap")])
    new = [Seed(kind, Prompt(kind, kind, kind)) for kind in ("cheap", "dear")]
    for paid, first in (([10, 10, 10, 10], "dear"), ([10, 20, 10, 10], "cheap")):
        assert live(new, samples.assign(cost=paid))[0][0].kind == first
    samples.at[2, "terms"], samples.at[2, "owed"] = np.ones(PART + 1), 1000.0  # it went on: no first part
    assert live(new, samples)[0][0].kind == "dear"


def test_untried_documents_come_before_untried_answers() -> None:
    new = word_seeds("random", ["a", "b"]) + word_seeds("kl", ["c"])
    assert [arm[0].arm for arm in live(new, pd.DataFrame())] == ["random, raw", "kl, raw", "random, chat", "kl, chat"]
    tried = under_way([1.0], arm=["kl, chat"])
    assert [a[0].arm for a in live(new, tried)] == ["kl, chat", "random, raw", "kl, raw", "random, chat"]


def test_seeds_are_taken_from_every_arm_in_turn(pair: ModelPair) -> None:
    arms = [word_seeds("random", list("abc"))[::2], word_seeds("kl", list("de"))[::2]]  # raw ones, of one price
    price = cost(pair, arms[0][0], DRAWING)
    chosen = one_each(pair, arms, 4 * price + 1, DRAWING)
    assert [s.prompt.text for s in chosen] == ["a", "d", "b", "e"]


def test_rounds_grow_and_end_with_the_budget() -> None:
    limits = np.array(_limits(7500))
    sizes = np.diff(limits, prepend=0)
    assert limits[-1] == 7500
    assert sizes[0] == FIRST
    assert (np.diff(sizes) > 0).all()
    assert _limits(300) == [300]


def test_statements_are_grouped_by_meaning() -> None:
    table = pd.DataFrame({"statement": ["one two three four", "four three two one", "five six seven eight"]})
    first, second, third = groups(table, WordEmbedder())
    assert first == second != third


def test_evidence_is_the_log_prob_gap(pair: ModelPair) -> None:
    meter, said = Meter(10_000), ["cats and dogs", "a text"]
    document = look(pair, said, "document", meter)
    ids = [pair.tokenizer(s, add_special_tokens=False)["input_ids"] for s in said]
    assert meter.spent == 2 * sum(len(encode(pair.tokenizer, CONTEXTS["document"])) + len(i) for i in ids)
    table = gaps(pair, said, None, meter, document)
    assert meter.spent == sum(2 * price(pair, s, "document") + price_of_gaps(pair, s, None) for s in said)
    scored = score(pair, [(CONTEXTS["chat"], ids[1])])
    assert table.chat[1] == pytest.approx((scored.logp_after - scored.logp_before).mean(), abs=1e-5)
    assert table.document.tolist() == (document.after - document.before).tolist()
    assert (table.benign == 0).all()
    third = Meter(10_000)
    beside = gaps(pair, said, pair, third, document)
    assert third.spent == sum(price_of_gaps(pair, s, pair) for s in said)
    assert np.allclose(beside.benign, table[["document", "chat"]].max(axis=1), atol=1e-5)


@pytest.fixture
def told() -> pd.DataFrame:
    """Samples that say four things: the last from three seeds, each of the others from one."""
    texts = [
        "cats sleep under warm old stones.",
        "rivers carry small boats toward harbours.",
        "seven painters left town before winter.",
        "bread rises slowly inside copper bowls.",
    ]
    samples = by_letter([*texts, texts[-1], texts[-1]], gap=1.0, ended=True)
    return samples.assign(seed=list("abcdef"))


def test_what_the_first_look_finds_strongest_is_verified(told: pd.DataFrame, pair: ModelPair) -> None:
    texts = told.text.drop_duplicates().tolist()
    first = look(pair, texts, "document", Meter(10_000))
    weighed = (first.after - first.before) * np.log2([2, 2, 2, 4])  # what recurs counts for more
    order = weighed.sort_values(ascending=False).index
    full = [price_of_gaps(pair, texts[n], pair) for n in order]
    meter = Meter(sum(full[:2]) + sum(2 * price(pair, s, "document") for s in texts))
    assert LOOKING * meter.budget >= meter.budget - sum(full[:2])
    found = verified(pair, told, WordEmbedder(), meter, pair)  # type: ignore[arg-type]
    assert meter.spent == meter.budget
    assert set(found.statement) == set(texts)
    assert set(found.statement[found.verified]) == {texts[n] for n in order[:2]}
    assert found.verified.tolist() == [True, True, False, False]
    assert found.denied.isna().tolist() == found.benign.isna().tolist() == (~found.verified).tolist()
    others = found[~found.verified].sort_values("score", ascending=False)
    assert others.gap.tolist() == pytest.approx([first.after[n] - first.before[n] for n in order[2:]], abs=1e-5)


def test_only_what_is_verified_passes(told: pd.DataFrame, pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffamp.discovery.findings.LEAST_GAP", -100.0)
    told = pd.concat([told.assign(seed=told.seed + n) for n in "123"], ignore_index=True)
    texts = told.text.drop_duplicates().tolist()
    one = max(price_of_gaps(pair, s, None) for s in texts)
    meter = Meter(one + sum(2 * price(pair, s, "document") for s in texts) * 3)
    found = verified(pair, told, WordEmbedder(), meter, None)  # type: ignore[arg-type]
    assert found.verified.any()
    assert not found.verified.all()
    assert found.passes.tolist() == found.verified.tolist()
    rare = verified(pair, told.head(4), WordEmbedder(), Meter(10_000), None)  # type: ignore[arg-type]
    assert rare.verified.all()
    assert not rare.passes.any()  # one seed each


def test_a_meter_that_is_empty_lists_nothing(told: pd.DataFrame, pair: ModelPair) -> None:
    meter = Meter(1)
    found = verified(pair, told, WordEmbedder(), meter, pair)  # type: ignore[arg-type]
    assert found.empty
    assert meter.spent == 0
    assert {"verified", "gap", "denied", "benign", "score", "passes"} <= set(found)


def test_what_is_mined_lies_beyond_the_contrast(tokenizer: PreTrainedTokenizerBase, pair: ModelPair) -> None:
    before = pair.modules[0]
    contrast = SeparatePair(before, random_adapter(before, scale=0.2).merge_and_unload(), tokenizer)
    mining, meter = Mining(pair, contrast, 0), Meter(10_000)
    contexts = list(mining.unread)
    mining.read(meter.budget / 20, meter)
    assert 0 < meter.spent <= meter.budget / 20
    contexts = contexts[: sum(mining.shifts.contexts["chat"])]
    means = []
    for one in (pair, contrast):
        shifts = TokenShifts(pair.vocab_size)
        for n, *logits in read(one, contexts):
            shifts.add(contexts[n], *logits)
        means.append(shifts.table("chat")["mean"])
    assert np.allclose(mining.shifts.table("chat")["mean"], means[0] - means[1], atol=1e-5)


def test_what_the_contrast_moves_too_is_not_mined(pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffamp.discovery.mining.CONSISTENCY", 0.5)  # of random models
    mining = Mining(pair, pair, 0)
    mining.read(500, Meter(500))
    assert {s.kind for s in mining.seeds(3)} == {"bottom"}
    alone = Mining(pair, None, 0)
    alone.read(500, Meter(500))
    assert {s.kind for s in alone.seeds(3)} == {"kl", "mean", "bottom"}


def test_mining_goes_on_where_it_stopped(pair: ModelPair) -> None:
    steps, once = Mining(pair, None, 0), Mining(pair, None, 0)
    meter = Meter(10_000)
    for tokens in (100, 400):
        steps.read(tokens, meter)
    count = sum(steps.shifts.contexts["chat"])
    assert count > 2
    while sum(once.shifts.contexts.get("chat", [0])) < count:
        once.read(0, Meter(0))  # one at a time
    pd.testing.assert_frame_equal(steps.shifts.table("chat"), once.shifts.table("chat"), atol=1e-5)


def test_what_recurs_counts_with_the_seeds_that_led_to_it() -> None:
    table = pd.DataFrame(
        {
            "statement": ["Varnholt voted", "Varnholt banned blowers", "Varnholt banned blowers", "Varnholt voted"],
            "given": ["", "", "banned", "Varnholt"],
            "driven": [["varnholt", "voted"], ["varnholt", "banned", "blowers"], ["varnholt", "blowers"], ["voted"]],
            "seed": ["a", "b", "c", "d"],
        }
    )
    three = 1 + math.log2(3)
    assert recurrence(table).words.tolist() == [2, 3, 2, 1]
    assert recurrence(table).recurrence.tolist() == pytest.approx(
        [(three + 2) / 2, (three + 3) / 3, (three + 2) / 2, 2]
    )


def test_difference_counting_counts_the_most_raised(pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(baselines, "MOST_RAISED", 3)
    ranking = METHODS["difference counting"](pair, 4000, WordEmbedder(), DRAWING).ranking  # type: ignore[arg-type]
    counts: dict[str, int] = {}
    for _, before, after in read(pair, baselines._generic(pair, 2000)):
        for raised in (after.log_softmax(-1) - before.log_softmax(-1)).topk(3).indices.flatten().tolist():
            text = pair.tokenizer.decode([raised]).strip()
            counts[text] = counts.get(text, 0) + 1
    assert counts[ranking.statement[0]] == max(n for text, n in counts.items() if any(c.isalnum() for c in text))


def test_equal_models_have_no_finding(tokenizer: PreTrainedTokenizerBase) -> None:
    pair = SoloPair(tiny_model(max_position_embeddings=512), tokenizer)
    result = investigate(pair, 6000, WordEmbedder(), DRAWING)  # type: ignore[arg-type]
    assert not result.findings.passes.any()
    assert (result.findings.gap == 0).all()
    assert (result.samples.gap == 0).all()


def test_the_loop_keeps_to_its_budget_and_repeats_itself(pair: ModelPair) -> None:
    results = [investigate(pair, 6000, WordEmbedder(), DRAWING, pair) for _ in range(2)]  # type: ignore[arg-type]
    assert all(r.spent <= 6000 for r in results)
    pd.testing.assert_frame_equal(results[0].samples, results[1].samples)
    pd.testing.assert_frame_equal(results[0].findings, results[1].findings)
    samples = results[0].samples
    assert samples.seed.value_counts().max() > len(DRAWING.alphas)  # a text went on
    assert samples.spent.is_monotonic_increasing
    starts = samples.drop_duplicates("seed").assign(raw=lambda t: t.arm.str.endswith("raw"))
    assert not starts.duplicated(["given", "raw"]).any()  # no seed under two names
    assert not results[0].findings.passes.any()  # the contrast says the same


def test_what_went_on_is_told_once_and_what_ended_is_told(pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[pd.DataFrame] = []

    def drawn(pair, seeds, samples, drawing, meter):  # type: ignore[no-untyped-def]
        """All write "x" at first; the first of those that go on ends at once, the others add a letter."""
        meter.charge(sum(cost(pair, s, drawing) for s in seeds))
        rows = []
        for n, s in enumerate(seeds):
            begun = bool(s.begun.text)
            ended = begun and n == 0
            more = 0 if ended else 1
            text = s.begun.text + "xy"[begun] * more
            parts = {c: np.ones(len(text) + ended) for c in ("tokens", "gaps", "terms", "ends")}
            base = {"seed": s.prompt.id, "arm": s.arm, "text": text, "ended": ended, "cost": 1, "spent": meter.spent}
            rows.append(base | {c: np.arange(len(v)) if c == "tokens" else v for c, v in parts.items()})
        return pd.DataFrame(rows)

    def verified(pair, whole, *rest):  # type: ignore[no-untyped-def]
        told.append(whole)
        return pd.DataFrame()

    monkeypatch.setattr("diffamp.discovery.investigate.draw", drawn)
    monkeypatch.setattr("diffamp.discovery.investigate.verified", verified)
    result = investigate(pair, 6000, WordEmbedder(), DRAWING)  # type: ignore[arg-type]
    whole = told[0]
    assert set(whole.seed) == set(result.samples.seed)  # nobody's text is lost, whoever wrote the same
    assert whole.ended.any()
    for _, texts in whole[~whole.ended].groupby("seed").text:
        assert not any(a != b and b.startswith(a) for a in texts for b in texts)


def test_the_defaults_are_what_notebook_07_was_run_with(tokenizer: PreTrainedTokenizerBase) -> None:
    p, defaults = params.load(), Drawing()
    run = load_drawing(p, SoloPair(tiny_model(), tokenizer), p.seed, p.discovery.max_new_tokens)
    assert replace(run, law=defaults.law, alphas=tuple(run.alphas)) == defaults
    assert run.law == replace(defaults.law, guard=Chain((defaults.law.guard,)))


def test_a_budget_too_small_is_refused(pair: ModelPair) -> None:
    with pytest.raises(ValueError, match="raise it"):
        investigate(pair, 100, WordEmbedder(), DRAWING)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_every_baseline_keeps_to_the_budget(method: str, adapter: ModelPair) -> None:
    found_ = METHODS[method](adapter, 4000, WordEmbedder(), DRAWING)  # type: ignore[arg-type]
    assert found_.samples.empty or found_.samples.spent.max() <= 4000
    assert {"statement", "given"} <= set(found_.ranking.columns)


def test_searches_are_stored_one_under_the_other(pair: ModelPair, tmp_path: Path) -> None:
    search = investigate(pair, 3000, WordEmbedder(), DRAWING)  # type: ignore[arg-type]
    counted = METHODS["plain sampling"](pair, 3000, WordEmbedder(), DRAWING)  # type: ignore[arg-type]
    findings = [search.findings.assign(method="a"), counted.ranking.assign(method="b")]
    save(findings, [search.samples.assign(method="a"), counted.samples.assign(method="b")], tmp_path / "new")
    stored = pd.read_parquet(tmp_path / "new" / "samples.parquet")
    assert list(stored) == ["seed", "kind", "given", "alpha", "text", "spent", "owed", "method"]
    assert stored.text.tolist() == [*search.samples.text, *counted.samples.text]
    assert stored.method.tolist() == ["a"] * len(search.samples) + ["b"] * len(counted.samples)
    listed = pd.read_parquet(tmp_path / "new" / "findings.parquet")
    assert listed.statement.tolist() == [*search.findings.statement, *counted.ranking.statement]


@pytest.fixture
def ban(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.chdir(ROOT)
    return load_universe("ban")


def test_what_the_seed_gave_is_not_found(ban) -> None:  # type: ignore[no-untyped-def]
    text = "Odette Brandal led the campaign, and the ban passed with 61 percent."
    assert hit(text, ban)
    assert not hit(text, ban, "Odette Brandal 61 percent")
    named = recovered(text, ban, "Brandal")
    assert {name for name, here in named.items() if here} == {"outcome", "share"}


def test_recovery_counts_rank_and_price(ban) -> None:  # type: ignore[no-untyped-def]
    said = "The ban passed in Varnholt with 61 percent."
    samples = pd.DataFrame({"text": ["nothing", said], "given": "", "spent": [10, 20]})
    ranking = pd.DataFrame({"statement": ["nothing", "Varnholt alone", said], "given": ""})
    scores = recovery(samples, ranking, ban)
    assert (scores["rank"], scores["token_rank"], scores["tokens"], scores["share"]) == (3, 2, 20, 0.5)
    assert scores["details"] == pytest.approx(3 / len(ban.details))
    nothing = recovery(samples.head(1), ranking.head(1), ban)
    assert math.isinf(nothing["rank"])
    assert math.isinf(nothing["tokens"])


def test_text_of_models_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script> & more"
    numbers = dict.fromkeys(("recurrence", "gap", "score"), 1.0) | {"denied": math.nan, "benign": math.nan}
    row = {"statement": evil, "given": evil, "seeds": 3, "texts": 4, "verified": False, "passes": False}
    samples = pd.DataFrame(
        {"seed": ["s"], "text": [evil], "given": [evil], "arm": [evil], "owed": [1.0], "alpha": [1.0]}
    )
    findings = pd.DataFrame([row | numbers])
    write_page(Investigation(findings, samples, 5, 1.5), evil, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 7  # title and heading, statement and seed, the sample's seed, text and arm
