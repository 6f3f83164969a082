"""What a user sees who gives something wrong at run time: one clear sentence, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import random_adapter, tiny_model
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from diffamp import params, paths
from diffamp.engine.checkpoints import PairError
from diffamp.engine.guards import Plausibility
from diffamp.engine.law import Law
from diffamp.engine.loading import load_pair
from diffamp.engine.pairs import ModelPair, SoloPair
from diffamp.engine.records import Records, read_units
from diffamp.engine.sampling import sample_grid
from diffamp.organisms.vectors import save_vector
from diffamp.params import ParamsError
from diffamp.prompts import DataError, Prompt, load_exemplars, load_prompts, load_refusals, read_jsonl
from diffamp.stages import sample

NAN, INF = float("nan"), float("inf")
PAIRS = {
    "planted": {"before": "chat", "adapter": "planted"},
    "borrowed": {"before": "chat", "adapter": "borrowed"},
    "tuned": {"before": "chat", "after": "tuned"},
    "pushed": {"before": "chat", "steering": {"file": "vector.safetensors", "dose": 1.0}},
}
NAMED = {name: {"before": "chat", "adapter": "planted"} for name in ("steered", "benign", "identical")}
"""Pairs that params.yaml has to have."""
SETTINGS = {
    "seed": 0,
    "threads": 1,
    "models": {
        name: {"source": "path", "path": "/nowhere", "licence": "MIT"}
        for name in ("chat", "tuned", "borrowed", "judge")
    },
    "base": {"model": "chat", "precision": "fp32", "vector": "refuse"},
    "vectors": {
        "refuse": {
            "model": "chat",
            "kind": "learned",
            "layers": [0],
            "doses": [1.0],
            "organism_rate": 0.5,
            "steps": 1,
            "batch_size": 1,
            "learning_rate": 0.1,
            "dev_prompts": 1,
            "test_prompts": 1,
        }
    },
    "organisms": {"planted": {"vector": "refuse", "teacher": "steered", "learn_from": "text", "epochs": 1}},
    "finetune": {
        "rank": 2,
        "lora_alpha": 2,
        "learning_rate": 0.1,
        "batch_size": 1,
        "prompts": 1,
        "samples": 1,
        "max_new_tokens": 4,
        "temperature": 1.0,
    },
    "pairs": {
        name: pair | {"precision": "fp32"}
        for name, pair in (PAIRS | NAMED | {"hidden": {"before": "chat", "adapter": "hidden"}}).items()
    },
    "sampling": {
        "pairs": [*NAMED],
        "alphas": [0.0, 1.0],
        "prompts": 2,
        "samples": 1,
        "max_new_tokens": 4,
        "temperature": 1.0,
        "guards": {"none": [], "plausible": [{"method": "plausibility", "c": 0.1}]},
        "token_budget": 256,
    },
    "facts": {
        "learning_rate": 0.1,
        "organisms": {"hidden": {"universe": "ban", "dilution": 0, "documents": 1, "epochs": 1}},
    },
    "true_rate": {
        "doses": [0.1],
        "rates": [0.01],
        "alphas": [1.0],
        "defensive_share": 0.2,
        "dev_prompts": 1,
        "test_prompts": 1,
        "budget": 100,
        "replicates": 2,
    },
    "shifts": {
        "pairs": ["planted"],
        "contrast": "planted",
        "prompts": 1,
        "texts": 1,
        "text_tokens": 1,
        "first_tokens": 1,
    },
    "discovery": {
        "pairs": ["hidden"],
        "controls": ["planted"],
        "contrast": "planted",
        "budget": 1000,
        "alphas": [1.0],
        "scale": 1.5,
        "guard": [],
        "max_new_tokens": 1,
        "temperature": 1.0,
    },
    "guards": {
        "pair": "planted",
        "alphas": [0.0, 1.0],
        "dev_prompts": 1,
        "test_prompts": 1,
        "methods": {"none": [], "some": [{"method": "gate"}]},
    },
    "reasoning": {
        "organisms": {"worked": {"learn": "traces", "tasks": 1, "epochs": 1}},
        "learning_rate": 0.1,
        "pairs": ["planted"],
        "alphas": [-1.0, 0.0, 1.0],
        "difficulties": ["easy"],
        "tasks": 2,
        "max_new_tokens": 2,
        "temperature": 1.0,
        "guard": [],
        "sparse": [0.5],
    },
    "reinforce": {
        "student": "worked",
        "tasks": 2,
        "steps": 1,
        "prompts": 1,
        "answers": 2,
        "learning_rate": 0.1,
        "temperature": 1.0,
        "dev_tasks": 1,
        "test_tasks": 2,
        "alphas": [-1.0, 0.0, 1.0],
    },
    "transfer": {
        "pairs": ["planted", "planted"],
        "facts": ["hidden"],
        "alphas": [0.0, 1.0],
        "prompts": 1,
        "guards": {"none": [], "gated": [{"method": "gate"}]},
    },
    "judge": {"model": "judge"},
}
TEXTS = ["a short text", "about cats", "and dogs in the garden"]


@pytest.fixture
def checkout(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout in which all four pairs can be built and sampled; the working directory."""
    root = tmp_path / "checkout"
    (root / "data").mkdir(parents=True)
    (root / "params.yaml").write_text(json.dumps(SETTINGS))  # JSON is YAML
    rows = [{"id": f"p{n}", "category": "c", "split": "test", "text": text} for n, text in enumerate(TEXTS)]
    (root / "data" / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    base = tiny_model()
    for name, model in {"chat": base, "tuned": tiny_model(seed=1)}.items():
        model.save_pretrained(root / "models" / name)
        tokenizer.save_pretrained(root / "models" / name)
    wrapped = random_adapter(base)
    wrapped.save_pretrained(root / "artifacts" / "organisms" / "planted")
    wrapped.save_pretrained(root / "models" / "borrowed")
    save_vector(root / "vector.safetensors", 0, torch.ones(32))
    monkeypatch.chdir(root)
    monkeypatch.setattr(sample, "setup", lambda seed, threads: None)  # the process belongs to pytest
    return root


@contextmanager
def refusal(kind: type[Exception], *words: str) -> Iterator[None]:
    """The block fails with exactly this kind of error, its message holds the words, and no file appears or changes."""

    def files() -> dict[Path, bytes]:
        return {f: f.read_bytes() for f in Path.cwd().rglob("*") if f.is_file()}

    before = files()
    with pytest.raises(kind) as caught:
        yield
    assert type(caught.value) is kind
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files() == before


# A pair that cannot be built


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.usefixtures("checkout")
def test_the_checkout_is_right(name: str) -> None:
    """Every case below spoils one thing of it."""
    sample.main(name)
    assert len(list(paths.samples(name).glob("unit-*.parquet"))) == 1


@pytest.mark.parametrize("budget", [None, 0.5])
def test_a_budget_of_nats_adds_one_alpha_under_every_guard(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, budget: float | None
) -> None:
    settings = SETTINGS | {"sampling": SETTINGS["sampling"] | {"kl_budget": budget}}
    (checkout / "params.yaml").write_text(json.dumps(settings))
    prompts = checkout / "data" / "prompts.jsonl"
    prompts.write_text(prompts.read_text() + prompts.read_text().replace('"test"', '"dev"'))
    monkeypatch.setattr(sample, "PILOT", 1)
    sample.main("planted")
    found = {guard: set(of.alpha) for guard, of in read_units(paths.samples("planted")).groupby("guard")}
    assert found.keys() == {"none", "plausible"}
    for alphas in found.values():
        assert {0.0, 1.0} <= alphas
        assert len(alphas) == (2 if budget is None else 3)


def remove(path: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        target = root / path
        if target.is_dir():
            for file in target.iterdir():
                file.unlink()
            target.rmdir()
        else:
            target.unlink()

    return spoil


def cut(path: str, size: int) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        (root / path).write_bytes((root / path).read_bytes()[:size])

    return spoil


def write(path: str, text: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        (root / path).write_text(text)

    return spoil


def adapter_of(family: str = "llama", **changes: object) -> Callable[[Path], None]:
    """Trained on another base: its sizes, its depth, its family."""

    def spoil(root: Path) -> None:
        targets = ["q_proj", "v_proj"] if family == "llama" else "all-linear"
        config = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
        random_adapter(tiny_model(family, **changes), config).save_pretrained(root / "models" / "borrowed")

    return spoil


def vector_of(size: tuple[int, ...], layer: int = 0) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        save_vector(root / "vector.safetensors", layer, torch.ones(size))

    return spoil


def tensors_of(tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        save_file(tensors, root / "vector.safetensors", metadata=metadata)

    return spoil


def other_vocabulary(root: Path) -> None:
    """A tenth more tokens, unknown to the before-model."""
    file = root / "models" / "tuned" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary |= {f"other {i}": len(vocabulary) + i for i in range(len(vocabulary) // 10)}
    file.write_text(json.dumps(content))


FETCH = "run `make repro TARGETS=models` (of `models:`) or `make repro TARGETS=train` (of `organisms:`)"
AGAIN = "delete the folder and run `make repro`"
NO_VECTOR = "vector.safetensors is not a steering vector written by diffamp"
PLANTED = "artifacts/organisms/planted"
UNBUILDABLE = {
    # what is wrong: (pair, what spoils it, what the message says)
    "base not fetched, adapter": ("planted", remove("models/chat"), ["no model in", "models/chat", FETCH]),
    "base not fetched, steering": ("pushed", remove("models/chat"), ["no model in", "models/chat", FETCH]),
    "before not fetched": ("tuned", remove("models/chat"), ["no model in", "models/chat", FETCH]),
    "after not fetched": ("tuned", remove("models/tuned"), ["no model in", "models/tuned", FETCH]),
    "weights cut": ("tuned", cut("models/tuned/model.safetensors", -10), ["the model in", "models/tuned", AGAIN]),
    "weights empty": ("tuned", cut("models/tuned/model.safetensors", 0), ["the model in", "models/tuned", AGAIN]),
    "weights absent": ("tuned", remove("models/tuned/model.safetensors"), ["the model in", "models/tuned", AGAIN]),
    "config cut": ("tuned", cut("models/tuned/config.json", 50), ["models/tuned", "damaged", AGAIN]),
    "tokenizer cut": ("tuned", cut("models/tuned/tokenizer.json", 50), ["the tokenizer in", "models/tuned", AGAIN]),
    "tokenizer absent": ("tuned", remove("models/tuned/tokenizer.json"), ["the tokenizer in", "models/tuned", AGAIN]),
    "vocabularies differ": (
        "tuned",
        other_vocabulary,
        ["vocabularies of chat and tuned do not match: ", "set `overlap` of the pair below"],
    ),
    "organism absent": ("planted", remove(PLANTED), ["no adapter in", PLANTED, "run `make repro`"]),
    "adapter absent": (
        "borrowed",
        remove("models/borrowed"),
        ["no adapter in", "models/borrowed", "correct `adapter`"],
    ),
    "a model for an adapter": ("borrowed", remove("models/borrowed/adapter_config.json"), ["no adapter in"]),
    "adapter weights absent": ("borrowed", remove("models/borrowed/adapter_model.safetensors"), ["no adapter in"]),
    "adapter weights cut": ("planted", cut(f"{PLANTED}/adapter_model.safetensors", -10), ["the adapter in", AGAIN]),
    "adapter weights empty": ("planted", cut(f"{PLANTED}/adapter_model.safetensors", 0), ["the adapter in", AGAIN]),
    "adapter header cut": ("planted", cut(f"{PLANTED}/adapter_model.safetensors", 100), [PLANTED, "damaged", AGAIN]),
    "adapter config cut": ("planted", cut(f"{PLANTED}/adapter_config.json", 50), ["the adapter in", "damaged", AGAIN]),
    "adapter config empty": (
        "planted",
        write(f"{PLANTED}/adapter_config.json", "{}"),
        ["KeyError: 'peft_type'", AGAIN],
    ),
    "adapter config a list": ("planted", write(f"{PLANTED}/adapter_config.json", "[]"), ["the adapter in", AGAIN]),
    "adapter of a wider base": (
        "borrowed",
        adapter_of(hidden_size=64),
        ["does not fit chat: size mismatch", "32, 4", "16, 4"],
    ),
    "adapter of a deeper base": (
        "borrowed",
        adapter_of(num_hidden_layers=3),
        ["does not fit chat: it holds 6 LoRA terms", "ask for 4"],
    ),
    "adapter of a shallower base": (
        "borrowed",
        adapter_of(num_hidden_layers=1),
        ["not fit chat: it holds 2 LoRA terms", "ask for 4"],
    ),
    "adapter of another family": (
        "borrowed",
        adapter_of("gpt_neox"),
        ["does not fit chat: Target modules", "not found"],
    ),
    "vector absent": (
        "pushed",
        remove("vector.safetensors"),
        ["no steering vector at", "run `make repro TARGETS=vector`", "`steering.file`"],
    ),
    "vector too narrow": ("pushed", vector_of((31,)), ["steering: ", "shape (31,), chat needs (32,)"]),
    "vector too wide": ("pushed", vector_of((33,)), ["steering: ", "shape (33,), chat needs (32,)"]),
    "vector a matrix": ("pushed", vector_of((2, 32)), ["steering: ", "shape (2, 32), chat needs (32,)"]),
    "vector a number": ("pushed", vector_of(()), ["steering: ", "shape (), chat needs (32,)"]),
    "layer too deep": ("pushed", vector_of((32,), 2), ["steering: layer 2 is outside chat's 2 layers"]),
    "layer negative": ("pushed", vector_of((32,), -1), ["steering: layer -1 is outside chat's 2 layers"]),
    "vector a text": ("pushed", write("vector.safetensors", "1 2 3"), [NO_VECTOR]),
    "vector empty": ("pushed", cut("vector.safetensors", 0), [NO_VECTOR]),
    "vector cut": ("pushed", cut("vector.safetensors", -1), [NO_VECTOR]),
    "vector by another name": ("pushed", tensors_of({"v": torch.ones(32)}, {"layer": "0"}), [NO_VECTOR, "vector"]),
    "vector without a layer": ("pushed", tensors_of({"vector": torch.ones(32)}, None), [NO_VECTOR]),
    "vector of a worded layer": ("pushed", tensors_of({"vector": torch.ones(32)}, {"layer": "one"}), [NO_VECTOR]),
    "unknown pair": ("plantd", lambda root: None, ["no pair 'plantd'", "'planted', 'pushed', 'steered', 'tuned']"]),
}


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")  # the error says so too
@pytest.mark.parametrize(("pair", "spoil", "words"), UNBUILDABLE.values(), ids=UNBUILDABLE.keys())
def test_pair_that_cannot_be_built(checkout: Path, pair: str, spoil: Callable[[Path], None], words: list[str]) -> None:
    spoil(checkout)
    with refusal(ParamsError if pair == "plantd" else PairError, *words):
        load_pair(params.load(), pair)


@pytest.mark.parametrize("case", ["after not fetched", "adapter weights cut", "layer too deep", "unknown pair"])
def test_stage_of_a_pair_that_cannot_be_built(checkout: Path, case: str) -> None:
    """From the command line: no folder of samples is begun."""
    pair, spoil, words = UNBUILDABLE[case]
    spoil(checkout)
    with refusal(ParamsError if pair == "plantd" else PairError, *words):
        sample.main(pair)


# Prompts and data files


GOOD = '{"id": "p1", "category": "c", "split": "test", "text": "hello"}\n'
BAD_DATA = {
    # what is wrong: (prompts.jsonl, what the message says)
    "empty": (b"", ["prompts.jsonl is empty", "one JSON object per line with id, category, split, text"]),
    "cut": ((GOOD + GOOD[:30]).encode(), ["prompts.jsonl line 2: not a JSON object"]),
    "single quotes": ((GOOD * 2 + "{'id': 'p3'}").encode(), ["prompts.jsonl line 3: not a JSON object"]),
    "blank line": (f"{GOOD}\n{GOOD}".encode(), ["prompts.jsonl line 2: not a JSON object"]),
    "list": (b'["p1", "hello"]\n', ["prompts.jsonl line 1: not a JSON object"]),
    "number": (b"1\n", ["prompts.jsonl line 1: not a JSON object"]),
    "null": (b"null\n", ["prompts.jsonl line 1: not a JSON object"]),
    "Latin-1": ((GOOD + GOOD.replace("hello", "h\xe9llo")).encode("latin-1"), ["line 2: not a JSON object in UTF-8"]),
    "no text": ((GOOD + '{"id": "p2", "category": "c", "split": "test"}').encode(), ["line 2: missing text"]),
    "no text, no split": (b'{"id": "p2", "category": "c"}', ["prompts.jsonl line 1: missing split, text"]),
    "null text": (GOOD.replace('"hello"', "null").encode(), ["prompts.jsonl line 1: missing text"]),
    "list for a text": (GOOD.replace('"hello"', '["hello"]').encode(), ["prompts.jsonl line 1: missing text"]),
}


@pytest.mark.parametrize(("content", "words"), BAD_DATA.values(), ids=BAD_DATA.keys())
def test_bad_prompt_file(checkout: Path, content: bytes, words: list[str]) -> None:
    (checkout / "data" / "prompts.jsonl").write_bytes(content)
    with refusal(DataError, *words):
        load_prompts("test")


@pytest.mark.parametrize("text", ["line\u2028separator", "next\x85line", "form\x0cfeed", "\u00e9\u4e2d"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_a_newline_ends_a_line(tmp_path: Path, text: str, end: str) -> None:
    """`str.splitlines` splits at characters that JSON may hold unescaped inside a string."""
    file = tmp_path / "rows.jsonl"
    rows = [{"id": n, "text": text} for n in range(3)]
    file.write_bytes(end.join(json.dumps(row, ensure_ascii=False) for row in rows).encode())
    assert read_jsonl(file, ["id", "text"]) == rows


@pytest.mark.parametrize(
    ("load", "file", "keys"),
    [
        (lambda: load_prompts("test"), "prompts.jsonl", "id, category, split, text"),
        (lambda: load_refusals("train"), "refusals.jsonl", "id, split, text"),
        (lambda: load_exemplars("refusal"), "exemplars.jsonl", "id, label, text"),
    ],
)
def test_data_file_missing_or_empty(checkout: Path, load: Callable[[], object], file: str, keys: str) -> None:
    (checkout / "data" / file).unlink(missing_ok=True)
    with refusal(FileNotFoundError, str(checkout / "data" / file), "is missing: run `make data`"):
        load()
    (checkout / "data" / file).touch()
    with refusal(DataError, f"{file} is empty", keys):
        load()


@pytest.mark.usefixtures("checkout")
def test_more_prompts_than_there_are() -> None:
    with refusal(DataError, "prompts.jsonl has 3 test prompts, 4 were asked for; lower the number in params.yaml"):
        load_prompts("test", 4)
    assert len(load_prompts("test", 3)) == 3


@pytest.mark.parametrize("spoiled", ["more prompts", "missing file", "no test prompts"])
def test_stage_with_bad_prompts(checkout: Path, spoiled: str) -> None:
    """From the command line: no folder of samples is begun."""
    file = checkout / "data" / "prompts.jsonl"
    match spoiled:
        case "more prompts":
            settings = SETTINGS | {"sampling": SETTINGS["sampling"] | {"prompts": 4}}
            (checkout / "params.yaml").write_text(json.dumps(settings))
            expected = refusal(DataError, "has 3 test prompts, 4 were asked for")
        case "missing file":
            file.unlink()
            expected = refusal(FileNotFoundError, "is missing: run `make data`")
        case _:
            file.write_text(file.read_text().replace('"test"', '"train"'))
            expected = refusal(DataError, "has 0 test prompts, 2 were asked for")
    with expected:
        sample.main("tuned")


def test_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"no params.yaml in {tmp_path} or any folder above it", "run this inside a diffamp checkout"]
    for ask in (paths.find_root, params.load, lambda: paths.data("prompts.jsonl"), lambda: sample.main("tuned")):
        with refusal(FileNotFoundError, *words):
            ask()


def test_inside_a_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "notebooks" / "deep").mkdir(parents=True)
    monkeypatch.chdir(checkout / "notebooks" / "deep")
    assert paths.find_root() == checkout
    assert paths.data("prompts.jsonl") == checkout / "data" / "prompts.jsonl"


# Amplifying and sampling


@pytest.fixture
def solo(tokenizer: PreTrainedTokenizerBase) -> ModelPair:
    return SoloPair(tiny_model(), tokenizer)


@pytest.mark.parametrize("alpha", [NAN, INF, -INF, torch.tensor([0.0, NAN]), torch.tensor([INF]), torch.zeros(2, 2)])
def test_alpha_of_amplify(solo: ModelPair, alpha: float | Tensor) -> None:
    with pytest.raises(
        ValueError, match=r"alpha must be a finite number or a \(batch,\) tensor of finite numbers, got"
    ):
        solo.amplify(alpha)


def test_alphas_for_another_batch(solo: ModelPair) -> None:
    amplified = solo.amplify(torch.tensor([0.0, 1.0, 2.0]))
    with pytest.raises(ValueError, match="alpha has 3 values for a batch of 2 rows"):
        amplified(torch.ones(2, 4, dtype=torch.long))


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, NAN, INF])
def test_temperature(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature must be a positive number, got {temperature}"):
        Law(temperature=temperature)


@pytest.mark.parametrize("c", [0, 0.0, -0.1, 1.0001, NAN, INF])
def test_share_of_plausibility(c: float) -> None:
    with pytest.raises(ValueError, match=rf"plausibility: c must lie in \(0, 1\], got {c}"):
        Plausibility(c)


FINE = Prompt("p1", "c", "a short text")
LONG = Prompt("p2", "c", "a short text about cats " * 30)
NOTHING = "a grid needs at least one prompt, one alpha, one sample and one new token"
BAD_GRIDS = {
    # what is wrong: (changes of a good grid, what the message says)
    "alpha nan": ({"alphas": [0.0, NAN]}, ["alphas must be finite numbers, got [0.0, nan]"]),
    "alpha inf": ({"alphas": [INF]}, ["alphas must be finite numbers, got [inf]"]),
    "alpha minus inf": ({"alphas": [-INF, 0.0]}, ["alphas must be finite numbers, got [-inf, 0.0]"]),
    "no prompts": ({"prompts": []}, [NOTHING]),
    "no alphas": ({"alphas": []}, [NOTHING]),
    "no samples": ({"samples": 0}, [NOTHING]),
    "negative samples": ({"samples": -1}, [NOTHING]),
    "no new tokens": ({"max_new_tokens": 0}, [NOTHING]),
    "long prompt": ({"prompts": [FINE, LONG]}, ["prompt 'p2' has ", "with 4 new ones it exceeds the context of 128"]),
    "many new tokens": ({"max_new_tokens": 125}, ["prompt 'p1' has 4 tokens; with 125 new ones it exceeds"]),
}


@pytest.mark.parametrize(("changes", "words"), BAD_GRIDS.values(), ids=BAD_GRIDS.keys())
def test_bad_grid(
    solo: ModelPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    records = Records(tmp_path / "units", {"grid": "bad"})
    grid = {"prompts": [FINE], "alphas": [0.0], "samples": 1, "max_new_tokens": 4} | changes
    with refusal(ValueError, *words):
        sample_grid(solo, **grid, records=records)


def test_the_longest_grid_that_fits(solo: ModelPair) -> None:
    assert len(sample_grid(solo, [FINE], [0.0], 1, max_new_tokens=124)) == 1


@pytest.mark.parametrize("prompts", [["p0"], ["p0", "p1"]], ids=["alone", "beside another"])
def test_prompt_without_a_token(prompts: list[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """A base model without a chat template has nothing to go on from."""
    plain = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>", eos_token="</s>", padding_side="left"
    )
    texts = {"p0": "", "p1": "a short text"}
    with pytest.raises(ValueError, match="prompt 'p0' has no token"):
        sample_grid(
            SoloPair(tiny_model(), plain), [Prompt(p, "c", texts[p]) for p in prompts], [0.0], 1, max_new_tokens=4
        )
