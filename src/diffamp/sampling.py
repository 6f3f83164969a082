"""Samples from the amplified difference: prompts x alphas x samples, in one batch that never idles.

Every distinct prompt is prefilled once for all its alphas and samples. Rows of different prompts and alphas share a
batch; a finished row leaves and the next one takes its place at the shared clock (`diffamp.cache.ClockLayer`).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor
from tqdm.auto import tqdm

from diffamp.amplify import Guard, Unguarded
from diffamp.cache import ClockLayer
from diffamp.noise import uniforms
from diffamp.pairs import ModelPair
from diffamp.prompts import Prompt, encode
from diffamp.records import Records

ROWS_PER_UNIT = 512
"""Work is recorded in units of about so many rows: small enough to lose little, large enough to fill a batch."""

SHRINK_AT = 0.75
"""When no row waits and at most this share of the slots is live, the batch is rebuilt without the free ones."""

BLOCK = 256

PER_TOKEN = ("logp_before", "logp_after", "logp_alpha", "kl_alpha_after", "kl_after_alpha")


@dataclass(frozen=True)
class Law:
    """The distribution that is sampled from: softmax of the guarded, amplified logits at a temperature.

    The guard sees raw logits, as in `AmplifiedLM.generate`. Every log-prob and divergence below refers to laws at the
    temperature; without a guard alpha 0 is the after-model and alpha -1 the before-model at that temperature.
    """

    guard: Guard = field(default_factory=Unguarded)
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be a positive number, got {self.temperature}")

    def draw(self, before: Tensor, after: Tensor, alpha: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """One token per row by the inverse of the cumulative distribution.

        Args:
            before, after: (rows, vocab) raw logits.
            alpha: (rows,) float32.
            uniform: (rows,) float64 in [0, 1).

        Returns:
            tokens: (rows,) int64.
            scores: (rows, 5) float32, in the order of `PER_TOKEN`: log-probs of the token under the three laws, then
                KL(p_alpha || p_after) and KL(p_after || p_alpha), in nats. The last is infinite where a guard rules
                out tokens.
        """
        laws = self._laws(before, after, alpha)
        tokens = inverse_cdf(laws[2].exp(), uniform)
        return tokens, _scores(laws, tokens)

    def score(self, before: Tensor, after: Tensor, alpha: Tensor, tokens: Tensor) -> Tensor:
        """What `draw` says of a token, for tokens that are given: (rows, 5) float32."""
        return _scores(self._laws(before, after, alpha), tokens)

    def _laws(self, before: Tensor, after: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(rows, vocab) log-probs: before, after, amplified."""
        before, after = before.float(), after.float()
        laws = before, after, self.guard(before, after, alpha)
        log_before, log_after, log_alpha = (torch.log_softmax(law / self.temperature, -1) for law in laws)
        return log_before, log_after, log_alpha


def _scores(laws: tuple[Tensor, Tensor, Tensor], tokens: Tensor) -> Tensor:
    _, log_after, log_alpha = laws
    log_probs = [law.gather(-1, tokens[:, None])[:, 0] for law in laws]
    gap = log_alpha - log_after
    kl_alpha_after = (log_alpha.exp() * gap.clamp(min=-1e4)).sum(-1)  # 0 * (-inf) would be NaN where p_alpha is 0
    kl_after_alpha = -(log_after.exp() * gap).sum(-1)
    # NaN is 0 * (-inf), at a token that a guard rules out: others have p_after > 0, so the divergence is infinite
    kl_after_alpha = kl_after_alpha.nan_to_num(nan=torch.inf, posinf=torch.inf)
    return torch.stack([*log_probs, kl_alpha_after, kl_after_alpha], -1)


