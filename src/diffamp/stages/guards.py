"""Sample and judge one pair under every guard of `guards:`, on dev and on test prompts: notebook 05's data.

`python -m diffamp.stages.guards`
"""

from __future__ import annotations

import numpy as np

from diffamp import params, paths
from diffamp.engine.loading import load_pair
from diffamp.judges import Judges
from diffamp.prompts import load_prompts
from diffamp.runtime import setup
from diffamp.stages.sample import at_alphas, sample_under

KEPT = ["split", "guard", "alpha", "prompt_id", "sample", "text", "refusal", "nonsense", "kl_sum", "length"]


def main() -> None:
    p = params.load()
    setup(p.seed, p.threads)
    settings = p.guards
    dev, test = load_prompts("dev", settings.dev_prompts), load_prompts("test", settings.test_prompts)
    pair = load_pair(p, settings.pair)
    folder = paths.guard_samples()
    arms = at_alphas(settings.methods, settings.alphas)
    frame = sample_under(p, settings.pair, pair, [*dev, *test], arms, folder)
    judged = Judges.load(paths.model(p.judge.model))(frame).assign(
        split=np.where(frame.prompt_id.isin({prompt.id for prompt in dev}), "dev", "test"),
        kl_sum=frame.kl_alpha_after.map(np.sum),
        length=frame["tokens"].map(len),
    )
    out = paths.guards()
    out.parent.mkdir(parents=True, exist_ok=True)
    judged[KEPT].to_parquet(out, index=False)


if __name__ == "__main__":
    main()
