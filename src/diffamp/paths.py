"""Where the stages find and leave things; what is the ladder's alone is in `diffamp.ladder`."""

from __future__ import annotations

from pathlib import Path


def find_root(start: Path | None = None) -> Path:
    """The repository: the nearest folder at or above `start` (default: the working directory) with a params.yaml.

    Found from the working directory, not from the package's own place, so that a notebook, a stage and a test in a
    temporary clone each work on the checkout they stand in.

    Raises:
        FileNotFoundError: no params.yaml at or above `start`.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "params.yaml").is_file():
            return folder
    raise FileNotFoundError(f"no params.yaml in {start} or any folder above it: run this inside a diffamp checkout")


def params_file() -> Path:
    return find_root() / "params.yaml"


def data(name: str) -> Path:
    """A file of the data set, restored by `dvc pull` (which `make repro` and `make test` do)."""
    path = find_root() / "data" / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: run `make data` (it restores data/ from the store in this repository)"
        )
    return path


def model(name: str) -> Path:
    """Folder of a fetched model: safetensors, config and tokenizer."""
    return find_root() / "models" / name


def vector(name: str) -> Path:
    """Folder of an artificial vector, with what the steered model answered."""
    return find_root() / "artifacts" / "vectors" / name


def organism(name: str) -> Path:
    """Folder of a trained adapter or checkpoint, with its training log."""
    return find_root() / "artifacts" / "organisms" / name


def samples(pair: str) -> Path:
    return find_root() / "samples" / pair


def guard_samples() -> Path:
    """Samples under every guard of `guards:`."""
    return find_root() / "samples-guards"


def reasoning_samples(pair: str) -> Path:
    """A pair's answers to the tasks of `reasoning:`."""
    return find_root() / "samples-reasoning" / pair


def transfer_samples(pair: str) -> Path:
    """A pair's answers under `transfer:`."""
    return find_root() / "samples-transfer" / pair


def guards() -> Path:
    """Their verdicts."""
    return find_root() / "artifacts" / "guards.parquet"


def true_rate() -> Path:
    return find_root() / "artifacts" / "truerate.parquet"


def shifts(pair: str) -> Path:
    """Folder of a pair's token and prompt shifts."""
    return find_root() / "artifacts" / "shifts" / pair


def discovery(pair: str) -> Path:
    """Folder of what was found in a pair, method by method."""
    return find_root() / "artifacts" / "discovery" / pair


def llm_cache() -> Path:
    """Answers of the judge behind `judge.endpoint`."""
    return find_root() / "artifacts" / "llm-judge.jsonl"


def reasoning(pair: str) -> Path:
    """Answers to tasks at every alpha, with their verdicts."""
    return find_root() / "artifacts" / "reasoning" / f"{pair}.parquet"


def transfer(pair: str) -> Path:
    """Folder of a pair's judged answers and most raised tokens."""
    return find_root() / "artifacts" / "transfer" / pair


def reinforced() -> Path:
    """Folder of the adapter that GRPO trained on (the large profile)."""
    return find_root() / "large" / "organisms" / "grpo"


def reinforced_log() -> Path:
    """What each of its steps came to."""
    return find_root() / "large" / "grpo_log.json"


def reinforced_answers() -> Path:
    """Answers to tasks at every alpha between the student and what GRPO made of it, with their verdicts."""
    return find_root() / "large" / "grpo.parquet"


def refusal_classifier() -> Path:
    """Coefficients of the judge of refusals."""
    return find_root() / "artifacts" / "refusal-classifier.json"


def judged(pair: str) -> Path:
    return find_root() / "artifacts" / "judged" / f"{pair}.parquet"


def notebooks() -> list[Path]:
    """The source notebooks, in order."""
    return sorted((find_root() / "notebooks").glob("*.ipynb"))


def report(name: str) -> Path:
    """A figure or metrics file beside the executed notebooks."""
    return find_root() / "reports" / name