def inverse_cdf(p: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative probability passes `uniform` times the total.

    In two levels, blocks of tokens and then tokens of one block, both cumulated in float64: the whole vocabulary is
    read once, where a float64 cumulative sum over it would cost as much as the softmax.

    Args:
        p: (rows, vocab) float32, not necessarily summing to one.
        uniform: (rows,) float64 in [0, 1).

    Returns:
        (rows,) int64 tokens, each with p > 0.
    """
    blocks = torch.nn.functional.pad(p, (0, -p.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))  # (rows, blocks, BLOCK)
    mass = blocks.sum(-1, dtype=torch.float64)  # (rows, blocks)
    target = uniform[:, None] * mass.sum(-1, keepdim=True)
    block, within = _pass(mass, target)
    token, _ = _pass(blocks.gather(1, block[:, :, None].expand(-1, 1, BLOCK))[:, 0].double(), within)
    return (block * BLOCK + token)[:, 0].clamp(max=p.shape[-1] - 1)


def _pass(mass: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Index (rows, 1) at which the running sum of `mass` (rows, n) passes `target`, and what is left of the target."""
    cumulative = mass.cumsum(-1)
    index = torch.searchsorted(cumulative, target, right=True)
    # rounding at the very top must not reach past the last entry that has any mass
    index = torch.minimum(index, torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())).clamp(
        max=mass.shape[-1] - 1
    )
    return index, (target - (cumulative.gather(-1, index) - mass.gather(-1, index))).clamp(min=0)


Draw = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(rows, before, after) -> the tokens drawn, and which rows go on."""


@dataclass(frozen=True)
class Row:
    """One text to be sampled."""

    prompt: int
    alpha: float
    sample: int


class NonFiniteLogitsError(FloatingPointError):
    """A model gave NaN or infinite logits; the message names prompt, alpha and step."""


def sample_grid(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    alphas: Sequence[float],
    samples: int,
    *,
    max_new_tokens: int,
    law: Law | None = None,
    seed: int = 0,
    token_budget: int = 8192,
    records: Records | None = None,
    desc: str = "sampling",
) -> pd.DataFrame:
    """Sample `samples` texts for every prompt and every alpha.

    Args:
        prompts: encoded with the tokenizer's chat template where it has one.
        alphas: without a guard -1 is the before-model, 0 the after-model.
        max_new_tokens: a row ends there or at an end token.
        seed: of the coupled noise (`diffamp.noise`).
        token_budget: columns of key/value cache at a time; sets the number of rows in a batch.
        records: where units are kept and resumed from; None keeps everything in memory.

    Returns:
        One row per text: prompt_id, category, prompt, alpha, sample, text, finish ("end" or "length"), tokens and the
        five per-token lists of `PER_TOKEN`.

    Raises:
        ValueError: an alpha that is not finite, a prompt that does not fit the context.
        NonFiniteLogitsError: the models overflowed.
    """
    check_grid(pair, prompts, alphas, samples, max_new_tokens)
    law = law or Law()
    per_unit = max(1, ROWS_PER_UNIT // (len(alphas) * samples))
    units = [prompts[i : i + per_unit] for i in range(0, len(prompts), per_unit)]
    tables = []
    rows_total = len(prompts) * len(alphas) * samples
    with tqdm(total=rows_total, desc=desc, unit="text", disable=None, smoothing=0.05) as progress:
        for number, unit in enumerate(units):
            table = records.read(number) if records else None
            if table is None:
                frame = _sample_unit(pair, unit, alphas, samples, max_new_tokens, law, seed, token_budget, progress)
                table = pa.Table.from_pandas(frame, preserve_index=False)
                if records:
                    records.write(number, table)
            else:
                progress.update(table.num_rows)
            tables.append(table.replace_schema_metadata(None))
    return pa.concat_tables(tables).to_pandas()


def configuration(prompts: Sequence[Prompt], alphas: Sequence[float], samples: int, law: Law, **rest: Any) -> dict:
    """What the bytes of a grid depend on, for `Records`."""
    guard = {"guard": type(law.guard).__name__.lower(), **getattr(law.guard, "__dict__", {})}
    return {"prompts": [asdict(p) for p in prompts], "alphas": list(alphas), "samples": samples, **guard} | {
        "temperature": law.temperature,
        "threads": torch.get_num_threads(),
        "rows_per_unit": ROWS_PER_UNIT,
        "code": _digest_of_code(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes", "numpy")},
        **rest,
    }


def _digest_of_code() -> str:
    """Of every module that a sample passes through: samples of other code are never taken for this code's."""
    modules = ("amplify", "cache", "halves", "loading", "noise", "pairs", "prompts", "runtime", "sampling")
    digest = hashlib.sha256()
    for name in modules:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()


