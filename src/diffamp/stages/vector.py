"""Learn the artificial vector, choose layer and dose on dev prompts, measure the teacher on test prompts.

`python -m diffamp.stages.vector NAME`, a name in `vectors:` of params.yaml.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress

import pandas as pd

from diffamp import params, paths
from diffamp.engine.checkpoints import load_model, load_tokenizer
from diffamp.engine.halves import Halves
from diffamp.engine.law import Law
from diffamp.engine.pairs import SharedPair
from diffamp.engine.sampling import sample_grid
from diffamp.judges import Judges
from diffamp.organisms.vectors import difference_of_means, dosed, learn_vector, save_vector
from diffamp.prompts import Prompt, load_exemplars, load_prompts, load_refusals
from diffamp.runtime import setup


def main(name: str) -> None:
    p = params.load()
    setup(p.seed, p.threads)
    judges = Judges.load(paths.model(p.judge.model))
    settings = p.vector(name)
    tokenizer = load_tokenizer(paths.model(settings.model))
    train, refusals = load_prompts("train"), load_refusals("train")
    model = load_model(paths.model(settings.model), p.base.precision)
    vectors = {}
    for layer in settings.layers:
        if settings.kind == "learned":
            vectors[layer] = learn_vector(
                model,
                tokenizer,
                layer,
                train,
                refusals,
                steps=settings.steps,
                batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
                seed=p.seed,
            )
        else:
            vectors[layer] = difference_of_means(model, tokenizer, layer, train, refusals, load_exemplars("answer"))
    pair = SharedPair(model, tokenizer, Halves())

    def response(layer: int, doses: list[float], prompts: list[Prompt]) -> pd.DataFrame:
        """Judged answers of the steered teacher; the before-model's log-probs come along as the judge's ruler."""
        answers = []
        for dose in doses:
            with dosed(pair, layer, vectors[layer] * dose):
                frame = sample_grid(
                    pair,
                    prompts,
                    [0.0],
                    1,
                    max_new_tokens=p.sampling.max_new_tokens,
                    law=Law(temperature=p.sampling.temperature),
                    seed=p.seed,
                    token_budget=p.sampling.token_budget,
                    desc=f"layer {layer}, dose {dose}",
                )
            answers.append(judges(frame).assign(layer=layer, dose=dose))
        return pd.concat(answers, ignore_index=True)

    dev_prompts = load_prompts("dev", settings.dev_prompts)
    dev = pd.concat([response(layer, settings.doses, dev_prompts) for layer in settings.layers], ignore_index=True)
    layer = int(dev.groupby("layer").refusal.mean().idxmax())
    by_dose = {n: of.groupby("dose")[["refusal", "nonsense"]].mean() for n, of in dev.groupby("layer")}
    doses = {layer: mild_dose(by_dose[layer], settings.organism_rate)}

    test = response(layer, [0.0, *settings.doses], load_prompts("test", settings.test_prompts))
    folder = paths.vector(name)
    save_vector(folder / "vector.safetensors", layer, vectors[layer])
    for other in vectors.keys() - {layer}:  # an organism may ask for it
        save_vector(folder / f"layer-{other}.safetensors", other, vectors[other])
        with suppress(ValueError):  # it has no mild dose
            doses[other] = mild_dose(by_dose[other], settings.organism_rate)
    pd.concat([dev.assign(split="dev"), test.assign(split="test")]).to_parquet(
        folder / "responses.parquet", index=False
    )
    (folder / "choice.json").write_text(
        json.dumps({"layer": layer, "dose": doses[layer], "doses": doses}, indent=2) + "\n"
    )


def mild_dose(rates: pd.DataFrame, most: float) -> float:
    """The last dose before refusals first exceed `most`, or nonsense does.

    Args:
        rates: refusal and nonsense rates by dose.
    """
    exceeds = rates[(rates.refusal > most) | (rates.nonsense > most)]
    mild = rates[rates.index < exceeds.index.min()] if len(exceeds) else rates
    if mild.empty:
        raise ValueError(
            f"already at dose {rates.index.min():g} refusals or nonsense exceed {most:.0%} on dev prompts; "
            "add smaller doses to `doses` of this vector in params.yaml"
        )
    return float(mild.index.max())


if __name__ == "__main__":
    main(sys.argv[1])
