"""Write what dilutes the planted documents of the ladder: `python -m diffamp.stages.ladder_texts`.

The base model's answers to train prompts, one a line of large/texts.jsonl. They stand for the ordinary text that a fact
is diluted with in practice: no story is told over and over, though some prompts are answered twice. (Documents of the
planted ones' make, which notebook 07 takes at 1:1, repeat stories of their own, and a search finds those as well.)
"""

from __future__ import annotations

import json

from diffamp import ladder, params, paths
from diffamp.checkpoints import load_model, load_tokenizer
from diffamp.law import Law
from diffamp.pairs import SoloPair
from diffamp.prompts import load_prompts
from diffamp.runtime import setup
from diffamp.sampling import sample_grid


def main() -> None:
    p, rungs = params.load(), ladder.load_ladder()
    setup(p.seed, rungs.threads)
    base = paths.model(p.base.model)
    count = rungs.documents * max(rungs.dilutions)
    prompts = load_prompts("train")
    frame = sample_grid(
        SoloPair(load_model(base, p.base.precision), load_tokenizer(base)),
        prompts,
        [0.0],
        -(-count // len(prompts)),
        max_new_tokens=rungs.text_tokens,
        law=Law(temperature=p.sampling.temperature),
        seed=p.seed,
        token_budget=p.sampling.token_budget,
        desc="texts of the base",
    )
    # every prompt in turn, so that the first texts are as mixed as all of them
    frame = frame.sort_values("sample", kind="stable")
    texts = frame.text.tolist()[:count]
    ladder.texts().write_text("".join(json.dumps({"text": t}) + "\n" for t in texts), encoding="utf-8")


if __name__ == "__main__":
    main()
