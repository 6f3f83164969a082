"""The difference of two small models added to a third: by hand, by `generate`, by the sampler, from params.yaml."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import NEW, PROMPTS, ROOT, batch, continue_, random_adapter, tiny_model
from peft import PeftModel
from ruamel.yaml import YAML
from test_vocabulary import GRID, SIZE, respelled
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from diffamp import params
from diffamp.check import check, main
from diffamp.engine.amplify import amplify
from diffamp.engine.checkpoints import PairError
from diffamp.engine.law import Law
from diffamp.engine.loading import fingerprint, load_pair
from diffamp.engine.pairs import ProxyPair, SeparatePair
from diffamp.engine.sampling import sample_grid
from diffamp.engine.scoring import score
from diffamp.engine.vocabulary import reconcile
from diffamp.prompts import encode

ALPHAS = [-1.0, 0.0, 1.0, 2.0]
WIDE = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture(params=["llama", "qwen2", "gemma3_text"])
def proxy(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerBase) -> ProxyPair:
    """A target wider and deeper than the two, and padded further."""
    before = tiny_model(request.param)
    deeper = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    changes = WIDE | (deeper if request.param == "gemma3_text" else {})
    target = tiny_model(request.param, seed=2, vocab=192, **changes)
    return ProxyPair(SeparatePair(before, random_adapter(before).merge_and_unload(), tokenizer), target)


def by_hand(pair: ProxyPair, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(positions, vocab) logits of before, after and target for one text without padding."""
    with torch.inference_mode():
        return tuple(model(input_ids=ids[None]).logits[0, :, : pair.vocab_size] for model in pair.modules)


# The equation


def test_alpha_zero_is_the_target_and_alpha_one_adds_the_difference(proxy: ProxyPair) -> None:
    assert proxy.vocab_size == 160
    for prompt in PROMPTS:
        ids = torch.tensor(prompt)
        small_before, small_after, target = by_hand(proxy, ids)
        for alpha in ALPHAS:
            with torch.inference_mode():
                found = proxy.amplify(alpha)(input_ids=ids[None]).logits[0]
            wanted = target + alpha * (small_after - small_before)
            torch.testing.assert_close(found, wanted, atol=2e-4, rtol=0)
        with torch.inference_mode():
            assert torch.equal(proxy.amplify(0.0)(input_ids=ids[None]).logits[0], target)


def test_alpha_zero_generates_what_the_target_generates(proxy: ProxyPair) -> None:
    with proxy.only("after") as target:
        # the target's rows beyond the common vocabulary are padding, which `generate` must not choose
        wanted = continue_(target, PROMPTS, suppress_tokens=list(range(proxy.vocab_size, 192)))
    assert continue_(proxy.amplify(0.0), PROMPTS) == wanted


@pytest.mark.parametrize("alpha", [-1.0, 1.0])
def test_generate_with_a_cache_is_greedy_decoding_without_one(proxy: ProxyPair, alpha: float) -> None:
    found = continue_(proxy.amplify(alpha), PROMPTS)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        assert answer == greedily(proxy, prompt, alpha, NEW)


def greedily(pair: ProxyPair, prompt: list[int], alpha: float, new: int) -> list[int]:
    ids = list(prompt)
    for _ in range(new):
        before, after, target = (x[-1] for x in by_hand(pair, torch.tensor(ids)))
        ids.append(int((target + alpha * (after - before)).argmax()))
    return ids[len(prompt) :]


def test_a_padded_batch_is_its_rows(proxy: ProxyPair) -> None:
    inputs = batch(PROMPTS)
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    for side, found in enumerate(proxy.logits(**inputs, position_ids=positions)):
        for row, prompt in enumerate(PROMPTS):
            before, after, target = by_hand(proxy, torch.tensor(prompt))
            wanted = (target - (after - before), target)[side]
            torch.testing.assert_close(found[row, -len(prompt) :], wanted, atol=2e-4, rtol=0)


