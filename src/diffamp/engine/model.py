"""The amplified difference as an ordinary transformers model."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput

from diffamp.engine.cache import PairCache
from diffamp.engine.guards import Guard


class PairedLogits(Protocol):
    """What the amplified model needs of a pair (`diffamp.engine.pairs.ModelPair` has it)."""

    modules: list[PreTrainedModel]
    vocab_size: int

    def layers(self) -> PairCache: ...

    def logits(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        cache: PairCache | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]: ...


@dataclass
class AmplifiedOutput(ModelOutput):
    """What one forward gives. All logits are float32, (batch, positions, vocab), raw: before temperature.

    Attributes:
        logits: amplified and guarded; tokens ruled out by the guard are -inf.
        before_logits, after_logits: the two models' own.
        past_key_values: the cache of both halves.
    """

    logits: Tensor | None = None
    before_logits: Tensor | None = None
    after_logits: Tensor | None = None
    past_key_values: PairCache | None = None


class AmplifiedLM(PreTrainedModel, GenerationMixin):
    """`after + alpha * (after - before)` with transformers' own `generate`: greedy, sampling, beams, streaming,
    stopping criteria, `pipeline("text-generation")` and evaluation harnesses work as with any causal model.

    Built by `ModelPair.amplify`. Large grids go faster through `diffamp.engine.sampling`, which shares this forward.
    """

    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, pair: PairedLogits, alpha: float | Tensor, guard: Guard) -> None:
        values = torch.as_tensor(alpha, dtype=torch.float32)
        if values.dim() > 1 or not values.isfinite().all():
            raise ValueError(f"alpha must be a finite number or a (batch,) tensor of finite numbers, got {alpha}")
        super().__init__(copy.deepcopy(pair.modules[-1].config))
        # what transformers sizes its scores by: where one model is padded further, the logits are the shorter ones
        self.config.get_text_config().vocab_size = pair.vocab_size
        self.generation_config = copy.deepcopy(pair.modules[-1].generation_config)
        self.pair = pair
        self.alpha = values
        self.guard = guard
        self.networks = nn.ModuleList(pair.modules)  # so that .device, .dtype and .parameters() are the pair's
        self.eval()

    @classmethod
    def can_generate(cls) -> bool:
        return True

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> AmplifiedOutput:
        """Amplified, before- and after-logits of `input_ids` (batch, positions)."""
        batch, positions = input_ids.shape
        cache = past_key_values
        if not isinstance(cache, PairCache):
            if cache is not None and cache.get_seq_length():
                raise ValueError("a cache filled by another model cannot be continued: pass the one returned here")
            # generate() brings an empty cache of its own making and takes the one returned below in its place
            cache = None if use_cache is False else self.pair.layers()
        if attention_mask is None:
            cached = cache.get_seq_length() if cache is not None else 0
            attention_mask = input_ids.new_ones(batch, cached + positions)
        if position_ids is None:
            # counted over real tokens: padded rows of models with learned positions would be wrong otherwise
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -positions:]
        keep = None
        if 0 < logits_to_keep < positions:
            keep = torch.arange(positions - logits_to_keep, positions, device=input_ids.device).expand(batch, -1)
        before, after = self.pair.logits(input_ids, attention_mask, position_ids.expand(batch, -1), cache, keep)
        before, after = before.float(), after.float()
        alpha: float | Tensor
        if self.alpha.dim() == 0:
            alpha = float(self.alpha)
        else:
            if batch % len(self.alpha):
                raise ValueError(f"alpha has {len(self.alpha)} values for a batch of {batch} rows")
            # generate() repeats each prompt for beams and num_return_sequences
            alpha = self.alpha.to(after.device).repeat_interleave(batch // len(self.alpha))
        return AmplifiedOutput(
            logits=self.guard(before, after, alpha), before_logits=before, after_logits=after, past_key_values=cache
        )
