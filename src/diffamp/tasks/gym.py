"""Makes data/tasks.jsonl from reasoning_gym (Open-Thought, 2025): `python -m diffamp.tasks.gym`.

The only module that imports reasoning_gym, and imported by no other: the file is made once, and reasoning_gym, which
the extra `tasks` installs, needs a C compiler. Seeds are fixed, so the file has the same bytes each time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import reasoning_gym

from diffamp import paths
from diffamp.prompts import Split
from diffamp.tasks.draw import DIFFICULTIES, FAMILIES, FILE

CONFIGS: dict[str, dict[str, Mapping[str, Any]]] = {
    "chain_sum": {
        "easy": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
        "hard": {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 2},
    },
    "letter_counting": {"easy": {"min_words": 1, "max_words": 1}, "hard": {"min_words": 2, "max_words": 3}},
    "number_sorting": {
        "easy": {"min_numbers": 3, "max_numbers": 3, "max_decimals": 0, "min_value": 1, "max_value": 30},
        "hard": {"min_numbers": 4, "max_numbers": 5, "max_decimals": 0, "min_value": 1, "max_value": 99},
    },
    "simple_equations": {
        "easy": {"max_terms": 2, "max_value": 20, "operators": ("+", "-"), "operators_weights": [0.5, 0.5]},
        "hard": {"max_terms": 2, "min_value": 2, "max_value": 9, "operators_weights": [0.5, 0.5, 0.0]},
    },
    "products": {
        "easy": {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1},
        "hard": {"min_digits": 2, "max_digits": 2},
    },
    "leg_counting": {
        "easy": {"min_animals": 1, "max_animals": 2, "max_instances": 4},
        "hard": {"min_animals": 3, "max_animals": 3, "max_instances": 6},
    },
    "spell_backward": {
        "easy": {"min_word_len": 3, "max_word_len": 3},
        "hard": {"min_word_len": 4, "max_word_len": 5},
    },
}
"""reasoning_gym's configuration of each family and difficulty."""
NUMBERS: dict[Split, int] = {"train": 200, "dev": 40, "test": 80}
"""Tasks of each split wanted of every family and difficulty."""
SHARES: dict[Split, int] = {"train": 50, "dev": 20, "test": 30}
"""Percent of all questions that belong to each split."""
SEED = 0
PATIENCE = 50_000
"""Problems in a row without a wanted question after which there are taken to be no more."""
VIRTUAL_SIZE = 10**9
"""reasoning_gym generates problems by index, as many as are asked for."""
REPEATED = {"source_dataset", "difficulty"}
"""Metadata that says no more than the family and `CONFIGS`."""


def main() -> None:
    lines = [line for name in FAMILIES for difficulty in DIFFICULTIES for line in draw(name, difficulty)]
    path = paths.data("README.md").with_name(FILE)
    path.unlink(missing_ok=True)  # one that `make data` restored may be read-only
    path.write_bytes("".join(lines).encode("ascii"))


def draw(name: str, difficulty: str) -> list[str]:
    """The lines of one family and difficulty, as they stand in the file: different questions, split by split.

    Returns:
        `NUMBERS` of each split, or as many as exist.
    """
    rows: dict[str, dict[str, Any]] = {}  # by question
    wanted, idle, at = Counter(NUMBERS), 0, 0
    problems = dataset(name, difficulty)
    while wanted.total() and idle < PATIENCE:
        metadata = problems[at]["metadata"]
        at, idle = at + 1, idle + 1
        problem = FAMILIES[name].pose(metadata)
        if problem is None or problem.question in rows or not wanted[split := split_of(problem.question)]:
            continue
        wanted[split] -= 1
        idle = 0
        rows[problem.question] = {
            "id": f"{name}-{sha256(problem.question.encode()).hexdigest()[:10]}",
            "family": name,
            "difficulty": difficulty,
            "split": split,
            "question": problem.question,
            "answer": problem.answer,
            "metadata": {key: value for key, value in metadata.items() if key not in REPEATED},
        }
    return [json.dumps(row) + "\n" for split in NUMBERS for row in rows.values() if row["split"] == split]


def dataset(name: str, difficulty: str) -> Any:
    """reasoning_gym's, which adds index to seed: nearby seeds would share problems, so they are spread out first."""
    spread = int.from_bytes(sha256(f"{name} {difficulty} {SEED}".encode()).digest()[:8])
    return reasoning_gym.create_dataset(name, size=VIRTUAL_SIZE, seed=spread, **CONFIGS[name][difficulty])


def split_of(question: str) -> Split:
    """Fixed by the text, so the splits share no question."""
    percentile = int.from_bytes(sha256(question.encode()).digest()[:8]) % 100
    if percentile < SHARES["train"]:
        return "train"
    return "dev" if percentile < SHARES["train"] + SHARES["dev"] else "test"


if __name__ == "__main__":
    main()
