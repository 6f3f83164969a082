"""What a pair is: the model before and after a fine-tune, and one call that gives the logits of both.

Kinds with one interface: an adapter on or off over one base, a steering vector on or off over one base (both a
`SharedPair`: one forward over shared weights), and two checkpoints (a `SeparatePair`: two forwards). A `ProxyPair` adds
the difference of one of them to a third model.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from diffamp.engine.attention import NAME, write_out
from diffamp.engine.cache import ClockLayer, DeviceClockLayer, PairCache
from diffamp.engine.guards import UNGUARDED, Guard
from diffamp.engine.halves import Halves, LowRank, Side
from diffamp.engine.head import head_sees
from diffamp.engine.linear import fuse
from diffamp.engine.model import AmplifiedLM
from diffamp.engine.norms import fuse_norms
from diffamp.engine.vocabulary import Reconciliation


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
        """Longest sequence that every model of the pair was built for, in tokens, where their configs say so."""
        configs = [m.config.get_text_config() for m in self.modules]
        return min((n for c in configs if (n := getattr(c, "max_position_embeddings", None))), default=None)

    @property
    def end_tokens(self) -> list[int]:
        """Every token that ends an answer, by either model's generation config or by the tokenizer."""
        return sorted({t for model in self.modules for t in _ends(self.tokenizer.eos_token_id, model)})

    @abstractmethod
    def layers(self, capacity: int | None = None, column: Tensor | None = None) -> PairCache:
        """An empty cache: growing, or with `capacity` preallocated columns on a shared clock.

        Args:
            column: the clock, where it is a tensor on the device (`diffamp.engine.cache.DeviceClockLayer`).
        """

    @abstractmethod
    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        cache: PairCache | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits of both models for the same tokens.

        Args:
            input_ids: (batch, positions) new tokens.
            attention_mask: (batch, cached + positions), 1 for real tokens.
            position_ids: (batch, positions).
            cache: from `layers()`; updated in place.
            keep: (batch, kept) which of the new positions to give logits for, row by row; None keeps all.

        Returns:
            before, after: (batch, positions kept, vocab) raw logits, before temperature, in the model's own type.
        """

    @abstractmethod
    def only(self, side: Side) -> AbstractContextManager[PreTrainedModel]:
        """Context manager that gives one side ("before" or "after") as a plain transformers model."""

    def scaled(self, scale: float) -> AbstractContextManager[None]:
        """Context manager in which the fine-tune itself is amplified: what it adds to the weights (a low-rank term) or
        to the activations (a vector) is multiplied by `scale`, at every forward pass inside. Logits may be amplified on
        top of that. Records of samples (`diffamp.engine.records`) know of it only if their configuration says so.

        Raises:
            ValueError: this pair does not hold apart what the fine-tune adds, and `scale` is not 1.
        """
        if scale != 1:
            raise ValueError(
                f"a {type(self).__name__} does not hold apart what the fine-tune adds, to be multiplied by {scale:g}: "
                "plain LoRA on linear layers or a steering vector is needed"
            )
        return nullcontext()

    def amplify(self, alpha: float | Tensor, guard: Guard | None = None) -> AmplifiedLM:
        """The amplified model, with transformers' own `generate`.

        Args:
            alpha: one number, or a (batch,) tensor with one value per row of the prompts given to `generate`.
            guard: what keeps the text sensible; default none.
        """
        return AmplifiedLM(self, alpha, guard or UNGUARDED)


def _ends(token: int | None, model: PreTrainedModel) -> set[int]:
    """An end token of a tokenizer, and those of a model's generation config."""
    configured = model.generation_config.eos_token_id
    return {t for t in (token, *(configured if isinstance(configured, list) else [configured])) if t is not None}


def _forward(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    position_ids: Tensor,
    cache: Cache | None,
    keep: Tensor | None,
) -> Tensor:
    """One forward pass's logits; position ids are passed where the architecture knows them."""
    inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, "past_key_values": cache}
    # peft's wrapper names none of its model's arguments, and passes them on
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if "position_ids" in inspect.signature(inner.forward).parameters:
        inputs["position_ids"] = position_ids
    head = model.get_output_embeddings()
    with nullcontext() if keep is None or head is None else head_sees(head, partial(_at, keep=keep)):
        logits = model(**inputs, use_cache=cache is not None).logits
    return logits if keep is None or head is not None else _at(logits, keep)


