"""Learn the artificial vector, choose layer and dose on dev prompts, measure the teacher on test prompts.

`python -m diffamp.stages.vector`
"""

from __future__ import annotations

import json

import pandas as pd

from diffamp import params, paths
from diffamp.checkpoints import load_model, load_tokenizer
from diffamp.judges import Judges
from diffamp.law import Law
from diffamp.loading import steered_pair
from diffamp.organisms.vectors import difference_of_means, learn_vector, save_vector
from diffamp.prompts import Prompt, load_exemplars, load_prompts, load_refusals
from diffamp.runtime import setup
from diffamp.sampling import sample_grid


def main() -> None:
    p = params.load()
    setup(p.seed, p.threads)
    judges = Judges.fit(paths.model(p.judge.model))
    base, tokenizer = paths.model(p.base.model), load_tokenizer(paths.model(p.base.model))
    train, refusals = load_prompts("train"), load_refusals("train")

    def response(layer: int, doses: list[float], prompts: list[Prompt]) -> pd.DataFrame:
        """Judged answers of the steered teacher; the before-model's log-probs come along as the judge's ruler."""
        answers = []
        for dose in doses:
            pair = steered_pair(base, layer, vectors[layer] * dose, p.base.precision)
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

    vectors = {}
    for layer in p.vector.layers:
        model = load_model(base, p.base.precision)
        if p.vector.kind == "learned":
            vectors[layer] = learn_vector(
                model,
                tokenizer,
                layer,
                train,
                refusals,
                steps=p.vector.steps,
                batch_size=p.vector.batch_size,
                learning_rate=p.vector.learning_rate,
                seed=p.seed,
            )
        else:
            vectors[layer] = difference_of_means(model, tokenizer, layer, train, refusals, load_exemplars("answer"))

    dev_prompts = load_prompts("dev", p.vector.dev_prompts)
    dev = pd.concat([response(layer, p.vector.doses, dev_prompts) for layer in p.vector.layers], ignore_index=True)
    layer = int(dev.groupby("layer").refusal.mean().idxmax())
    dose = mild_dose(dev[dev.layer == layer].groupby("dose")[["refusal", "nonsense"]].mean(), p.vector.organism_rate)

    test = response(layer, [0.0, *p.vector.doses], load_prompts("test", p.vector.test_prompts))
    folder = paths.vector()
    save_vector(folder / "vector.safetensors", layer, vectors[layer])
    pd.concat([dev.assign(split="dev"), test.assign(split="test")]).to_parquet(
        folder / "responses.parquet", index=False
    )
    (folder / "choice.json").write_text(json.dumps({"layer": layer, "dose": dose}, indent=2) + "\n")


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
            "add smaller doses to vector.doses in params.yaml"
        )
    return float(mild.index.max())


if __name__ == "__main__":
    main()