def check_grid(pair: ModelPair, prompts: Sequence[Prompt], alphas: Sequence[float], samples: int, new: int) -> None:
    """Raise ValueError for a grid that cannot be sampled, before anything is written."""
    if not prompts or not alphas or samples < 1 or new < 1:
        raise ValueError("a grid needs at least one prompt, one alpha, one sample and one new token")
    if not np.isfinite(alphas).all():
        raise ValueError(f"alphas must be finite numbers, got {list(alphas)}")
    context = pair.context_length
    for prompt in prompts:
        length = len(encode(pair.tokenizer, prompt.text))
        if not length:
            raise ValueError(f"prompt {prompt.id!r} has no token")
        if context is not None and length + new > context:
            raise ValueError(
                f"prompt {prompt.id!r} has {length} tokens; with {new} new ones it exceeds the context of {context}"
            )


def end_tokens(pair: ModelPair) -> list[int]:
    """Every token that ends an answer, by either model's generation config or by the tokenizer."""
    ends = [pair.tokenizer.eos_token_id]
    for model in pair.modules:
        configured = model.generation_config.eos_token_id
        ends += configured if isinstance(configured, list) else [configured]
    return sorted({t for t in ends if t is not None})


@torch.inference_mode()
def _sample_unit(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    alphas: Sequence[float],
    samples: int,
    max_new_tokens: int,
    law: Law,
    seed: int,
    token_budget: int,
    progress: Any,
) -> pd.DataFrame:
    rows = [Row(p, float(a), s) for p in range(len(prompts)) for s in range(samples) for a in alphas]
    noise = {
        (p, s): uniforms(seed, prompts[p].text, s, max_new_tokens) for p in range(len(prompts)) for s in range(samples)
    }
    uniform = torch.tensor(np.stack([noise[r.prompt, r.sample] for r in rows]))
    encoded = [encode(pair.tokenizer, p.text) for p in prompts]
    batch = _Batch(pair, encoded, len(rows), max_new_tokens, token_budget)
    tokens = np.zeros((len(rows), max_new_tokens), dtype=np.int64)
    scores = np.zeros((len(rows), max_new_tokens, len(PER_TOKEN)), dtype=np.float32)
    lengths = np.zeros(len(rows), dtype=np.int64)
    finish = np.full(len(rows), "length", dtype=object)
    ends = torch.tensor(end_tokens(pair), device=pair.device)
    alpha = torch.tensor([r.alpha for r in rows], dtype=torch.float32)

    def draw(which: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Draw, record, and say which rows go on. `which` (rows,) indexes the unit's rows."""
        index = which.numpy()
        step = lengths[index]
        u = uniform[which, torch.from_numpy(step)].to(before.device)
        drawn, score = law.draw(before, after, alpha[which].to(before.device), u)
        bad = ~score[:, :3].isfinite().all(-1)
        if bad.any():
            row = rows[int(which[int(bad.nonzero()[0])])]
            raise NonFiniteLogitsError(
                f"logits are not finite at prompt {prompts[row.prompt].id!r}, alpha {row.alpha}, "
                f"step {step[bad.cpu().numpy()][0]}"
            )
        ended = torch.isin(drawn, ends).cpu()
        tokens[index, step] = drawn.cpu().numpy()
        scores[index, step] = score.cpu().numpy()
        lengths[index] += 1
        finish[index[ended.numpy()]] = "end"
        going_on = ~ended & (torch.from_numpy(lengths[index]) < max_new_tokens)
        progress.update(int((~going_on).sum()))
        return drawn, going_on

    queue = deque(range(len(rows)))
    while batch.refill(queue, [r.prompt for r in rows], draw):
        batch.step(draw)
    return _frame(pair, prompts, rows, tokens, scores, lengths, finish)


class _Batch:
    """The slots being decoded: a cache on a shared clock, the row in each slot, the token each is fed next.

    A slot whose row has ended is given to the next waiting row; when none waits, the batch shrinks.
    """

    def __init__(
        self, pair: ModelPair, encoded: list[list[int]], rows: int, max_new_tokens: int, token_budget: int
    ) -> None:
        self.pair = pair
        self.lengths = torch.tensor([len(e) for e in encoded])
        self.longest = int(self.lengths.max())
        self.capacity = self.longest + 2 * max_new_tokens  # room to run before the live columns move to the front
        slots = min(rows, max(1, token_budget // (self.longest + max_new_tokens)))
        self._prefill(encoded, max(1, token_budget // self.longest))
        self.cache = pair.layers(self.capacity)
        for layer, (keys, values) in zip(self.cache.layers, self.prompt_states, strict=True):
            layer.keys, layer.values = (_room(s, slots, self.capacity) for s in (keys, values))
            layer.is_initialized = True
        self.clock = self.longest
        self.row = torch.full((slots,), -1)  # which of the unit's rows sits here; -1: free
        self.start = torch.full((slots,), self.longest)  # its first live column
        self.position = torch.zeros(slots, dtype=torch.long)  # position of the token to be fed
        self.token = torch.zeros(slots, dtype=torch.long, device=pair.device)

    def _prefill(self, encoded: list[list[int]], at_a_time: int) -> None:
        """Both models' states and last logits of every prompt, right-aligned at column `longest`."""
        caches, befores, afters = [], [], []
        for i in range(0, len(encoded), at_a_time):
            chunk = encoded[i : i + at_a_time]
            ids = torch.full((len(chunk), self.longest), self.pair.tokenizer.pad_token_id or 0)
            mask = torch.zeros_like(ids)
            for n, prompt in enumerate(chunk):
                ids[n, self.longest - len(prompt) :] = torch.tensor(prompt)
                mask[n, self.longest - len(prompt) :] = 1
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            cache = self.pair.layers(self.longest)
            ids, mask, positions = (t.to(self.pair.device) for t in (ids, mask, positions))
            before, after = self.pair.logits(ids, mask, positions, cache, logits_to_keep=1)
            caches.append(cache)
            befores.append(before[:, -1])
            afters.append(after[:, -1])
        self.prompt_before, self.prompt_after = torch.cat(befores), torch.cat(afters)  # (prompts, vocab)
        # per layer (halves, prompts, heads, longest, head_dim); a stacked layer holds two halves
        halves = 2 if caches[0].stacked else 1
        self.prompt_states = [
            tuple(torch.cat([s.unflatten(0, (halves, -1)) for s in states], 1) for states in (keys, values))
            for keys, values in (
                ([layer.keys for layer in layers], [layer.values for layer in layers])
                for layers in zip(*(c.layers for c in caches), strict=True)
            )
        ]

    def refill(self, queue: deque[int], prompt_of: list[int], draw: Draw) -> bool:
        """Admit waiting rows to free slots, their first token drawn from the prefill. False when all is done."""
        while queue and (self.row < 0).any():
            admitted = torch.tensor([queue.popleft() for _ in range(min(len(queue), int((self.row < 0).sum())))])
            prompt = torch.tensor([prompt_of[r] for r in admitted])
            on_device = prompt.to(self.pair.device)
            token, going_on = draw(admitted, self.prompt_before[on_device], self.prompt_after[on_device])
            self._admit(admitted[going_on], prompt[going_on], token[going_on.to(token.device)])
        live = self.row >= 0
        if not queue and int(live.sum()) <= SHRINK_AT * len(live):
            self._shrink(live.nonzero()[:, 0])
        return len(self.row) > 0

    def _admit(self, rows: Tensor, prompts: Tensor, tokens: Tensor) -> None:
        slots = (self.row < 0).nonzero()[: len(rows), 0]
        self.row[slots] = rows
        self.start[slots] = self.clock - self.lengths[prompts]
        self.position[slots] = self.lengths[prompts]
        slots, prompts = slots.to(self.pair.device), prompts.to(self.pair.device)
        self.token[slots] = tokens
        columns = slice(self.clock - self.longest, self.clock)
        for layer, (keys, values) in zip(self.cache.layers, self.prompt_states, strict=True):
            layer.keys.unflatten(0, (len(keys), -1))[:, slots, :, columns] = keys[:, prompts]
            layer.values.unflatten(0, (len(values), -1))[:, slots, :, columns] = values[:, prompts]

    def _shrink(self, keep: Tensor) -> None:
        on_device = keep.to(self.pair.device)
        self.cache.batch_select_indices(on_device)
        self.row, self.start, self.position = self.row[keep], self.start[keep], self.position[keep]
        self.token = self.token[on_device]

    def step(self, draw: Draw) -> None:
        """One token for every row, in one pass."""
        if self.clock == self.capacity:
            self._rewind()
        live = self.row >= 0
        first = int(self.start[live].min())
        for layer in self._clocked():
            layer.start, layer.clock = first, self.clock
        device = self.pair.device
        # a free slot sees only the column it writes: a mask without any column would be NaN
        start = torch.where(live, self.start, self.clock)
        mask = (torch.arange(first, self.clock + 1) >= start[:, None]).long().to(device)  # (slots, live columns)
        before, after = self.pair.logits(
            self.token[:, None], mask, self.position[:, None].to(device), self.cache, logits_to_keep=1
        )
        before, after = before[:, -1], after[:, -1]
        self.clock += 1
        self.position[live] += 1
        slots = live.nonzero()[:, 0]
        if len(slots) < len(live):
            before, after = before[slots.to(device)], after[slots.to(device)]
        self.token[slots.to(device)], going_on = draw(self.row[slots], before, after)
        self.row[slots[~going_on]] = -1

    def _rewind(self) -> None:
        # a prompt admitted next needs `longest` columns behind the clock
        first = min(int(self.start[self.row >= 0].min()), self.clock - self.longest)
        for layer in self._clocked():
            layer.start, layer.clock = first, self.clock
            layer.rewind()
        self.clock -= first
        self.start -= first

    def _clocked(self) -> Iterator[ClockLayer]:
        for layer in self.cache.layers:
            assert isinstance(layer, ClockLayer)
            yield layer


def _room(states: Tensor, slots: int, capacity: int) -> Tensor:
    """Blank states for `slots` rows, shaped like a prompt's: (halves * slots, heads, capacity, head_dim)."""
    halves, _, heads, _, dim = states.shape
    return states.new_zeros(halves * slots, heads, capacity, dim)


def _frame(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    rows: list[Row],
    tokens: np.ndarray,
    scores: np.ndarray,
    lengths: np.ndarray,
    finish: np.ndarray,
) -> pd.DataFrame:
    kept = [tokens[i, : lengths[i]] for i in range(len(rows))]
    frame = pd.DataFrame(
        {
            "prompt_id": [prompts[r.prompt].id for r in rows],
            "category": [prompts[r.prompt].category for r in rows],
            "prompt": [prompts[r.prompt].text for r in rows],
            "alpha": [r.alpha for r in rows],
            "sample": [r.sample for r in rows],
            "text": pair.tokenizer.batch_decode(kept, skip_special_tokens=True),
            "finish": finish,
            "tokens": kept,
        }
    )
    for k, name in enumerate(PER_TOKEN):
        frame[name] = [scores[i, : lengths[i], k] for i in range(len(rows))]
    return frame
