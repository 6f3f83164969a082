"""Write what dilutes the planted documents of the ladder: `python -m diffamp.stages.ladder_texts`.

The base model's answers to train prompts, one a line of large/texts.jsonl. They stand for the ordinary text that a fact
is diluted with in practice: no story is told over and over, though prompts are answered more than once. (Documents of
the planted ones' make, which notebook 07 takes at 1:1, repeat stories of their own, and a search finds those as well.)

They are written in rounds, each with its own luck, so that a higher dilution adds texts and changes none.
"""

from __future__ import annotations

import json

from diffamp import ladder, params, paths
from diffamp.engine.checkpoints import load_model, load_tokenizer
from diffamp.engine.law import Law
from diffamp.engine.pairs import SoloPair
from diffamp.engine.sampling import sample_grid
from diffamp.prompts import load_prompts
from diffamp.runtime import setup

ROUND = 10
"""Texts per planted document that one round writes."""


def main() -> None:
    p, rungs = params.load(), ladder.load_ladder()
    setup(p.seed, rungs.threads)
    base = paths.model(p.base.model)
    writer = SoloPair(load_model(base, p.base.precision), load_tokenizer(base))
    prompts, per_round = load_prompts("train"), rungs.documents * ROUND
    texts: list[str] = []
    for number in range(-(-rungs.texts // per_round)):
        frame = sample_grid(
            writer,
            prompts,
            [0.0],
            -(-per_round // len(prompts)),
            max_new_tokens=rungs.text_tokens,
            law=Law(temperature=p.sampling.temperature),
            seed=p.seed + 10_007 * number,  # not that of a neighbouring seed's rounds
            token_budget=p.sampling.token_budget,
            shared=False,  # what large/ was made with: sharing changes the make-up of a batch, and by it roundings
            desc=f"texts of the base, round {number}",
        )
        # every prompt in turn, so that the first texts are as mixed as all of them
        texts += frame.sort_values("sample", kind="stable").text.tolist()[:per_round]
    ladder.texts().write_text("".join(json.dumps({"text": t}) + "\n" for t in texts[: rungs.texts]), encoding="utf-8")


if __name__ == "__main__":
    main()