def test_kept_positions_are_those_of_the_whole(proxy: ProxyPair) -> None:
    inputs = batch(PROMPTS)
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    keep = torch.tensor([[27, 30], [26, 25], [1, 2]]).clamp(max=inputs["input_ids"].shape[1] - 1)
    for whole, kept in zip(
        proxy.logits(**inputs, position_ids=positions),
        proxy.logits(**inputs, position_ids=positions, keep=keep),
        strict=True,
    ):
        wanted = whole.gather(1, keep[..., None].expand(-1, -1, whole.shape[-1]))
        torch.testing.assert_close(kept, wanted, atol=2e-4, rtol=0)


# The sampler


def test_what_is_sampled_is_what_is_scored(proxy: ProxyPair) -> None:
    found = sample_grid(proxy, GRID, ALPHAS, 2, max_new_tokens=5, token_budget=300)
    scored = score(proxy, list(zip(found["prompt"], found["tokens"], strict=True)), ALPHAS)
    for number, row in found.iterrows():
        of_row = scored[(scored["text"] == number) & (scored["alpha"] == row["alpha"])]
        for name in ("logp_before", "logp_after", "logp_alpha"):
            assert of_row[name].tolist() == pytest.approx(list(row[name]), abs=1e-3)


def test_cold_samples_are_greedy_decoding_without_a_cache(proxy: ProxyPair) -> None:
    found = sample_grid(proxy, GRID, ALPHAS, 1, max_new_tokens=6, law=Law(temperature=1e-4), token_budget=200)
    asked = {prompt.id: encode(proxy.tokenizer, prompt) for prompt in GRID}
    for _, row in found.iterrows():
        answer = greedily(proxy, asked[row["prompt_id"]], row["alpha"], 6)
        ended = [n for n, token in enumerate(answer) if token in proxy.end_tokens]
        assert list(row["tokens"]) == (answer[: ended[0] + 1] if ended else answer)


def test_a_proxy_of_renamed_tokens_reads_them_as_its_small_pair_does(tokenizer: PreTrainedTokenizerBase) -> None:
    before, after, target = tiny_model(vocab=SIZE), tiny_model(vocab=160, seed=1), tiny_model(vocab=160, seed=2)
    vocabulary = reconcile(respelled(tokenizer, {"<s>": "<begin>"}), tokenizer, SIZE, 160)
    before.generation_config.eos_token_id = [1, 9]  # <begin>, unknown to the others, and a common one
    target.generation_config.eos_token_id = 7
    small = SeparatePair(before, after, tokenizer, vocabulary=vocabulary)
    pair = ProxyPair(small, target)
    assert pair.end_tokens == [2, 7, 9]
    inputs = batch(PROMPTS) | {"position_ids": (batch(PROMPTS)["attention_mask"].cumsum(-1) - 1).clamp(min=0)}
    (b, a), (found, same) = small.logits(**inputs), pair.logits(**inputs)
    torch.testing.assert_close(amplify(found, same, 1.0), same + a - b, atol=2e-4, rtol=0)
    torch.testing.assert_close((same - found)[..., [1]], (a - b)[..., [1]], atol=2e-4, rtol=0)


def test_the_shortest_context_is_the_pairs(tokenizer: PreTrainedTokenizerBase) -> None:
    lengths = [tiny_model(seed=s, max_position_embeddings=n) for s, n in enumerate((256, 64, 512))]
    assert ProxyPair(SeparatePair(*lengths[:2], tokenizer), lengths[2]).context_length == 64
    assert SeparatePair(lengths[2], lengths[0], tokenizer).context_length == 256


def test_the_before_half_is_no_model(proxy: ProxyPair) -> None:
    with pytest.raises(ValueError, match="is a difference of logits, and no model of its own"), proxy.only("before"):
        pass


# From params.yaml


