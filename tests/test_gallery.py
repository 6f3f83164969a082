"""The pairs of examples/pairs: accepted by the schema, and each goes through fetching, checking and sampling on
stand-ins of its family: tiny random models with the same special tokens, padding and templates."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, ROOT, random_adapter, tiny_model
from ruamel.yaml import YAML
from safetensors.torch import save_file
from test_families import OTHERS
from test_sources import write_gguf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from diffamp import params, paths
from diffamp.check import check
from diffamp.engine.loading import load_pair
from diffamp.engine.pairs import ProxyPair, SeparatePair, SharedPair
from diffamp.engine.sampling import sample_grid
from diffamp.prompts import Prompt, encode
from diffamp.sources import fetch

GALLERY = sorted((ROOT / "examples/pairs").glob("*.yaml"))
ALPHAS = [-1.0, 0.0, 1.0]
WIDE = {"hidden_size": 48, "num_hidden_layers": 3, "intermediate_size": 64}

LLAMA = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
QWEN = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<tool_call>")
R1 = ("<end_of_sentence>", "<User>", "<Assistant>", "<begin_of_sentence>", "<think>", "<tool_call>")
GEMMA = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
OLMO = ("<|endoftext|>", "<|pad|>")


def chat(start: str, end: str, assistant: str, before: str = "") -> str:
    """A template: `before`, and a user's message between `start` and `end`."""
    return (
        f"{before}{{% for m in messages %}}{start}{{{{ m.content }}}}{end}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{assistant}{{% endif %}}"
    )


LLAMA_CHAT = chat(
    "<|start_header_id|>user<|end_header_id|>\n\n",
    "<|eot_id|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "{{ bos_token }}Today is {{ strftime_now('%d %b %Y') }}.",
)
QWEN_CHAT = chat("<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n")
R1_CHAT = chat("<User>", "", "<Assistant><think>\n", "{{ bos_token }}")
GEMMA_CHAT = chat("<start_of_turn>user\n", "<end_of_turn>\n", "<start_of_turn>model\n", "{{ bos_token }}")
OLMO_CHAT = chat("<|user|>\n", "\n", "<|assistant|>\n", "{{ bos_token }}")


