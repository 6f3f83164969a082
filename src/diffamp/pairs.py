"""What a pair is: the model before and after a fine-tune, and one call that gives the logits of both.

Three kinds, one interface: an adapter on or off over one base, a steering vector on or off over one base (both a
`SharedPair`: one forward over shared weights), and two checkpoints (a `SeparatePair`: two forwards).
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from diffamp.amplify import Guard, Unguarded
from diffamp.cache import ClockLayer, PairCache
from diffamp.halves import Halves, Side
from diffamp.model import AmplifiedLM


class ModelPair(ABC):
    """Two language models with one vocabulary and one tokenizer.

    Attributes:
        tokenizer: of the after-model.
        config: of the after-model.
        modules: the networks involved, the after-model's last.
        vocab_size: logits per position, the smaller of the two models' where one is padded further.
    """

    tokenizer: PreTrainedTokenizerBase
    modules: list[PreTrainedModel]
    vocab_size: int

    @property
    def config(self) -> PreTrainedConfig:
        return self.modules[-1].config

    @property
    def device(self) -> torch.device:
        return self.modules[-1].device

    @property
    def context_length(self) -> int | None:
        """Longest sequence the model was built for, in tokens, where its config says so."""
        return getattr(self.config.get_text_config(), "max_position_embeddings", None)

    @abstractmethod
    def layers(self, capacity: int | None = None) -> PairCache:
        """An empty cache: growing, or with `capacity` preallocated columns on a shared clock."""

    @abstractmethod
    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        cache: PairCache | None = None,
        logits_to_keep: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Logits of both models for the same tokens.

        Args:
            input_ids: (batch, positions) new tokens.
            attention_mask: (batch, cached + positions), 1 for real tokens.
            position_ids: (batch, positions).
            cache: from `layers()`; updated in place.
            logits_to_keep: only the last so many positions; 0 keeps all.

        Returns:
            before, after: (batch, positions kept, vocab) raw logits, before temperature, in the model's own type.
        """

    @abstractmethod
    def only(self, side: Side) -> AbstractContextManager[PreTrainedModel]:
        """Context manager that gives one side ("before" or "after") as a plain transformers model."""

    def amplify(self, alpha: float | Tensor, guard: Guard | None = None) -> AmplifiedLM:
        """The amplified model, with transformers' own `generate`.

        Args:
            alpha: one number, or a (batch,) tensor with one value per row of the prompts given to `generate`.
            guard: what keeps the text sensible; default none.
        """
        return AmplifiedLM(self, alpha, guard or Unguarded())


def _forward(model: PreTrainedModel, positions: Tensor, logits_to_keep: int, **inputs: Any) -> Tensor:
    """One forward pass; position ids and `logits_to_keep` are passed where the architecture knows them."""
    accepted = inspect.signature(model.forward).parameters
    if "position_ids" in accepted:
        inputs["position_ids"] = positions
    if "logits_to_keep" in accepted:
        return model(**inputs, logits_to_keep=logits_to_keep).logits
    logits = model(**inputs).logits
    return logits[:, -logits_to_keep:] if logits_to_keep else logits


def _cache_layers(model: PreTrainedModel, capacity: int | None) -> list[Any]:
    config = model.config.get_text_config(decoder=True)
    layers = DynamicCache(config=config).layers
    return layers if capacity is None else [ClockLayer(capacity) for _ in layers]


class SharedPair(ModelPair):
    """A base whose after half carries additions (`diffamp.halves`): one forward of the batch `[before; after]`."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, halves: Halves) -> None:
        self.tokenizer = tokenizer
        self.modules = [model.eval()]
        self.halves = halves
        self.vocab_size = model.config.get_text_config().vocab_size

    def layers(self, capacity: int | None = None) -> PairCache:
        return PairCache(_cache_layers(self.modules[0], capacity))

    @torch.inference_mode()
    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        cache: PairCache | None = None,
        logits_to_keep: int = 0,
    ) -> tuple[Tensor, Tensor]:
        both = _forward(
            self.modules[0],
            position_ids.repeat(2, 1),
            logits_to_keep,
            input_ids=input_ids.repeat(2, 1),  # (batch, positions) -> (2 * batch, positions)
            attention_mask=attention_mask.repeat(2, 1),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        before, after = both.chunk(2)
        return before, after

    @contextmanager
    def only(self, side: Side) -> Iterator[PreTrainedModel]:
        with self.halves.only(side):
            yield self.modules[0]


class SeparatePair(ModelPair):
    """Two forwards: two checkpoints, or one model whose adapter cannot be confined to half a batch.

    Args:
        before, after: may be one and the same model when `switch_off` turns it into the before-model.
        switch_off: context manager within which `before` is the before-model.
    """

    def __init__(
        self,
        before: PreTrainedModel,
        after: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        switch_off: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.modules = [before.eval(), after.eval()]
        self._switch_off = switch_off
        self.vocab_size = min(m.config.get_text_config().vocab_size for m in self.modules)

    def layers(self, capacity: int | None = None) -> PairCache:
        before, after = self.modules
        return PairCache(_cache_layers(before, capacity), _cache_layers(after, capacity))

    @torch.inference_mode()
    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        cache: PairCache | None = None,
        logits_to_keep: int = 0,
    ) -> tuple[Tensor, Tensor]:
        caches: dict[Side, Cache | None] = {
            "before": None if cache is None else cache.before,
            "after": None if cache is None else cache.after,
        }
        sides = []
        for side, side_cache in caches.items():
            with self.only(side) as model:
                logits = _forward(
                    model,
                    position_ids,
                    logits_to_keep,
                    input_ids=input_ids,
                    attention_mask=attention_mask,
                    past_key_values=side_cache,
                    use_cache=cache is not None,
                )
            sides.append(logits[..., : self.vocab_size])
        before, after = sides
        return before, after

    @contextmanager
    def only(self, side: Side) -> Iterator[PreTrainedModel]:
        if side == "before" and self._switch_off:
            with self._switch_off():
                yield self.modules[0]
        else:
            yield self.modules[0 if side == "before" else 1]


class SoloPair(ModelPair):
    """One model standing for both sides, at the price of one: sampled from and scored by the same engine."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.modules = [model.eval()]
        self.vocab_size = model.config.get_text_config().vocab_size

    def layers(self, capacity: int | None = None) -> PairCache:
        return PairCache(_cache_layers(self.modules[0], capacity), [])

    @torch.inference_mode()
    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        cache: PairCache | None = None,
        logits_to_keep: int = 0,
    ) -> tuple[Tensor, Tensor]:
        logits = _forward(
            self.modules[0],
            position_ids,
            logits_to_keep,
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return logits, logits

    @contextmanager
    def only(self, side: Side) -> Iterator[PreTrainedModel]:
        yield self.modules[0]
