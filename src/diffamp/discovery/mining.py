"""Which words the fine-tune moved, over few contexts first and ever more as the search goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from diffamp.contexts import Context, chat_contexts
from diffamp.discovery.draws import after_alone
from diffamp.discovery.meter import Meter
from diffamp.discovery.seeds import Seed, plain_seeds, random_words, vocabulary_words, word_seeds
from diffamp.engine.pairs import ModelPair
from diffamp.independence import CONSISTENCY
from diffamp.shifts import TokenShifts, read

BEGUN = 200
"""Contexts at the most, beside the vague messages: these messages again, with an answer that a random word begins.

Raw first words are no use here: what a fine-tune does after them is to sharpen, which moves rare tokens (notebook 06).
"""


class Mining:
    """Words of the vocabulary by what the fine-tune did to them, beyond what a benign one does.

    With a contrast the shift is (z_after - z_before) - (z_benign - z_before) = z_after - z_benign: the shared
    before-model drops out and is not run, so a context costs two models' tokens with a contrast and without one.

    Args:
        contrast: a benign fine-tune of the same base.
        seed: of the random words.
    """

    def __init__(self, pair: ModelPair, contrast: ModelPair | None, seed: int) -> None:
        self.pair, self.contrast = pair, contrast
        begun = word_seeds("random", random_words(pair.tokenizer, BEGUN, seed))
        prompts = [s.prompt for s in [*plain_seeds(), *begun] if not s.prompt.raw]
        self.unread = chat_contexts(pair.tokenizer, prompts)
        self.shifts = TokenShifts(pair.vocab_size, pair.device)
        self.words = vocabulary_words(pair.tokenizer, pair.vocab_size)

    def read(self, tokens: float, meter: Meter) -> None:
        """Read as many more contexts as so many forward tokens pay for, and one in any case."""
        count = 1
        while count < len(self.unread) and _price(self.unread[: count + 1]) <= tokens:
            count += 1
        contexts, self.unread = self.unread[:count], self.unread[count:]
        if contexts:
            meter.charge(_price(contexts))
            for n, before, after in self._sides(contexts):
                self.shifts.add(contexts[n], before, after)

    def seeds(self, count: int) -> list[Seed]:
        """`count` words of each kind, the most extreme first.

        Of the words that rise in at least `CONSISTENCY` of the contexts: kl (largest contribution to KL(p_after || p),
        where p is the benign model's, or before's without a contrast) and mean (largest shift). Of all: bottom (least
        moved either way).
        """
        table = self.shifts.table("chat").loc[self.words.index]
        steady = table[table.positive >= CONSISTENCY]
        orders = {"kl": steady.kl, "mean": steady["mean"], "bottom": -table["mean"].abs()}
        return [
            seed
            for kind, values in orders.items()
            for seed in word_seeds(kind, self.words[values.nlargest(count).index].tolist())
        ]

    def _sides(self, contexts: Sequence[Context]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """As `diffamp.shifts.read`, with the benign model in the before-model's place where there is one."""
        if self.contrast is None:
            yield from read(self.pair, contexts)
            return
        with after_alone(self.pair) as planted, after_alone(self.contrast) as benign:
            for (n, _, after), (_, _, before) in zip(read(planted, contexts), read(benign, contexts), strict=True):
                yield n, before, after


def _price(contexts: Sequence[Context]) -> int:
    """Forward tokens for two models: what all contexts begin with is read once."""
    return 2 * (contexts[0].given + sum(len(c.parts) for c in contexts))