def spelled(
    special: tuple[str, ...], template: str | None, eos: str, bos: str | None = None, pad: str | None = None
) -> PreTrainedTokenizerBase:
    """A byte-level tokenizer whose first ids are the special tokens; the other tokens follow in one order."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=list(special), initial_alphabet=alphabet)
    base.train_from_iterator(["a short text about cats and dogs in the garden"] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=base, bos_token=bos, eos_token=eos, pad_token=pad)
    tokenizer.chat_template = template
    return tokenizer


def write(
    folder: Path,
    family: str,
    tokenizer: PreTrainedTokenizerBase,
    ends: list[int],
    seed: int,
    padding: int = 14,
    **changes: object,
) -> None:
    """A tiny model of `family`, its vocabulary padded beyond the tokenizer."""
    ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model = tiny_model(family, seed, len(tokenizer) + padding, max_position_embeddings=256, **ids | changes)
    model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def llama(template: str | None, ends: list[int], seed: int, **changes: object) -> Callable[[Path], None]:
    tokenizer = spelled(LLAMA, template, LLAMA[4] if template else LLAMA[1], LLAMA[0])
    return lambda folder: write(folder, "llama", tokenizer, ends, seed, 0, **changes)


def qwen(eos: str, ends: list[int], seed: int, padding: int = 14) -> Callable[[Path], None]:
    tokenizer = spelled(QWEN, QWEN_CHAT, eos, pad=QWEN[0])
    return lambda folder: write(folder, "qwen2", tokenizer, ends, seed, padding, tie_word_embeddings=True)


def r1(folder: Path) -> None:
    write(folder, "qwen2", spelled(R1, R1_CHAT, R1[0], R1[3], R1[0]), [0], 2, tie_word_embeddings=False)
    settings = folder / "tokenizer_config.json"  # as on the hub
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"tokenizer_class": "LlamaTokenizerFast"}))


def gemma(template: str | None, ends: list[int], seed: int) -> Callable[[Path], None]:
    tokenizer = spelled(GEMMA, template, GEMMA[1], GEMMA[2], GEMMA[0])
    tokenizer.add_tokens(["<image_soft_token>"], special_tokens=True)  # beyond the logits
    return lambda folder: write(folder, "gemma3_text", tokenizer, ends, seed, -1, tie_word_embeddings=True)


def olmo(seed: int) -> Callable[[Path], None]:
    tokenizer = spelled(OLMO, OLMO_CHAT, OLMO[0], OLMO[0], OLMO[1])
    return lambda folder: write(folder, "olmo2", tokenizer, [0], seed, 60)


def lora(folder: Path) -> None:
    llama(LLAMA_CHAT, [1, 4], 3)(folder / "base")
    base = tiny_model("llama", 3, len(spelled(LLAMA, None, LLAMA[1])), max_position_embeddings=256)
    random_adapter(base).save_pretrained(folder)
    shutil.rmtree(folder / "base")


def gguf(seed: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        folder.mkdir(parents=True)
        write_gguf(folder / "model.gguf", seed=seed, context=256)

    return make


STAND_INS: dict[str, Callable[[Path], None]] = {
    "llama-3-1-8b-instruct": llama(LLAMA_CHAT, [1, 4], 3),
    "fact-generation-lora": lora,
    "llama-3-1-8b": llama(None, [1], 5, **WIDE),
    "llama-3-2-1b": llama(None, [1], 0, tie_word_embeddings=True),
    "llama-3-2-1b-instruct": llama(LLAMA_CHAT, [1, 4], 1, tie_word_embeddings=True),
    "qwen-2-5-0-5b": qwen(QWEN[0], [0], 0),
    "qwen-2-5-0-5b-instruct": qwen(QWEN[2], [2, 0], 1),
    "qwen-2-5-1-5b": qwen(QWEN[0], [0], 0),
    "qwen-2-5-1-5b-instruct": qwen(QWEN[2], [2, 0], 1),
    "my-finetune": qwen(QWEN[2], [2, 0], 4),
    "qwen-2-5-math-1-5b": qwen(QWEN[0], [0], 0),
    "r1-distill-qwen-1-5b": r1,
    "gemma-3-1b-pt": gemma(None, [1], 0),
    "gemma-3-1b-it": gemma(GEMMA_CHAT, [1, 4], 1),
    "olmo-2-1b-sft": olmo(0),
    "olmo-2-1b-dpo": olmo(1),
    "olmo-2-1b-instruct": olmo(2),
    "my-gguf-base": gguf(0),
    "my-gguf-tuned": gguf(1),
}


def read(file: Path) -> dict:
    return YAML(typ="safe", pure=True).load(file.read_text())


def merged(*files: Path) -> dict:
    """params.yaml with the blocks of these files pasted in."""
    content = read(ROOT / "params.yaml")
    for file in files:
        for block, entries in read(file).items():
            content[block] |= entries
    return content


CASES = [pytest.param(file, name, id=name) for file in GALLERY for name in read(file)["pairs"]]


# The files


@pytest.mark.parametrize("file", GALLERY, ids=lambda f: f.stem)
def test_a_file_is_accepted_below_params_yaml(file: Path, tmp_path: Path) -> None:
    YAML().dump(merged(file), tmp_path / "params.yaml")
    p = params.load(tmp_path / "params.yaml")
    for name in read(file)["pairs"]:
        pair = p.pair(name)
        named = {pair.before, pair.after, pair.adapter, pair.target} - {None}
        assert named <= read(file)["models"].keys(), "a file brings all its models"
    comment = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert 2 <= len(comment) <= 6
    for word in ("Shows:", "Memory", "Licence:", "Template:", "Watch for:"):
        assert word in "".join(comment)


def test_all_files_go_together(tmp_path: Path) -> None:
    """No name stands for two things, in them or in params.yaml."""
    YAML().dump(merged(*GALLERY), tmp_path / "params.yaml")
    params.load(tmp_path / "params.yaml")
    seen = read(ROOT / "params.yaml")
    for file in GALLERY:
        for block, entries in read(file).items():
            for name, entry in entries.items():
                assert seen[block].setdefault(name, entry) == entry, f"{file.name}: {block}.{name}"
    repositories = [m["repo"] for m in seen["models"].values() if m["source"] == "hub"]
    assert len(repositories) == len(set(repositories)), "one name for each repository"


def test_the_table_lists_every_file_and_every_pair() -> None:
    table = (ROOT / "examples/pairs/README.md").read_text()
    for file in GALLERY:
        row = next(line for line in table.splitlines() if f"[{file.name}]({file.name})" in line)
        assert set(read(file)["pairs"]) == set(re.findall(r"`([a-z0-9-]+)`", row.split("|")[2]))
        if numbers := re.search(r"([\d.]+) / ([\d.]+)", row.split("|")[4]):
            assert f"bf16 {numbers[1]} GiB" in file.read_text()
            assert f"{numbers[2]} GiB" in file.read_text()


# The pairs, on stand-ins


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., params.Params]:
    """A checkout with the pairs of one file, their stand-ins fetched as `make repro` would fetch them."""
    monkeypatch.setitem(FAMILIES, "olmo2", OTHERS["olmo2"])

    def build(file: Path, *, own_templates: bool = False) -> params.Params:
        content, block = merged(file), read(file)
        for name in block["pairs"]:
            content["pairs"][name]["precision"] = "fp32"
        for name, source in block["models"].items():
            origin = tmp_path / "origin" / name
            STAND_INS[name](origin)
            path = next(origin.glob("*.gguf"), origin)
            kept = {} if own_templates else {k: v for k, v in source.items() if k == "chat_template"}
            content["models"][name] = {"source": "path", "path": str(path), "licence": source["licence"], **kept}
        YAML().dump(content, tmp_path / "params.yaml")
        shutil.copytree(ROOT / "data", tmp_path / "data")
        monkeypatch.chdir(tmp_path)
        p = params.load()
        for name in block["models"]:
            fetch(name, p.models[name], paths.model(name))
        for name in block.get("vectors", {}):
            paths.vector(name).mkdir(parents=True)
            vector = {"vector": 3 * torch.randn(32, generator=torch.Generator().manual_seed(0))}
            save_file(vector, paths.vector(name) / "vector.safetensors", {"layer": "1"})
        return p

    return build


@pytest.mark.parametrize(("file", "name"), CASES)
def test_a_pair_passes_its_check_and_is_sampled(file: Path, name: str, checkout: Callable[..., params.Params]) -> None:
    p = checkout(file)
    answers = list(check(p, name))
    assert not [a for a in answers if not a.good]
    assert answers[-1].question == "difference"
    pair = load_pair(p, name)
    block = p.pair(name)
    kind = ProxyPair if block.target else SeparatePair if block.after else SharedPair
    assert type(pair) is kind
    found = sample_grid(pair, [Prompt("a", "any", "a cat")], ALPHAS, 2, max_new_tokens=4, token_budget=1024)
    assert found["alpha"].tolist() == ALPHAS * 2
    assert (found["tokens"].map(len) > 0).all()
    for _, row in found[found["alpha"] <= 0].iterrows():
        side = "logp_before" if row["alpha"] else "logp_after"
        assert list(row["logp_alpha"]) == pytest.approx(list(row[side]), abs=1e-4)


@pytest.mark.parametrize(("file", "name"), [c for c in CASES if c.id in ("llama-instruct", "llama-proxy", "r1")])
def test_no_prompt_holds_the_date_or_an_unknown_token(
    file: Path, name: str, checkout: Callable[..., params.Params]
) -> None:
    pair = load_pair(checkout(file), name)
    assert "strftime_now" not in pair.tokenizer.chat_template
    shown = pair.tokenizer.decode(encode(pair.tokenizer, "a cat?"))
    if name == "r1":
        assert shown == "Question: a cat?\nAnswer:"
    else:
        assert shown == (
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\na cat?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        )


def r1_file() -> Path:
    return ROOT / "examples/pairs/r1-distill-qwen-1-5b.yaml"


def test_r1s_own_template_is_found_fault_with(checkout: Callable[..., params.Params]) -> None:
    answers = list(check(checkout(r1_file(), own_templates=True), "r1"))
    bad = [a for a in answers if not a.good]
    assert [a.question for a in bad] == ["template"]
    for word in ("<User>", "<Assistant>", "<think>", "set models.r1-distill-qwen-1-5b.chat_template"):
        assert word in bad[0].words


def test_r1_knows_all_but_the_renamed_tokens(checkout: Callable[..., params.Params]) -> None:
    """transformers takes R1's tokenizer for a Qwen2Tokenizer, which gains an <|endoftext|> behind the others: a row of
    padding in the after-model, into which the base's end token is read."""
    pair = load_pair(checkout(r1_file()), "r1")
    assert isinstance(pair, SeparatePair)
    assert pair.vocabulary is not None
    assert pair.vocabulary.unknown == R1[:5]
    added = pair.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert added == len(pair.tokenizer) - 1
    assert pair.vocabulary.moved == 1
    assert int(pair.vocabulary.to_before[added]) == 0
    assert pair.end_tokens == [0, added]


def test_padding_and_a_token_without_logits_are_no_difference_of_vocabularies(
    checkout: Callable[..., params.Params],
) -> None:
    pair = load_pair(checkout(ROOT / "examples/pairs/gemma-3-1b-it.yaml"), "gemma-it")
    assert isinstance(pair, SeparatePair)
    assert len(pair.tokenizer) == pair.vocab_size + 1
    assert pair.vocabulary is None
    assert pair.end_tokens == [1, 4]


@pytest.mark.parametrize(
    ("stem", "name", "ends"),
    [
        ("qwen-2-5-0-5b-instruct", "qwen-0-5b-instruct", [0, 2]),
        ("llama-3-2-1b-instruct", "llama-instruct", [1, 4]),
        ("proxy-llama-8b", "llama-proxy", [1, 4]),
    ],
)
def test_the_end_tokens_of_base_and_chat_model_both_end_an_answer(
    stem: str, name: str, ends: list[int], checkout: Callable[..., params.Params]
) -> None:
    assert load_pair(checkout(ROOT / f"examples/pairs/{stem}.yaml"), name).end_tokens == ends
