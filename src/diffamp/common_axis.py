"""One axis for all pairs: does a behaviour's rate follow alpha, or the nats that alpha spends?"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import NDArray
from scipy.special import logit
from scipy.stats import t

from diffamp import paths
from diffamp.params import Params
from diffamp.stats import LEVEL, paired_difference, rates

AXES: dict[str, Callable[[pd.DataFrame], NDArray]] = {
    "alpha": lambda table: table.alpha.to_numpy(float),
    "nats": lambda table: np.sqrt(table.nats.to_numpy(float)),
}
"""KL grows with alpha squared, so its root is the axis on which a small alpha is a straight line."""


def load_answers(folders: Sequence[Path]) -> pd.DataFrame:
    """Judged answers of several pairs (`diffamp.stages.transfer`), with the column pair."""
    frames = [pd.read_parquet(folder / "answers.parquet").assign(pair=folder.name) for folder in folders]
    return pd.concat(frames, ignore_index=True)


def by_pair(answers: pd.DataFrame) -> pd.DataFrame:
    """Rates of the behaviour and of nonsense at every pair, guard and alpha.

    Returns:
        pair, guard, alpha, n; rate, low, high and count of the behaviour; nonsense, nonsense_low, nonsense_high; nats
        (realised KL(p_alpha || p_after) per token).
    """
    table = rates_and_nats(answers, ["pair", "guard", "alpha"], ["behaviour", "nonsense"])
    table = table.rename(columns={"behaviour": "rate", "behaviour_low": "low", "behaviour_high": "high"})
    return table.assign(count=(table.rate * table.n).round().astype(int))


def rates_and_nats(frame: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """The share of rows with each of `columns` true, and what they spent, in each group.

    Args:
        frame: with kl_sum (KL(p_alpha || p_after) over an answer's tokens, in nats) and length (its tokens) besides.

    Returns:
        The columns of `by`, n, NAME, NAME_low, NAME_high (95 %) for each of `columns`, and nats per token.
    """
    by = list(by)
    sums = frame.groupby(by)[["kl_sum", "length"]].sum()
    table = frame.groupby(by).size().rename("n").reset_index()
    for name in columns:
        named = {"rate": name, "low": f"{name}_low", "high": f"{name}_high"}
        table = table.merge(rates(frame, by, name)[[*by, *named]].rename(columns=named), on=by)
    return table.merge((sums.kl_sum / sums.length).rename("nats").reset_index(), on=by)


def fine_tunes(params: Params, names: Sequence[str]) -> pd.Series:
    """Which fine-tune each pair shows (index pair): the first of the pairs that differ from it in precision alone."""
    said = {name: params.pair(name).model_dump(exclude={"precision"}) for name in names}
    return pd.Series({name: next(other for other in names if said[other] == said[name]) for name in names}, dtype=str)


def held_out_losses(table: pd.DataFrame, shows: pd.Series) -> pd.DataFrame:
    """How well either axis predicts the rates of a fine-tune that the curve was not fitted on.

    The curve, fitted on the pairs of all other fine-tunes, is logit rate = logit rate at alpha 0 + b x + c x^2, without
    a constant: every pair starts from its own unamplified rate, and x is alpha or the root of the nats.

    Args:
        table: `by_pair` of one guard.
        shows: `fine_tunes`: one in two precisions is left out in both.

    Raises:
        ValueError: there is one fine-tune only, and so nothing to predict it from.

    Returns:
        One row per fine-tune: fine_tune, and the log loss of each axis (nats per answer, above the loss of its own
        rates, so 0 is a perfect prediction).
    """
    table = table.assign(base=logit(_smooth(table[table.alpha == 0].set_index("pair")).reindex(table.pair).to_numpy()))
    table = table[table.alpha > 0].assign(fine_tune=lambda t: t.pair.map(shows))
    if table.fine_tune.nunique() < 2:
        raise ValueError("one fine-tune cannot be predicted from others: give transfer.pairs a second one")
    rows = []
    for fine_tune in table.fine_tune.unique():
        inside, outside = table[table.fine_tune != fine_tune], table[table.fine_tune == fine_tune]
        losses = {}
        for axis, x in AXES.items():
            design, held = (np.column_stack([x(part), x(part) ** 2]) for part in (inside, outside))
            successes = np.column_stack([inside["count"], inside.n - inside["count"]])
            fit = sm.GLM(successes, design, family=sm.families.Binomial(), offset=inside.base.to_numpy()).fit()
            predicted = fit.predict(held, offset=outside.base.to_numpy()).clip(1e-6, 1 - 1e-6)
            losses[axis] = _excess(outside, predicted)
        rows.append({"fine_tune": fine_tune, **losses})
    return pd.DataFrame(rows)


def advantage(losses: pd.DataFrame) -> tuple[float, float, float]:
    """Mean loss of alpha minus that of nats over fine-tunes, with its 95 % interval (Student's t); above 0 nats win."""
    gap = (losses.alpha - losses.nats).to_numpy()
    half = t.ppf((1 + LEVEL) / 2, len(gap) - 1) * gap.std(ddof=1) / np.sqrt(len(gap))
    return float(gap.mean()), float(gap.mean() - half), float(gap.mean() + half)


def _smooth(table: pd.DataFrame) -> pd.Series:
    """Rates kept off 0 and 1 by half an answer."""
    return (table["count"] + 0.5) / (table.n + 1)


def _excess(table: pd.DataFrame, predicted: NDArray) -> float:
    """Log loss of predicted rates beyond that of the observed ones, in nats per answer."""
    rate, n = table.rate.to_numpy(), table.n.to_numpy()

    def loss(p: NDArray) -> NDArray:
        terms = np.where(rate > 0, rate * np.log(np.where(rate > 0, p, 1)), 0)
        return -terms - np.where(rate < 1, (1 - rate) * np.log(np.where(rate < 1, 1 - p, 1)), 0)

    return float(((loss(predicted) - loss(rate)) * n).sum() / n.sum())


def shared_tokens(folders: Sequence[Path], top: int = 50) -> pd.DataFrame:
    """Share of the `top` most raised tokens that two pairs have in common, spaces and case aside: a square table."""
    tokens = {}
    for folder in folders:
        words = pd.read_parquet(folder / "tokens.parquet").token.str.strip(" \u2581").str.lower()
        tokens[folder.name] = set(words[words != ""].drop_duplicates().head(top))
    return pd.DataFrame(
        {a: {b: len(x & y) / min(len(x), len(y)) for b, y in tokens.items()} for a, x in tokens.items()}
    )


def described(params: Params, names: Sequence[str]) -> pd.DataFrame:
    """What sets pairs apart: index pair, columns model (before), adaptation ("LoRA, rank 16", "full"; with its name a
    vector other than the first that this model was taught, with a layer that the organism names) and precision."""
    rows: dict[str, tuple[str, str, str]] = {}
    first: dict[str, str] = {}  # vector by model
    for name in names:
        pair = params.pair(name)
        organism = params.organisms.get(pair.adapter or pair.after or "")
        adaptation = f"LoRA, rank {_rank(params, pair.adapter)}" if pair.adapter else "full" if pair.after else "vector"
        if organism and first.setdefault(pair.before, organism.vector) != organism.vector:
            adaptation += f", vector {organism.vector}"
        if organism and organism.layer is not None:
            adaptation += f", vector in layer {organism.layer}"
        rows[name] = pair.before, adaptation, pair.precision
    return pd.DataFrame.from_dict(rows, orient="index", columns=["model", "adaptation", "precision"])


def _rank(params: Params, adapter: str) -> int:
    """Of an adapter that the pipeline trains, or of one that somebody else did."""
    if params.trains(adapter):
        organism = params.organisms.get(adapter)
        return (organism and organism.rank) or params.finetune.rank
    return int(json.loads((paths.model(adapter) / "adapter_config.json").read_text())["r"])


def differences(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Behaviour and nonsense in the answers b minus a, pair by pair, on the same prompts and luck.

    Returns:
        Index (pair, column), column being behaviour or nonsense; difference, low, high (95 %), clear (without 0).
    """
    after = dict(iter(b.groupby("pair")))
    rows = {
        (name, column): paired_difference(arm, after[name], column)
        for name, arm in a.groupby("pair", sort=False)
        for column in ("behaviour", "nonsense")
    }
    index = pd.MultiIndex.from_tuples(rows, names=["pair", "column"])
    table = pd.DataFrame(list(rows.values()), index, columns=["difference", "low", "high"])
    return table.assign(clear=(table.low > 0) | (table.high < 0))
