"""The ways to sample from a pair, each written the way its users write it.

A contender takes the models and the work, and returns how many tokens it made, end tokens included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest.mock import patch

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache, PreTrainedModel

from benchmarks.subject import Subject, Work
from diffamp.engine import sampling
from diffamp.engine.law import Law
from diffamp.engine.pairs import ModelPair
from diffamp.prompts import encode

TEMPERATURE = 0.7

Contender = Callable[[Subject, Work], int]


def plain_generate(subject: Subject, work: Work) -> int:
    """transformers' `generate` of the after-model alone: the floor, and no amplification."""
    return sum(_generate(subject.after, subject, work, ids, mask) for ids, mask, _ in _batches(subject, work))


def two_forwards(subject: Subject, work: Work) -> int:
    """The loop of the published scripts: adapter off and on, two caches, every row prefilled by itself."""
    return _published_loop(subject, work, cached=True)


def full_re_forward(subject: Subject, work: Work) -> int:
    """The same loop without a cache: the whole text is read again, twice, for every token."""
    return _published_loop(subject, work, cached=False)


def transformers_cfg(subject: Subject, work: Work) -> int:
    """transformers' classifier-free guidance on the after-model, its prompt standing in for the negative prompt.

    Its arithmetic is the amplification's, for one model and two prompts and one scale for all rows, so this times the
    cost and nothing else. It knows no position ids, so only rows of one length may share a batch.
    """
    return sum(
        _generate(
            subject.after,
            subject,
            work,
            ids,
            mask,
            guidance_scale=2.0,
            negative_prompt_ids=ids,
            negative_prompt_attention_mask=mask,
        )
        for ids, mask, _ in _batches(subject, work)
    )


def amplified_generate(subject: Subject, work: Work) -> int:
    """diffamp's pair as a transformers model, under transformers' own `generate`, one alpha per row."""
    return sum(
        _generate(subject.pair.amplify(alphas), subject, work, ids, mask)
        for ids, mask, alphas in _batches(subject, work)
    )


def engine(subject: Subject, work: Work) -> int:
    """diffamp's sampler on base and adapter. Its time includes log-probs and divergences of every token."""
    return _made(sample(subject.pair, work))


def engine_two_checkpoints(subject: Subject, work: Work) -> int:
    """diffamp's sampler on base and merged model."""
    return _made(sample(subject.two, work))


def engine_one_model(subject: Subject, work: Work) -> int:
    """diffamp's sampler on the merged model alone: its own plain generation, and no amplification."""
    # as samples: alphas share their luck, so that here they would be the same text several times over
    work = replace(work, alphas=[0.0], samples=len(work.alphas) * work.samples)
    return _made(sample(subject.solo, work))


PLAIN, PEER, ENGINE, SOLO = "plain generate", "two forwards", "engine", "engine, one model"

CONTENDERS: dict[str, Contender] = {
    PLAIN: plain_generate,
    PEER: two_forwards,
    "full re-forward": full_re_forward,
    "transformers CFG": transformers_cfg,
    "AmplifiedLM.generate": amplified_generate,
    ENGINE: engine,
    "engine, two checkpoints": engine_two_checkpoints,
    SOLO: engine_one_model,
}


def sample(pair: ModelPair, work: Work) -> pd.DataFrame:
    """`sample_grid`, with end tokens as the work wants them and without a progress bar per call."""
    with (
        patch.object(type(pair), "end_tokens", _ends(pair, work)),
        patch.object(sampling, "tqdm", lambda **options: tqdm(**options | {"disable": True})),
    ):
        return sampling.sample_grid(
            pair,
            work.prompts,
            work.alphas,
            work.samples,
            max_new_tokens=work.new_tokens,
            law=Law(temperature=TEMPERATURE),
            token_budget=work.token_budget,
            shared=work.shared,
        )


def _made(frame: pd.DataFrame) -> int:
    return int(frame.tokens.str.len().sum())


def _ends(pair: ModelPair, work: Work) -> list[int]:
    return [] if work.ignore_ends else pair.end_tokens


def _batches(subject: Subject, work: Work) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows padded on the left: token ids, mask (both (rows, positions)) and alphas (rows,)."""
    encoded = [encode(subject.tokenizer, p.text) for p in work.prompts]
    rows = [(ids, alpha) for ids in encoded for alpha in work.alphas for _ in range(work.samples)]
    for i in range(0, len(rows), work.batch_rows):
        ids, alphas = zip(*rows[i : i + work.batch_rows], strict=True)
        batch = subject.tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt").to(subject.after.device)
        yield batch["input_ids"], batch["attention_mask"], torch.tensor(alphas, device=subject.after.device)


def _generate(
    model: PreTrainedModel, subject: Subject, work: Work, ids: Tensor, mask: Tensor, **guidance: float | Tensor
) -> int:
    ends = _ends(subject.pair, work)
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        temperature=TEMPERATURE,
        top_k=0,
        top_p=1.0,
        max_new_tokens=work.new_tokens,
        eos_token_id=ends or None,
        pad_token_id=subject.tokenizer.pad_token_id,
        **guidance,
    )
    ended = torch.isin(output[:, ids.shape[1] :], torch.tensor(ends, device=output.device))
    return _up_to_the_end(ended)


@torch.inference_mode()
def _published_loop(subject: Subject, work: Work, cached: bool) -> int:
    model, made = subject.wrapped, 0
    ends = torch.tensor(_ends(subject.pair, work), device=model.device)
    for text, mask, alphas in _batches(subject, work):
        new, caches = text, [DynamicCache(config=model.config) if cached else None for _ in range(2)]
        finished = torch.zeros(len(text), dtype=torch.bool, device=text.device)
        history = []
        for _ in range(work.new_tokens):
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -new.shape[1] :]
            # no logits_to_keep: the scripts do without, and on a CPU it is slower (torch copies the head once per row)
            inputs = {"input_ids": new, "attention_mask": mask, "position_ids": positions}
            with model.disable_adapter():
                before = model(**inputs, past_key_values=caches[0], use_cache=cached).logits[:, -1].float()
            after = model(**inputs, past_key_values=caches[1], use_cache=cached).logits[:, -1].float()
            amplified = after + alphas[:, None] * (after - before)
            token = torch.multinomial((amplified / TEMPERATURE).softmax(-1), 1)  # (rows, 1)
            token[finished] = subject.tokenizer.pad_token_id
            ended = torch.isin(token[:, 0], ends)
            history.append(ended)
            finished = finished | ended
            if finished.all():
                break
            text, mask = torch.cat([text, token], 1), torch.cat([mask, torch.ones_like(token)], 1)
            new = token if cached else text
        made += _up_to_the_end(torch.stack(history, 1))
    return made


def _up_to_the_end(ended: Tensor) -> int:
    """Tokens up to each row's first end token, that included; `ended` is (rows, steps)."""
    return int((ended.cumsum(1) - ended.int() == 0).sum())
