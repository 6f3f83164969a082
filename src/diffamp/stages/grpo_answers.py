"""Answers between the student and what GRPO made of it: `python -m diffamp.stages.grpo_answers`.

The pair is the reasoning organism before and after its run of GRPO: alpha -1 is the student, 0 the reinforced one, and
above 0 what reinforcement changed is amplified. Written into large/grpo.parquet: dev tasks (which say whether it
improves) and test tasks.
"""

from __future__ import annotations

import pandas as pd

from diffamp import params, paths
from diffamp.engine.adapters import load_adapter
from diffamp.engine.checkpoints import load_tokenizer
from diffamp.engine.law import Law
from diffamp.engine.pairs import SeparatePair
from diffamp.engine.sampling import sample_grid
from diffamp.runtime import setup
from diffamp.stages.reason import prompts, verdicts
from diffamp.tasks.draw import TRAINED, draw_tasks, half_held_out

KEPT = ["prompt_id", "split", "family", "held_out", "prompt", "answer", "alpha", "text", "finish", "tokens",
        "kl_alpha_after", "correct", "in_format"]  # fmt: skip


def main() -> None:
    p = params.load()
    setup(p.seed, p.threads)
    r, base = p.reinforce, paths.model(p.base.model)
    before, after = (
        load_adapter(base, folder, p.base.precision) for folder in (paths.organism(r.student), paths.reinforced())
    )
    pair = SeparatePair(before, after, load_tokenizer(base))
    splits = {
        "dev": draw_tasks(TRAINED, r.dev_tasks, p.seed, "dev", p.reasoning.difficulties),
        "test": half_held_out(r.test_tasks, p.seed, "test", p.reasoning.difficulties),
    }
    frames = []
    for split, tasks in splits.items():
        answers = sample_grid(
            pair,
            prompts(tasks),
            r.alphas,
            1,
            max_new_tokens=p.reasoning.max_new_tokens,
            law=Law(temperature=p.reasoning.temperature),
            seed=p.seed,
            token_budget=p.sampling.token_budget,
            desc=f"{split} tasks",
        )
        frames.append(verdicts(answers, tasks).assign(split=split))
    pd.concat(frames, ignore_index=True)[KEPT].to_parquet(paths.reinforced_answers(), index=False)


if __name__ == "__main__":
    main()