@pytest.fixture
def checkout(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base, a tuned one, an adapter, a larger target, and one of another vocabulary."""
    yaml = YAML()
    content = yaml.load(ROOT / "params.yaml")
    wide = tiny_model(seed=2, vocab=192, **WIDE)
    made = {"base": tiny_model(), "tuned": tiny_model(seed=1), "large": wide, "foreign": wide}
    for name, model in made.items():
        model.save_pretrained(tmp_path / "models" / name)
        other = respelled(tokenizer, {"<s>": "<begin>"}) if name == "foreign" else tokenizer
        other.save_pretrained(tmp_path / "models" / name)
    random_adapter(made["base"]).save_pretrained(tmp_path / "models" / "lora")
    for name in (*made, "lora"):
        content["models"][name] = {"source": "path", "path": "/nowhere", "licence": "none"}
    content["pairs"] |= {
        "two": {"before": "base", "after": "tuned", "target": "large", "precision": "fp32"},
        "adapted": {"before": "base", "adapter": "lora", "target": "large", "precision": "fp32"},
        "strange": {"before": "base", "after": "tuned", "target": "foreign", "precision": "fp32"},
    }
    yaml.dump(content, tmp_path / "params.yaml")
    shutil.copytree(ROOT / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["two", "adapted"])
def test_a_proxy_of_params_yaml(checkout: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pair = load_pair(params.load(), name)
    assert isinstance(pair, ProxyPair)
    base, large = tiny_model(), tiny_model(seed=2, vocab=192, **WIDE)
    after = tiny_model(seed=1) if name == "two" else PeftModel.from_pretrained(tiny_model(), checkout / "models/lora")
    ids = torch.tensor([PROMPTS[1]])
    with torch.inference_mode():
        found = pair.amplify(1.0)(input_ids=ids).logits
        b, a, target = (m(input_ids=ids).logits[..., :160] for m in (base, after, large))
        torch.testing.assert_close(found, target + a - b, atol=2e-4, rtol=0)
        assert continue_(pair.amplify(0.0), PROMPTS) == continue_(large, PROMPTS, suppress_tokens=[*range(160, 192)])
    sampled = sample_grid(pair, GRID, [0.0, 1.0], 1, max_new_tokens=4, token_budget=200)
    assert len(sampled) == 4
    assert main(name) == 0
    said = capsys.readouterr().out
    assert "BAD" not in said
    assert "ok   vocabulary: target large: one vocabulary" in said


def test_a_target_of_another_vocabulary_is_refused(checkout: Path) -> None:
    with pytest.raises(PairError, match=r"pairs.strange.target: foreign needs the vocabulary of the two models; 99"):
        load_pair(params.load(), "strange")
    answers = list(check(params.load(), "strange"))
    assert [a.question for a in answers if not a.good] == ["vocabulary"]
    assert answers[-1].words.startswith("target foreign: 99")


def test_the_fingerprint_sees_the_target(checkout: Path) -> None:
    p = params.load()
    before = fingerprint(p, "two"), fingerprint(p, "adapted")
    (checkout / "models/large/notes.txt").write_text("changed")
    after = fingerprint(p, "two"), fingerprint(p, "adapted")
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_a_target_with_another_template_lends_none(
    checkout: Path, tokenizer: PreTrainedTokenizerBase, edit: Callable[[Path], None]
) -> None:
    """Prompts are put as the after-model (with an adapter, its base) expects them."""
    edit(checkout / "models/large")
    for name in ("two", "adapted"):
        assert load_pair(params.load(), name).tokenizer.chat_template == tokenizer.chat_template
        template = [a for a in check(params.load(), name) if a.question == "template"]
        assert [("TARGET" in a.words, a.good) for a in template] == [(False, True)]


@pytest.fixture
def edit(tokenizer: PreTrainedTokenizerBase) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "chat_template.jinja").write_text("{% for m in messages %}TARGET{{ m['content'] }}{% endfor %}")

    return write
