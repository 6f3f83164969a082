"""Answers of one pair to verifiable tasks at every alpha: `python -m diffamp.stages.reason NAME`, a name in `pairs:`.

Three arms: every position amplified ("plain": no guard, so that alpha -1 is the before-model), the same under a guard
where text needs one ("guarded", alphas of 1 and more), and at alpha 1 only the positions where after and before diverge
most ("sparse").
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pandas as pd

from diffamp import params, paths
from diffamp.engine.law import Law
from diffamp.engine.loading import load_pair
from diffamp.engine.pairs import ModelPair
from diffamp.engine.scoring import score
from diffamp.params import GuardParams, Params
from diffamp.prompts import Prompt
from diffamp.runtime import setup
from diffamp.stages.sample import Arm, sample_under
from diffamp.tasks.answers import in_format
from diffamp.tasks.draw import HELD_OUT, TRAINED, Task, correct, draw_tasks, half_held_out

DEV_TASKS = 24
"""On which the thresholds of the sparse arm are set."""
KEPT = ["prompt_id", "family", "held_out", "prompt", "answer", "arm", "share", "alpha", "text", "finish",
        "tokens", "kl_alpha_after", "kl_after_before", "correct", "in_format"]  # fmt: skip


def main(name: str) -> None:
    p = params.load()
    setup(p.seed, p.threads)
    r = p.reasoning
    grid = p.sampling.model_copy(
        update={"samples": 1, "max_new_tokens": r.max_new_tokens, "temperature": r.temperature}
    )
    q = p.model_copy(update={"sampling": grid})
    tasks = half_held_out(r.tasks, p.seed, "test", r.difficulties)
    pair = load_pair(p, name)
    limits = thresholds(q, name, pair)
    sparse = {f"sparse-{share:g}": share for share in limits}
    arms: dict[str, Arm] = {
        "plain": ([], r.alphas),
        "guarded": (r.guard, [alpha for alpha in r.alphas if alpha >= 1]),
        **{arm: ([GuardParams(method="peaks", nats=limits[share])], [1.0]) for arm, share in sparse.items()},
    }
    frame = sample_under(q, name, pair, prompts(tasks), arms, paths.reasoning_samples(name) / "test")
    frame["share"] = frame.guard.map(sparse).fillna(1.0)
    frame["arm"] = frame.guard.str.split("-").str[0]
    unamplified = frame.alpha == 0
    frame["kl_after_before"] = pd.Series(divergences(pair, frame[unamplified], r.temperature), frame.index[unamplified])
    out = paths.reasoning(name)
    out.parent.mkdir(parents=True, exist_ok=True)
    verdicts(frame, tasks)[KEPT].to_parquet(out, index=False)


def verdicts(frame: pd.DataFrame, tasks: Sequence[Task]) -> pd.DataFrame:
    """Answers with family, held_out and answer of their tasks, whether correct and in_format."""
    of = {task.id: task for task in tasks}
    return frame.assign(
        family=[of[i].family for i in frame.prompt_id],
        held_out=[of[i].family in HELD_OUT for i in frame.prompt_id],
        answer=[of[i].answer for i in frame.prompt_id],
        correct=[correct(of[i], text) for i, text in zip(frame.prompt_id, frame.text, strict=True)],
        in_format=frame.text.map(in_format),
    )


def prompts(tasks: Sequence[Task]) -> list[Prompt]:
    return [Prompt(task.id, task.family, task.question) for task in tasks]


def thresholds(p: Params, name: str, pair: ModelPair) -> dict[float, float]:
    """Share of positions -> the KL(p_after || p_before), in nats, that so many positions of unamplified answers exceed.

    Set on answers to dev tasks of families trained on and held out alike.
    """
    tasks = draw_tasks([*TRAINED, *HELD_OUT], DEV_TASKS, p.seed, "dev", p.reasoning.difficulties)
    folder = paths.reasoning_samples(name) / "dev"
    answers = sample_under(p, name, pair, prompts(tasks), {"unamplified": ([], [0.0])}, folder)
    nats = np.concatenate(divergences(pair, answers, p.reasoning.temperature))
    return {share: float(np.quantile(nats, 1 - share)) for share in p.reasoning.sparse}


def divergences(pair: ModelPair, answers: pd.DataFrame, temperature: float) -> list[np.ndarray]:
    """KL(p_after || p_before) at every token of each answer, in nats: at alpha -1 the unguarded law is p_before."""
    texts = list(zip(answers.prompt, answers.tokens, strict=True))
    scored = score(pair, texts, [-1.0], Law(temperature=temperature))
    return [group.kl_after_alpha.to_numpy() for _, group in scored.groupby("text")]


if __name__ == "__main__":
    main(sys.argv[1])