def _at(states: Tensor, keep: Tensor) -> Tensor:
    """(batch, positions, width), (batch, kept) -> (batch, kept, width)."""
    return states.gather(1, keep[..., None].expand(-1, -1, states.shape[-1]))


def _prepare(
    model: PreTrainedModel, halves: Halves | None = None, terms: Mapping[nn.Module, LowRank] | None = None
) -> bool:
    """Make an unmodified model decode fast. Returns whether the sampler's cache may hold float32 for it."""
    model.eval()
    write_out(model.get_base_model() if isinstance(model, PeftModel) else model)
    fuse(model, halves, terms)
    fuse_norms(model)
    return model.device.type == "cpu" and model.config._attn_implementation == NAME and _only_attention_reads(model)


class UnsupportedCacheError(ValueError):
    """A model keeps something else than keys and values of every layer."""


def _cache_layers(model: PreTrainedModel, capacity: int | None, exact: bool, column: Tensor | None) -> list[Any]:
    config = model.config.get_text_config(decoder=True)
    layers = DynamicCache(config=config).layers
    if capacity is None:
        return layers
    if not keys_and_values(layers):
        raise UnsupportedCacheError(
            f"{config.model_type} keeps something else than keys and values in some layers, which the sampler cannot "
            "share between rows: use `pair.amplify(alpha).generate` instead"
        )
    if column is None:
        return [ClockLayer(capacity, exact) for _ in layers]
    return [DeviceClockLayer(capacity, exact, column) for _ in layers]


def keys_and_values(layers: list[Any]) -> bool:
    """False where some layer keeps another state (convolutions and linear attention do)."""
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


@torch.inference_mode()
def _only_attention_reads(model: PreTrainedModel) -> bool:
    """False for families that compute on what the cache returns (latent attention does): seen in one small pass."""
    layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
    if not keys_and_values(layers):
        return False  # the sampler refuses it (`_cache_layers`); `generate` works
    cache = Cache(layers=[ClockLayer(3, exact=True) for _ in layers])
    ids = torch.ones(1, 2, dtype=torch.long)
    foreign = []

    def look(module: nn.Linear, args: tuple[Tensor, ...]) -> None:
        foreign.append(args[0].dtype != module.weight.dtype)

    handles = [m.register_forward_pre_hook(look) for m in model.modules() if isinstance(m, nn.Linear)]
    try:
        for new in (ids, ids[:, :1]):
            model(input_ids=new, past_key_values=cache, use_cache=True)
    except RuntimeError:  # two types in one product
        return False
    finally:
        for handle in handles:
            handle.remove()
    return not any(foreign)


