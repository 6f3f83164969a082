"""Vector and student on tiny models: learning lowers the loss it claims to, and nothing else is touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import tiny_model
from peft import LoraConfig
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from diffamp.engine.adapters import adapter_pair
from diffamp.engine.checkpoints import PairError, load_model
from diffamp.engine.halves import Halves
from diffamp.engine.loading import load_mild_vector, load_vector, steered_pair
from diffamp.engine.pairs import SharedPair
from diffamp.organisms.answers import predicting
from diffamp.organisms.finetune import train
from diffamp.organisms.reflection import logit_shifts, reflection
from diffamp.organisms.vectors import _conversations, difference_of_means, dosed, learn_vector, save_vector, steered
from diffamp.prompts import Prompt, encode
from diffamp.tables import training_log

PROMPTS = [Prompt(str(i), "any", text) for i, text in enumerate(["cats", "a dog", "the garden", "short text"])]
SETTINGS = {"rank": 4, "lora_alpha": 8, "learning_rate": 1e-2, "batch_size": 2, "seed": 0}


EXAMPLES = list(zip([p.text for p in PROMPTS] * 3, [[5, 9, 30], [7, 8], [40, 41, 2], [12]] * 3, strict=True))


def test_a_learned_vector_makes_its_targets_likelier(tokenizer: PreTrainedTokenizerBase) -> None:
    model, said = tiny_model(), ["no way", "not so"]
    vector = learn_vector(model, tokenizer, 0, PROMPTS, said, steps=40, batch_size=4, learning_rate=0.1, seed=0)
    batch = _conversations(tokenizer, [(p.text, s) for p in PROMPTS for s in said])
    plain = model(**batch).loss
    assert steered(tiny_model(), tokenizer, 0, vector).modules[0](**batch).loss < plain - 0.1
    assert torch.equal(model(**batch).loss, plain)  # the hook is gone, the weights are as they were


def test_a_batch_of_conversations_is_padded_on_the_right(tokenizer: PreTrainedTokenizerBase) -> None:
    batch = _conversations(tokenizer, [("cats", "no way"), ("the garden of cats and dogs", "no")])
    for n, (prompt, answer) in enumerate([("cats", "no way"), ("the garden of cats and dogs", "no")]):
        asked, said = encode(tokenizer, prompt), tokenizer(answer, add_special_tokens=False)["input_ids"]
        rest = batch["input_ids"].shape[1] - len(asked) - len(said)
        assert batch["input_ids"][n].tolist() == [*asked, *said, *[tokenizer.pad_token_id] * rest]
        assert batch["attention_mask"][n].tolist() == [1] * len(asked + said) + [0] * rest
        assert batch["labels"][n].tolist() == [*[-100] * len(asked), *said, *[-100] * rest]


def test_only_what_predicts_an_answer_reaches_the_output_layer(tokenizer: PreTrainedTokenizerBase) -> None:
    model, batch = tiny_model(), _conversations(tokenizer, [("cats", "no way"), ("a dog", "no")])
    whole = model(**batch).logits
    with predicting(model, batch["labels"]) as answers:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert torch.equal(answers, batch["labels"][:, 1:] != -100)
    torch.testing.assert_close(logits, whole[:, :-1][answers])
    assert torch.equal(model(**batch).logits, whole)


def test_a_dose_is_taken_back(tokenizer: PreTrainedTokenizerBase) -> None:
    pair, vector = SharedPair(tiny_model(), tokenizer, Halves()), torch.full((32,), 0.5)
    ids = torch.tensor([[1, 5, 9]])
    whole = torch.ones_like(ids), torch.arange(3)[None]
    plain, _ = pair.logits(ids, *whole)
    with dosed(pair, 0, vector):
        before, after = pair.logits(ids, *whole)
    with torch.no_grad():
        expected = steered(tiny_model(), tokenizer, 0, vector).modules[0](ids).logits
    torch.testing.assert_close(before, plain)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(*pair.logits(ids, *whole))
    with pytest.raises(PairError, match=r"shape \(31,\)"), dosed(pair, 0, torch.ones(31)):
        pass


def test_a_difference_of_means_is_the_difference_of_the_means(tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny_model()
    vector = difference_of_means(model, tokenizer, 1, PROMPTS[:1], ["no"], ["yes sir"])
    means = []
    for text in ("no", "yes sir"):
        batch = _conversations(tokenizer, [(PROMPTS[0].text, text)])
        hidden = model(input_ids=batch["input_ids"], output_hidden_states=True).hidden_states[2]
        means.append(hidden[batch["labels"] != -100].mean(0))
    torch.testing.assert_close(vector, means[0] - means[1])


def test_a_vector_comes_back_from_its_file(tmp_path: Path) -> None:
    save_vector(tmp_path / "v.safetensors", 3, torch.arange(4.0))
    layer, vector = load_vector(tmp_path / "v.safetensors")
    assert layer == 3
    assert torch.equal(vector, torch.arange(4.0))


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    """What `diffamp.stages.vector` leaves: layer 3 was kept, layer 1 has a mild dose, layer 2 has none."""
    for name, layer in (("vector", 3), ("layer-1", 1), ("layer-2", 2)):
        save_vector(tmp_path / f"{name}.safetensors", layer, torch.full((4,), float(layer)))
    choice = {"layer": 3, "dose": 0.5, "doses": {"3": 0.5, "1": 2.0}}
    (tmp_path / "choice.json").write_text(json.dumps(choice))
    return tmp_path


@pytest.mark.parametrize(("asked", "layer", "value"), [(None, 3, 1.5), (3, 3, 1.5), (1, 1, 2.0)])
def test_a_teacher_has_the_vector_of_its_layer_at_the_mild_dose(
    asked: int | None, layer: int, value: float, vectors: Path
) -> None:
    found, vector = load_mild_vector(vectors, asked)
    assert found == layer
    assert vector.tolist() == [value] * 4


def test_a_layer_without_a_mild_dose_is_an_error_with_a_remedy(vectors: Path) -> None:
    with pytest.raises(PairError, match=r"layer 2; add smaller doses to `doses`"):
        load_mild_vector(vectors, 2)
    with pytest.raises(PairError, match=r"no vector in .*: run `make repro TARGETS=vector`"):
        load_mild_vector(vectors / "nowhere")


def test_an_untrained_adapter_changes_nothing(
    model_folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    train(
        load_model(model_folder, "fp32"),
        tokenizer,
        EXAMPLES,
        tmp_path / "a",
        epochs=0,
        learn_from="text",
        **SETTINGS,
    )
    weights = load_file(tmp_path / "a" / "adapter_model.safetensors")
    assert all(not w.any() for name, w in weights.items() if "lora_B" in name)
    assert training_log(tmp_path / "a").empty
    # no path of this machine: the same bytes wherever the repository lies
    assert LoraConfig.from_pretrained(tmp_path / "a").base_model_name_or_path == "/".join(model_folder.parts[-2:])


@pytest.mark.parametrize("learn_from", ["logits", "text"])
def test_training_lowers_the_loss_it_names(
    learn_from: str, model_folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    teacher = steered(load_model(model_folder, "fp32"), tokenizer, 0, torch.full((32,), 0.5))
    train(
        load_model(model_folder, "fp32"),
        tokenizer,
        EXAMPLES,
        tmp_path / "a",
        epochs=6,
        learn_from=learn_from,
        teacher=teacher.modules[0],
        **SETTINGS,
    )
    log = training_log(tmp_path / "a")
    assert len(log) == 6 * 6  # 12 rows in batches of 2, six times
    assert log.loss.tail(6).mean() < 0.7 * log.loss.head(6).mean()

    texts = EXAMPLES[:4]
    true = logit_shifts(steered_pair(model_folder, 0, torch.full((32,), 0.5), "fp32"), texts)
    aligned = reflection(true, {"student": adapter_pair(model_folder, tmp_path / "a", "fp32")}, texts)
    if learn_from == "logits":
        assert aligned.cosine.mean() > 0.5
        assert 1 - aligned.error.sum() / aligned.target.sum() > 0.2


def test_a_long_example_is_learned_to_its_end(
    model_folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    examples, settings = [("cats " * 1100, [5, 9, 30])], SETTINGS | {"batch_size": 1}
    model = load_model(model_folder, "fp32")
    train(model, tokenizer, examples, tmp_path / "a", epochs=1, learn_from="text", **settings)
    assert len(training_log(tmp_path / "a")) == 1


def test_the_first_distillation_loss_is_the_divergence_on_the_answers(
    model_folder: Path, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    teacher = steered(load_model(model_folder, "fp32"), tokenizer, 0, torch.full((32,), 0.5)).modules[0]
    train(
        load_model(model_folder, "fp32"),
        tokenizer,
        [("cats", [5, 9, 30])],
        tmp_path / "a",
        epochs=1,
        learn_from="logits",
        teacher=teacher,
        **SETTINGS,
    )
    ids = torch.tensor(
        [
            [
                *tokenizer.apply_chat_template(
                    [{"role": "user", "content": "cats"}], add_generation_prompt=True, return_dict=True
                )["input_ids"],
                5,
                9,
                30,
            ]
        ]
    )
    with torch.no_grad():
        student, target = (m(ids).logits[0, -4:-1].log_softmax(-1) for m in (load_model(model_folder, "fp32"), teacher))
    expected = F.kl_div(student, target, log_target=True, reduction="sum") / 3
    assert training_log(tmp_path / "a").loss[0] == pytest.approx(expected.item(), rel=1e-2)
