"""Tokens that a fine-tune moves whatever the context, more than a benign fine-tune of the same base does."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import median_abs_deviation, spearmanr
from scipy.stats import t as student
from sklearn.cluster import AgglomerativeClustering
from statsmodels.stats.multitest import multipletests

STRATA = 10
"""Groups of equally many tokens by their probability under the before-model, within which tokens are compared."""

FDR = 0.05
CONSISTENCY = 0.9
"""Share of the contexts of every kind in which a prompt-independent token moves in its direction, at least."""

TOP = 50

ALIKE = 0.2
"""Cosine of two output embeddings, beyond the vocabulary's mean, from which tokens are put into one group."""


def pooled(tokens: pd.DataFrame) -> pd.DataFrame:
    """One row per token over all kinds of context, every kind counting the same, however many contexts it has.

    Args:
        tokens: `diffamp.shifts.TokenShifts.table` of each kind, with the columns kind and token.

    Returns:
        token, mean, se, consistency (share of contexts in which the token moves as in the mean, in the kind where that
        is smallest), kl_share (of the pair's KL(p_after || p_before): the shares of all tokens sum to 1),
        p_before, p_after, half_0, half_1 and each kind's mean as mean_KIND.
    """
    kinds = list(tokens.kind.unique())
    wide = tokens.pivot(index="token", columns="kind")
    table = wide[["mean", "p_before", "p_after", "half_0", "half_1"]].T.groupby(level=0).mean().T
    table["se"] = np.sqrt(wide["se"].pow(2).sum(axis=1, skipna=False)) / len(kinds)
    same_way = wide["positive"].where(table["mean"] > 0, 1 - wide["positive"], axis=0)
    table["consistency"] = same_way.min(axis=1)
    total = wide["divergence"].sum()
    table["kl_share"] = (wide["divergence"] / total.where(total > 0, 1.0)).mean(axis=1)
    columns = ["mean", "se", "consistency", "kl_share", "p_before", "p_after", "half_0", "half_1"]
    return table[columns].join(wide["mean"].add_prefix("mean_")).reset_index().rename_axis(columns=None)


def prompt_independent(tokens: pd.DataFrame, null: pd.DataFrame) -> pd.DataFrame:
    """Which tokens a pair moves whatever the context, more than the null pair moves tokens that are as frequent.

    With thousands of positions every token's mean differs from zero, and any fine-tune moves some tokens. So a shift is
    taken beyond the null pair's shift of the same token, and beyond the median over tokens of its frequency stratum (a
    fine-tune that sharpens or flattens the distribution moves all rare tokens alike): `excess`. Its scale is
    z = excess / sqrt(se^2 + se_null^2 + 2 tau^2), where tau^2 is the variance between tokens of the stratum in the null
    pair (robust, freed of its own sampling error): a random-effects model of what a fine-tune does to a token for no
    reason of interest, twice since both pairs have such effects. p is from Student's t fitted to the null tokens' own
    standardised shifts: tails as heavy as theirs, and resolution beyond 1 / vocabulary, without which a fine-tune that
    moves fewer than 1 / FDR tokens could never be seen. Benjamini and Hochberg (1995) over the vocabulary gives q.
    Where both pairs share their idle effects this errs on the safe side.

    A token is `independent` when q <= 0.05 and it moves in this direction in at least 90 % of the contexts of *every*
    kind: size against the null, and consistency.

    Args:
        tokens, null: as for `pooled`, of two pairs with one vocabulary over the same contexts.

    Returns:
        The columns of `pooled` with null_mean, null_se, excess, z, q and independent; largest |z| first.

    Raises:
        ValueError: the two tables differ in kinds or vocabulary.
    """
    for column in ("kind", "token"):
        if set(tokens[column].unique()) != set(null[column].unique()):
            raise ValueError(f"the pair and the null differ in {column}s: mine both on the same contexts")
    table, other = pooled(tokens), pooled(null)
    table["null_mean"], table["null_se"] = other["mean"], other["se"]
    stratum = pd.qcut(table.p_before.rank(method="first"), min(STRATA, len(table)), labels=False)
    idle = _beyond_stratum(table.null_mean, stratum)
    spread = idle.groupby(stratum).transform(median_abs_deviation, scale="normal").pow(2)
    tau2 = (spread - table.null_se.pow(2).groupby(stratum).transform("median")).clip(lower=0)
    table["excess"] = _beyond_stratum(table["mean"] - table.null_mean, stratum)
    table["z"] = _ratio(table.excess, table.se.pow(2) + table.null_se.pow(2) + 2 * tau2)
    idle_z = _ratio(idle, table.null_se.pow(2) + tau2)
    # a null that does not move at all (identical weights) leaves sampling error only
    freedom, _, scale = student.fit(idle_z, floc=0) if idle_z.any() else (np.inf, 0, 1)
    p = 2 * student.sf(table.z.abs() / scale, freedom)
    table["q"] = multipletests(p, method="fdr_bh")[1]
    one_way = (table["mean"] > 0) == (table.excess > 0)
    table["independent"] = (table.q <= FDR) & (table.consistency >= CONSISTENCY) & one_way
    return table.sort_values("z", key=lambda z: -z.abs(), ignore_index=True)


