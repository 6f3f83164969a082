"""From `discovery:` of params.yaml to how texts are drawn."""

from __future__ import annotations

from diffamp.discovery.draws import DEFAULTS, Drawing
from diffamp.engine.loading import load_law
from diffamp.engine.pairs import ModelPair
from diffamp.params import Params


def load_drawing(p: Params, pair: ModelPair, seed: int, max_new_tokens: int = DEFAULTS.max_new_tokens) -> Drawing:
    """The amplifiers, the guard and the temperature of `discovery:`.

    Args:
        pair: whose end tokens a guard may leave alone.
        seed: of the noise, and of random seed words.
        max_new_tokens: of a text; a search by the loop has its own, and no use for that of `discovery:`.
    """
    settings = p.discovery
    law = load_law(settings.guard, settings.temperature, pair)
    return Drawing(settings.alphas, settings.scale, law, max_new_tokens, seed, p.sampling.token_budget)
