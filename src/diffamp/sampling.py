"""Samples from the amplified difference: prompts x alphas x samples, in one batch that never idles.

Every distinct prompt is prefilled once for all its laws, alphas and samples. Rows of different prompts and alphas share
a batch; a finished row leaves and the next one takes its place (`diffamp.batch`).
"""

from __future__ import annotations

import gc
import hashlib
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor
from tqdm.auto import tqdm

from diffamp.graphs import Captured, new_batch
from diffamp.law import PER_TOKEN, Law
from diffamp.noise import uniforms
from diffamp.pairs import ModelPair
from diffamp.prefill import Prefill
from diffamp.prompts import Prompt, encode
from diffamp.records import Records

ROWS_PER_UNIT = 512
"""Work is recorded in units of about so many rows: small enough to lose little, large enough to fill a batch."""

CODE = ("adapters", "amplify", "attention", "batch", "cache", "checkpoints", "graphs", "guards", "halves", "head",
        "law", "linear", "loading", "model", "noise", "norms", "pairs", "prefill", "prompts", "runtime",
        "sampling", "vocabulary")  # fmt: skip
"""Every module that a sample passes through."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Row:
    """One text to be sampled."""

    prompt: int
    alpha: float
    sample: int


class NonFiniteLogitsError(FloatingPointError):
    """A model gave NaN or infinite logits; the message names prompt, alpha and step."""


@dataclass(frozen=True)
class Grid:
    """What is sampled for every prompt: one law at several strengths."""

    law: Law
    alphas: Sequence[float]
    """Without a guard -1 is the before-model, 0 the after-model."""
    records: Records | None = None
    """Where units are kept and resumed from; None keeps everything in memory."""


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
    """`sample_grids` of one law: `samples` texts for every prompt and every alpha."""
    grid = Grid(law or Law(), alphas, records)
    frames = sample_grids(
        pair, prompts, [grid], samples, max_new_tokens=max_new_tokens, seed=seed, token_budget=token_budget, desc=desc
    )
    return frames[0]


def sample_grids(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    grids: Sequence[Grid],
    samples: int,
    *,
    max_new_tokens: int,
    seed: int = 0,
    token_budget: int = 8192,
    desc: str = "sampling",
) -> list[pd.DataFrame]:
    """Sample `samples` texts for every prompt, law and alpha; each prompt is prefilled once for all of them.

    Args:
        prompts: encoded with the tokenizer's chat template where it has one and the prompt is not raw.
        max_new_tokens: a row ends there or at an end token.
        seed: of the coupled noise (`diffamp.noise`).
        token_budget: columns of key/value cache in a batch, over all rows (the prompts' own states take as many again
            at the most); sets the number of rows. Halved, with a warning, when memory runs out.

    Returns:
        For each grid one row per text: prompt_id, category, prompt, alpha, sample, text, finish ("end" or "length"),
        tokens and the five per-token lists of `PER_TOKEN`.

    Raises:
        ValueError: an alpha that is not finite, a prompt that does not fit the context.
        NonFiniteLogitsError: the models overflowed.
        MemoryError: not even one row fits.
    """
    if not grids:
        raise ValueError("no grid to sample: give at least one law with its alphas")
    for grid in grids:
        encoded = check_grid(pair, prompts, grid.alphas, samples, max_new_tokens)
    longest, most_alphas = max(map(len, encoded)), max(len(grid.alphas) for grid in grids)
    # the states of all prompts of a unit are held beside the batch: no more columns than the batch itself may have
    per_unit = max(1, min(ROWS_PER_UNIT // (most_alphas * samples), token_budget // longest))
    units = [slice(i, i + per_unit) for i in range(0, len(prompts), per_unit)]
    tables: list[list[pa.Table]] = [[] for _ in grids]
    for grid in grids:
        if grid.records:
            grid.records.keep(len(units))
    rows_total = len(prompts) * sum(len(grid.alphas) for grid in grids) * samples
    with tqdm(total=rows_total, desc=desc, unit="text", disable=None, smoothing=0.05) as progress:
        for number, part in enumerate(units):
            unit = _Unit(pair, prompts[part], encoded[part], samples, max_new_tokens, seed, token_budget)
            for grid, parts in zip(grids, tables, strict=True):
                table = grid.records.read(number) if grid.records else None
                if table is None or not unit.made(table):
                    table = pa.Table.from_pandas(unit.sample(grid, progress), preserve_index=False)
                    if grid.records:
                        grid.records.write(number, table)
                else:
                    progress.update(table.num_rows)
                parts.append(table.replace_schema_metadata(None))
            token_budget = unit.columns
    return [pa.concat_tables(parts).to_pandas() for parts in tables]


def configuration(prompts: Sequence[Prompt], alphas: Sequence[float], samples: int, law: Law, **rest: Any) -> dict:
    """What the bytes of a grid depend on, for `Records`."""
    return {
        "prompts": [asdict(p) for p in prompts],
        "alphas": list(alphas),
        "samples": samples,
        "law": repr(law),
        "threads": torch.get_num_threads(),
        "rows_per_unit": ROWS_PER_UNIT,
        "code": _digest_of_code(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes", "numpy")},
        **rest,
    }


def _digest_of_code() -> str:
    """Samples of other code are never taken for this code's."""
    digest = hashlib.sha256()
    for name in CODE:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()


