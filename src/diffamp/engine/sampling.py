"""Samples from the amplified difference: prompts x laws x alphas x samples, in one batch that never idles.

Every distinct prompt is prefilled once for all its rows, and rows of it that have drawn the same tokens are decoded
once. Rows of different prompts share a batch; a finished row leaves and what waits takes its place
(`diffamp.engine.batch`).
"""

from __future__ import annotations

import gc
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor
from tqdm.auto import tqdm

from diffamp.engine.graphs import Captured, captured, new_batch
from diffamp.engine.law import PER_TOKEN, Law
from diffamp.engine.noise import uniforms
from diffamp.engine.pairs import ModelPair
from diffamp.engine.prefill import Prefill
from diffamp.engine.records import Records, by_guard
from diffamp.prompts import Prompt, encode

ROWS_PER_UNIT = 512
"""Work is recorded in units of about so many rows: small enough to lose little, large enough to fill a batch."""

PACKAGE = Path(__file__).parents[1]
CODE = (*(f"engine/{name}.py" for name in (
    "adapters", "amplify", "attention", "batch", "cache", "checkpoints", "graphs", "guards", "halves", "head", "law",
    "linear", "loading", "model", "noise", "norms", "pairs", "prefill", "sampling", "vocabulary",
)), "prompts.py", "runtime.py")  # fmt: skip
"""Every module that a sample passes through."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grid:
    """What is sampled for every prompt: one law at several strengths."""

    law: Law
    alphas: Sequence[float]
    """Without a guard -1 is the before-model, 0 the after-model."""


@dataclass(frozen=True)
class Row:
    """One text to be sampled."""

    grid: int
    prompt: int
    sample: int
    alpha: float


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
    shared: bool = True,
    desc: str = "sampling",
) -> pd.DataFrame:
    """`sample_grids` of one law: `samples` texts for every prompt and every alpha."""
    frame = sample_grids(
        pair,
        prompts,
        {"": Grid(law or Law(), alphas)},
        samples,
        max_new_tokens=max_new_tokens,
        seed=seed,
        token_budget=token_budget,
        records=records,
        shared=shared,
        desc=desc,
    )
    return frame.drop(columns="guard")


def sample_grids(
    pair: ModelPair,
    prompts: Sequence[Prompt],
    grids: Mapping[str, Grid],
    samples: int,
    *,
    max_new_tokens: int,
    seed: int = 0,
    token_budget: int = 8192,
    records: Records | None = None,
    shared: bool = True,
    desc: str = "sampling",
) -> pd.DataFrame:
    """Sample `samples` texts for every prompt, law and alpha, all side by side.

    Args:
        prompts: encoded with the tokenizer's chat template where it has one and the prompt is not raw.
        grids: by the name of their guard.
        max_new_tokens: a row ends there or at an end token.
        seed: of the coupled noise (`diffamp.engine.noise`): all laws and alphas of a prompt and sample have one luck.
        token_budget: columns of key/value cache in a batch, over all slots (the prompts' own states take as many again
            at the most); sets the number of slots. Halved, with a warning, when memory runs out.
        records: where units are kept and resumed from; None keeps everything in memory.
        shared: rows of a prompt are decoded together for as long as they draw the same tokens. False runs each on its
            own, so that each costs its own forward tokens.

    Returns:
        One row per text, grid after grid: guard, prompt_id, category, prompt, alpha, sample, text, finish ("end" or
        "length"), tokens and the five per-token lists of `PER_TOKEN`.

    Raises:
        ValueError: an alpha that is not finite, a prompt that does not fit the context.
        NonFiniteLogitsError: the models overflowed.
        MemoryError: not even one row fits.
    """
    if not grids:
        raise ValueError("no grid to sample: give at least one law with its alphas")
    for grid in grids.values():
        encoded = check_grid(pair, prompts, grid.alphas, samples, max_new_tokens)
    per_prompt = samples * sum(len(grid.alphas) for grid in grids.values())
    # the states of all prompts of a unit are held beside the batch: no more columns than the batch itself may have
    per_unit = max(1, min(ROWS_PER_UNIT // per_prompt, token_budget // max(map(len, encoded))))
    tables = []
    with tqdm(total=len(prompts) * per_prompt, desc=desc, unit="text", disable=None, smoothing=0.05) as progress:
        for number, i in enumerate(range(0, len(prompts), per_unit)):
            table = records.read(number) if records else None
            if table is None:
                part = slice(i, i + per_unit)
                unit = _Unit(pair, prompts[part], encoded[part], grids, samples, max_new_tokens, seed, shared)
                frame, token_budget = unit.sample(token_budget, progress)
                table = pa.Table.from_pandas(frame, preserve_index=False)
                if records:
                    records.write(number, table)
            else:
                progress.update(table.num_rows)
            tables.append(table.replace_schema_metadata(None))
    return by_guard(pa.concat_tables(tables).to_pandas(), grids)


def configuration(prompts: Sequence[Prompt], grids: Mapping[str, Grid], samples: int, **rest: Any) -> dict:
    """What the bytes of a grid depend on, for `Records`."""
    return {
        "prompts": [asdict(p) for p in prompts],
        "grids": [[name, repr(grid.law), list(grid.alphas)] for name, grid in grids.items()],
        "samples": samples,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
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
        digest.update((PACKAGE / name).read_bytes())
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
    """One unit of work: some prompts, every row of them, and what has been drawn for each."""

    def __init__(
        self,
        pair: ModelPair,
        prompts: Sequence[Prompt],
        encoded: Sequence[list[int]],
        grids: Mapping[str, Grid],
        samples: int,
        max_new_tokens: int,
        seed: int,
        shared: bool,
    ) -> None:
        self.pair, self.prompts, self.encoded, self.grids = pair, prompts, encoded, grids
        self.rows = [
            Row(g, p, s, float(a))
            for g, grid in enumerate(grids.values())
            for p in range(len(prompts))
            for s in range(samples)
            for a in grid.alphas
        ]
        numbers = range(len(self.rows))
        if shared:
            of: dict[int, list[int]] = {}
            for n in numbers:
                of.setdefault(self.rows[n].prompt, []).append(n)
            self.groups, self.together = list(of.items()), 1
        else:
            self.groups = [(self.rows[n].prompt, [n]) for n in numbers]
            self.together = max(len(grid.alphas) for grid in grids.values())
        luck = {
            (p, s): uniforms(seed, prompt.key, s, max_new_tokens)
            for p, prompt in enumerate(prompts)
            for s in range(samples)
        }
        self.uniform = torch.tensor(np.stack([luck[r.prompt, r.sample] for r in self.rows]))  # (rows, steps)
        self.alpha = torch.tensor([r.alpha for r in self.rows], dtype=torch.float32)
        self.grid = torch.tensor([r.grid for r in self.rows])
        self.ends = np.array(pair.end_tokens, dtype=np.int64)
        self._blank()

    def _blank(self) -> None:
        self.tokens = np.zeros(self.uniform.shape, dtype=np.int64)
        self.scores = np.zeros((*self.tokens.shape, len(PER_TOKEN)), dtype=np.float32)
        self.lengths = np.zeros(len(self.rows), dtype=np.int64)
        self.finish = np.full(len(self.rows), "length", dtype=object)

    @torch.inference_mode()
    def sample(self, columns: int, progress: Any) -> tuple[pd.DataFrame, int]:
        """Draw every row; also what of `columns` of cache fitted into memory."""
        done, longest = progress.n, self.tokens.shape[1]
        while True:
            try:
                self._try(columns, progress)
                return self._frame(), columns
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                one_row = max(map(len, self.encoded)) + longest
                if columns <= one_row:
                    raise MemoryError(
                        f"not even one row of {one_row} tokens fits into memory beside the model and the states of "
                        f"{len(self.encoded)} prompts; a smaller token_budget makes that fewer prompts: {error}"
                    ) from None
            # outside of the handler, and of `_try`, which would keep the failed batch alive
            columns = max(columns // 2, one_row)
            log.warning("out of memory: going on with a token_budget of %d (set it in params.yaml)", columns)
            progress.update(done - progress.n)
            self._blank()
            if torch.cuda.is_available():
                gc.collect()
                torch.cuda.empty_cache()

    def _try(self, columns: int, progress: Any) -> None:
        prefill = Prefill(self.pair, self.encoded, columns)
        batch = new_batch(prefill, self.groups, self.together, self.tokens.shape[1], columns)
        laws = captured([grid.law.draw for grid in self.grids.values()], batch.most)
        batch.run(partial(self._draw, laws, progress))

    def _draw(
        self,
        laws: Sequence[Captured],
        progress: Any,
        rows: Tensor,
        before: Tensor,
        after: Tensor,
        line: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Draw for each row under its own law, and record it: a `diffamp.engine.batch.Draw`."""
        index = rows.numpy()
        step = torch.from_numpy(self.lengths[index])
        device = before.device
        at, u = (t.to(device, non_blocking=True) for t in (line, self.uniform[rows, step]))
        drawn = torch.empty(len(rows), dtype=torch.long, device=device)
        score = torch.empty(len(rows), len(PER_TOKEN), device=device)
        for number, (grid, law) in enumerate(zip(self.grids.values(), laws, strict=True)):
            own = (self.grid[rows] == number).nonzero()[:, 0]
            if len(own):
                alpha = grid.law.alpha_at(self.alpha[rows[own]], step[own]).float().to(device, non_blocking=True)
                own = own.to(device, non_blocking=True)
                drawn[own], score[own] = law(before[at[own]], after[at[own]], alpha, u[own])
        going_on = self._record(index, drawn.cpu().numpy(), score.cpu().numpy())
        progress.update(int((~going_on).sum()))
        return torch.from_numpy(self.tokens[index, step]), torch.from_numpy(going_on)

    def _record(self, rows: np.ndarray, drawn: np.ndarray, score: np.ndarray) -> np.ndarray:
        """Keep what was drawn; which rows go on."""
        step = self.lengths[rows]
        self.tokens[rows, step], self.scores[rows, step] = drawn, score
        finite = np.isfinite(score[:, :3]).all(-1)
        if not finite.all():
            bad = int((~finite).argmax())
            row = self.rows[rows[bad]]
            raise NonFiniteLogitsError(
                f"logits are not finite at prompt {self.prompts[row.prompt].id!r}, alpha {row.alpha}, step {step[bad]}"
            )
        self.lengths[rows] += 1
        ended = np.isin(drawn, self.ends)
        self.finish[rows[ended]] = "end"
        return ~ended & (self.lengths[rows] < self.tokens.shape[1])

    def _frame(self) -> pd.DataFrame:
        """One line per row, as `sample_grids` returns it."""
        names, prompts = list(self.grids), [self.prompts[r.prompt] for r in self.rows]
        kept = [tokens[:n] for tokens, n in zip(self.tokens, self.lengths, strict=True)]
        frame = pd.DataFrame(
            {
                "guard": [names[r.grid] for r in self.rows],
                "prompt_id": [p.id for p in prompts],
                "category": [p.category for p in prompts],
                "prompt": [p.text for p in prompts],
                "alpha": [r.alpha for r in self.rows],
                "sample": [r.sample for r in self.rows],
                "text": self.pair.tokenizer.batch_decode(kept, skip_special_tokens=True),
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