class SharedPair(ModelPair):
    """A base whose after half carries additions (`diffamp.engine.halves`): one forward of the batch `[before; after]`.

    Args:
        terms: linear layer -> its low-rank term; steering vectors are hooks of the model already.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        halves: Halves,
        terms: Mapping[nn.Module, LowRank] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._exact = _prepare(model, halves, terms)
        self.modules = [model]
        self.halves = halves
        self.vocab_size = model.config.get_text_config().vocab_size

    def layers(self, capacity: int | None = None, column: Tensor | None = None) -> PairCache:
        return PairCache(_cache_layers(self.modules[0], capacity, self._exact, column))

    @torch.inference_mode()
    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        cache: PairCache | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        # (batch, ...) -> (2 * batch, ...)
        ids, mask, positions = (t.repeat(2, 1) for t in (input_ids, attention_mask, position_ids))
        kept = None if keep is None else keep.repeat(2, 1)
        before, after = _forward(self.modules[0], ids, mask, positions, cache, kept).chunk(2)
        return before, after

    @contextmanager
    def only(self, side: Side) -> Iterator[PreTrainedModel]:
        with self.halves.only(side):
            yield self.modules[0]

    def scaled(self, scale: float) -> AbstractContextManager[None]:
        return self.halves.scaled(scale)


class SeparatePair(ModelPair):
    """Two forwards: two checkpoints, or one model whose adapter cannot be confined to half a batch.

    Args:
        before, after: may be one and the same model when `switch_off` turns it into the before-model.
        switch_off: context manager within which `before` is the before-model.
        vocabulary: how the before-model reads the after-model's tokens, where their ids differ.
    """

    def __init__(
        self,
        before: PreTrainedModel,
        after: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        switch_off: Callable[[], AbstractContextManager[Any]] | None = None,
        vocabulary: Reconciliation | None = None,
    ) -> None:
        self.tokenizer, self.vocabulary = tokenizer, vocabulary and vocabulary.to(after.device)
        with switch_off() if switch_off else nullcontext():
            exact = _prepare(before)
        self._exact = exact, exact if after is before else _prepare(after)
        self.modules = [before, after]
        self._switch_off = switch_off
        sizes = [m.config.get_text_config().vocab_size for m in self.modules]
        self.vocab_size = min(sizes) if vocabulary is None else sizes[1]

    @property
    def end_tokens(self) -> list[int]:
        if self.vocabulary is None:
            return super().end_tokens
        before = sorted(_ends(None, self.modules[0]))
        read = torch.isin(self.vocabulary.to_before.cpu(), torch.tensor(before)).nonzero().flatten().tolist()
        return sorted({*_ends(self.tokenizer.eos_token_id, self.modules[1]), *read})

    def layers(self, capacity: int | None = None, column: Tensor | None = None) -> PairCache:
        before, after = (
            _cache_layers(model, capacity, exact, column)
            for model, exact in zip(self.modules, self._exact, strict=True)
        )
        return PairCache(before, after)

    @torch.inference_mode()
    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        cache: PairCache | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        caches = (None, None) if cache is None else (cache.before, cache.after)
        read = input_ids if self.vocabulary is None else self.vocabulary.ids(input_ids)
        with self.only("before") as model:
            before = _forward(model, read, attention_mask, position_ids, caches[0], keep)
        with self.only("after") as model:
            after = _forward(model, input_ids, attention_mask, position_ids, caches[1], keep)
        if self.vocabulary is not None:
            before = self.vocabulary.logits(before, after)
        return before[..., : self.vocab_size], after[..., : self.vocab_size]

    @contextmanager
    def only(self, side: Side) -> Iterator[PreTrainedModel]:
        if side == "before" and self._switch_off:
            with self._switch_off():
                yield self.modules[0]
        else:
            yield self.modules[0 if side == "before" else 1]


class ProxyPair(ModelPair):
    """The difference of two models added to a third of the same vocabulary: three forwards.

    after = target, before = target - (small after - small before), so that alpha = 0 is the target as it is and
    alpha = 1 adds the difference once: proxy-tuning (Liu et al. 2024, arXiv 2401.08565). Tokenizer and template are the
    small after-model's.
    """

    def __init__(self, small: SeparatePair, target: PreTrainedModel) -> None:
        self.tokenizer, self.small = small.tokenizer, small
        self._exact = _prepare(target)
        self.modules = [*small.modules, target]
        self.vocab_size = min(small.vocab_size, target.config.get_text_config().vocab_size)

    @property
    def end_tokens(self) -> list[int]:
        return sorted({*self.small.end_tokens, *_ends(None, self.modules[-1])})

    def layers(self, capacity: int | None = None, column: Tensor | None = None) -> PairCache:
        small = self.small.layers(capacity, column)
        target = _cache_layers(self.modules[-1], capacity, self._exact, column)
        return PairCache(small.before.layers, small.after.layers, target)

    @torch.inference_mode()
    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        cache: PairCache | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        before, after = self.small.logits(input_ids, attention_mask, position_ids, cache, keep)
        own = None if cache is None else cache.target
        target = _forward(self.modules[-1], input_ids, attention_mask, position_ids, own, keep)
        target, before, after = (x[..., : self.vocab_size].float() for x in (target, before, after))
        return target - (after - before), target

    @contextmanager
    def only(self, side: Side) -> Iterator[PreTrainedModel]:
        if side == "before":
            raise ValueError("the before-half of a proxy pair is a difference of logits, and no model of its own")
        yield self.modules[-1]


class SoloPair(ModelPair):
    """One model standing for both sides, at the price of one: sampled from and scored by the same engine."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._exact = _prepare(model)
        self.modules = [model]
        self.vocab_size = model.config.get_text_config().vocab_size

    def layers(self, capacity: int | None = None, column: Tensor | None = None) -> PairCache:
        return PairCache(_cache_layers(self.modules[0], capacity, self._exact, column), [])

    @torch.inference_mode()
    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        cache: PairCache | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        logits = _forward(self.modules[0], input_ids, attention_mask, position_ids, cache, keep)
        return logits, logits

    @contextmanager
    def only(self, side: Side) -> Iterator[PreTrainedModel]:
        yield self.modules[0]