def check_grid(
    pair: ModelPair, prompts: Sequence[Prompt], alphas: Sequence[float], samples: int, new: int
) -> list[list[int]]:
    """Raise ValueError for a grid that cannot be sampled, before anything is written; the prompts' token ids."""
    if not prompts or not alphas or samples < 1 or new < 1:
        raise ValueError("a grid needs at least one prompt, one alpha, one sample and one new token")
    if not np.isfinite(alphas).all():
        raise ValueError(f"alphas must be finite numbers, got {list(alphas)}")
    context = pair.context_length
    encoded = [encode(pair.tokenizer, prompt) for prompt in prompts]
    for prompt, length in zip(prompts, map(len, encoded), strict=True):
        if not length:
            raise ValueError(f"prompt {prompt.id!r} has no token")
        if context is not None and length + new > context:
            raise ValueError(
                f"prompt {prompt.id!r} has {length} tokens; with {new} new ones it exceeds the context of {context}"
            )
    return encoded


class _Unit:
    """One unit of work: some prompts, the luck of their samples, and their states while grids go on from them."""

    def __init__(
        self,
        pair: ModelPair,
        prompts: Sequence[Prompt],
        encoded: Sequence[list[int]],
        samples: int,
        max_new_tokens: int,
        seed: int,
        columns: int,
    ) -> None:
        self.pair, self.prompts, self.encoded, self.samples = pair, prompts, encoded, samples
        self.max_new_tokens, self.columns = max_new_tokens, columns
        self.luck = np.array(
            [[uniforms(seed, prompt.key, s, max_new_tokens) for s in range(samples)] for prompt in prompts]
        )  # (prompts, samples, steps)
        self.ends = np.array(pair.end_tokens, dtype=np.int64)
        self.prefill: Prefill | None = None

    def made(self, table: pa.Table) -> bool:
        """Whether a recorded unit is of these prompts: another grid beside it may have cut the work elsewhere."""
        return table["prompt_id"].unique().to_pylist() == list(dict.fromkeys(prompt.id for prompt in self.prompts))

    @torch.inference_mode()
    def sample(self, grid: Grid, progress: Any) -> pd.DataFrame:
        """Draw every row of a grid. `columns` falls to what of cache fitted into memory."""
        done = progress.n
        while True:
            try:
                self.prefill = self.prefill or Prefill(self.pair, self.encoded, self.columns)
                return _Texts(self, grid).draw_from(self.prefill, progress)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                one_row = max(map(len, self.encoded)) + self.max_new_tokens
                if self.columns <= one_row:
                    raise MemoryError(
                        f"not even one row of {one_row} tokens fits into memory beside the model and the states of "
                        f"{len(self.encoded)} prompts; a smaller token_budget makes that fewer prompts: {error}"
                    ) from None
            # outside of the handler, which would keep the failed batch alive
            self.columns = max(self.columns // 2, one_row)
            log.warning("out of memory: going on with a token_budget of %d (set it in params.yaml)", self.columns)
            progress.update(done - progress.n)
            if torch.cuda.is_available():
                gc.collect()
                torch.cuda.empty_cache()


class _Texts:
    """The rows of one grid over a unit's prompts, and what has been drawn for them."""

    def __init__(self, unit: _Unit, grid: Grid) -> None:
        self.unit, self.law, self.together = unit, grid.law, len(grid.alphas)
        self.rows = [
            Row(p, float(a), s) for p in range(len(unit.prompts)) for s in range(unit.samples) for a in grid.alphas
        ]
        self.alpha = torch.tensor([r.alpha for r in self.rows], dtype=torch.float32)
        self.uniform = torch.tensor(unit.luck[[r.prompt for r in self.rows], [r.sample for r in self.rows]])
        self.tokens = np.zeros(self.uniform.shape, dtype=np.int64)  # (rows, steps)
        self.scores = np.zeros((*self.tokens.shape, len(PER_TOKEN)), dtype=np.float32)
        self.lengths = np.zeros(len(self.rows), dtype=np.int64)
        self.finish = np.full(len(self.rows), "length", dtype=object)

    def draw_from(self, prefill: Prefill, progress: Any) -> pd.DataFrame:
        """Draw all, as many at a time as the unit's columns allow."""
        unit = self.unit
        batch = new_batch(prefill, len(self.rows), self.together, unit.max_new_tokens, unit.columns)
        law = Captured(self.law.draw, len(batch.row))

        def draw(which: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
            drawn, going_on = self._draw(law, which, before, after)
            progress.update(int((~going_on).sum()))
            return drawn, going_on

        queue = deque(range(len(self.rows)))
        while batch.refill(queue, [r.prompt for r in self.rows], draw):
            batch.step(draw)
        return self.frame()

    def _draw(self, law: Captured, which: Tensor, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        """Draw, record, and say which rows go on. `which` (rows,) indexes the unit's rows."""
        index = which.numpy()
        step = self.lengths[index]
        u = self.uniform[which, torch.from_numpy(step)]
        alpha = self.law.alpha_at(self.alpha[which], torch.from_numpy(step)).float()
        alpha, u = (t.to(before.device, non_blocking=True) for t in (alpha, u))
        drawn, score = law(before, after, alpha, u)
        tokens = drawn.cpu().numpy()
        ended = np.isin(tokens, self.unit.ends)
        self.tokens[index, step] = tokens
        self.scores[index, step] = score.cpu().numpy()
        finite = np.isfinite(self.scores[index, step, :3]).all(-1)
        if not finite.all():
            bad = int((~finite).argmax())
            row = self.rows[index[bad]]
            raise NonFiniteLogitsError(
                f"logits are not finite at prompt {self.unit.prompts[row.prompt].id!r}, "
                f"alpha {row.alpha}, step {step[bad]}"
            )
        self.lengths[index] += 1
        self.finish[index[ended]] = "end"
        return drawn, torch.from_numpy(~ended & (self.lengths[index] < self.tokens.shape[1]))

    def frame(self) -> pd.DataFrame:
        """One line per row, as `sample_grid` returns it."""
        prompts = [self.unit.prompts[r.prompt] for r in self.rows]
        kept = [tokens[:n] for tokens, n in zip(self.tokens, self.lengths, strict=True)]
        frame = pd.DataFrame(
            {
                "prompt_id": [p.id for p in prompts],
                "category": [p.category for p in prompts],
                "prompt": [p.text for p in prompts],
                "alpha": [r.alpha for r in self.rows],
                "sample": [r.sample for r in self.rows],
                "text": self.unit.pair.tokenizer.batch_decode(kept, skip_special_tokens=True),
                "finish": self.finish,
                "tokens": kept,
            }
        )
        for k, name in enumerate(PER_TOKEN):
            frame[name] = [scores[:n, k] for scores, n in zip(self.scores, self.lengths, strict=True)]
        return frame


def _out_of_memory(error: RuntimeError) -> bool:
    """On a CPU, and where a CUDA graph finds no room, torch raises a plain RuntimeError."""
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in said or "out of memory" in said