def stability(tokens: pd.DataFrame) -> pd.DataFrame:
    """Whether another half of the contexts, or another kind, would rank the tokens alike.

    Args:
        tokens: as for `pooled`.

    Returns:
        One row per comparison (the halves of each kind, of all kinds, and every two kinds): compared, spearman (of the
        shifts of all tokens), overlap (share of the `TOP` largest shifts, up or down, that both name).
    """
    table = pooled(tokens)
    kinds = list(tokens.kind.unique())
    by_kind = {kind: group.set_index("token") for kind, group in tokens.groupby("kind")}
    compared = {f"halves of {kind}": (by_kind[kind].half_0, by_kind[kind].half_1) for kind in kinds}
    compared["halves of all"] = table.half_0, table.half_1
    compared |= {f"{a} and {b}": (table[f"mean_{a}"], table[f"mean_{b}"]) for a, b in combinations(kinds, 2)}
    rows = []
    for name, (a, b) in compared.items():
        both = set(a.abs().nlargest(TOP).index) & set(b.abs().nlargest(TOP).index)
        rows.append((name, float(spearmanr(a, b).statistic), len(both) / min(TOP, len(a))))
    return pd.DataFrame(rows, columns=["compared", "spearman", "overlap"])


def groups(embeddings: NDArray, chosen: NDArray, alike: float = ALIKE) -> NDArray:
    """Groups of tokens by the cosine between their output embeddings: agglomerative, complete linkage.

    Where the output layer is not fine-tuned, d = W (h_after - h_before): tokens with like rows of W move together by
    construction, so these are the groups that shift together as well. Rows are taken beyond the vocabulary's mean,
    which all of them share and which centring removes from the shifts.

    Args:
        embeddings: (vocabulary, width) the output layer.
        chosen: (tokens,) the tokens to be put into groups.
        alike: cosine that every two tokens of a group have, at least.

    Returns:
        (tokens,) group numbers, the largest group first.
    """
    if len(chosen) < 2:
        return np.zeros(len(chosen), dtype=int)
    rows = embeddings[chosen] - embeddings.mean(0)
    labels = AgglomerativeClustering(
        n_clusters=None, distance_threshold=1 - alike, metric="cosine", linkage="complete"
    ).fit_predict(rows)
    by_size = np.argsort(-np.bincount(labels), kind="stable")
    return np.argsort(by_size)[labels]


def _beyond_stratum(shift: pd.Series, stratum: pd.Series) -> pd.Series:
    return shift - shift.groupby(stratum).transform("median")


def _ratio(shift: pd.Series, variance: pd.Series) -> pd.Series:
    """shift / sqrt(variance); 0 where nothing moves at all, infinite where only the null does not."""
    return (shift / np.sqrt(variance)).where(shift != 0, 0.0)
