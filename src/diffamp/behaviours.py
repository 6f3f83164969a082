"""How often a behaviour shows in answers, how fast that grows with alpha, and what else alpha changes in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy.stats import permutation_test, t
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.rates import confint_poisson

from diffamp.judges.reasoning import count, token_class
from diffamp.stats import LEVEL, means, paired_difference, percent, rates, ratios

LEAST = 5
"""Answers that must show a behaviour for an interval or a slope to rest on them."""
LOOP = 8
"""Tokens whose exact recurrence, twice more, makes a loop."""
OUTCOMES = ("correct", "in_format", "ended", "loops", "worked")
"""What an answer has or has not; everything else is an amount."""
WORKING = ("step_marker", "calculation")
"""Behaviours of which one at least makes an answer a worked one."""
THIRDS = ("first", "middle", "last")


def counted(frame: pd.DataFrame) -> pd.DataFrame:
    """Answers with a column per behaviour (how often it shows) and what else is compared between alphas.

    `length` (tokens), `nats` (the sum of KL(p_alpha || p_after) over them), and true or false: `ended` (not cut at the
    limit of tokens), `loops` (a run of tokens recurs), `worked` (shows a step or a calculation).
    """
    counts = pd.DataFrame([count(text) for text in frame.text], index=frame.index)
    return frame.assign(
        length=frame["tokens"].map(len),
        nats=frame.kl_alpha_after.map(np.sum).astype(float),
        ended=frame.finish == "end",
        loops=frame["tokens"].map(loops),
        worked=counts[[*WORKING]].gt(0).any(axis=1),
        **counts,
    )


def loops(tokens: Sequence[int]) -> bool:
    """Whether some run of `LOOP` tokens occurs three times."""
    runs = [tuple(tokens[i : i + LOOP]) for i in range(len(tokens) - LOOP + 1)]
    return bool(runs) and bool(max(pd.Series(runs).value_counts()) >= 3)


def outcomes(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Each of `OUTCOMES`, length and nats per token in each group, in long form.

    Returns:
        The columns of `by`, measure, n (answers), value, low, high (95 %, clustered by task).
    """
    tables = {m: rates(frame, by, m).rename(columns={"rate": "value"}) for m in OUTCOMES}
    tables["length"] = means(frame, by, "length").rename(columns={"mean": "value"})
    tables["nats"] = ratios(frame, by, "nats", "length").rename(columns={"ratio": "value"})
    table = pd.concat([part.assign(measure=measure) for measure, part in tables.items()], ignore_index=True)
    return table[[*by, "measure", "n", "value", "low", "high"]]


def per_thousand(frame: pd.DataFrame, by: Sequence[str], behaviours: Sequence[str]) -> pd.DataFrame:
    """Occurrences per 1,000 tokens in each group: behaviour, rate, low, high (95 %, clustered by task).

    Where fewer than `LEAST` answers show a behaviour their number is taken for a Poisson count, whose exact interval
    (Garwood 1936) says what else it might have been; resampling few answers, or none, would not.
    """
    tables = []
    for behaviour in behaviours:
        table = ratios(frame, by, behaviour, "length").rename(columns={"ratio": "rate"})
        seen = frame.assign(answers=frame[behaviour] > 0).groupby(list(by), observed=True)
        sums = seen[["answers", behaviour, "length"]].sum().reset_index()
        each = (sums[behaviour] / sums.answers).fillna(1)  # occurrences in an answer that shows it
        low, high = confint_poisson(sums.answers, sums.length / each, method="exact-c", alpha=1 - LEVEL)
        few = sums.answers < LEAST
        table["low"] = table.low.mask(few, np.nan_to_num(low)).clip(lower=0)
        table["high"] = table.high.mask(few, high)
        tables.append(table.assign(behaviour=behaviour))
    whole = pd.concat(tables, ignore_index=True)
    return whole.assign(**{column: 1000 * whole[column] for column in ("rate", "low", "high")})


def elasticities(frame: pd.DataFrame, behaviours: Sequence[str], by: Sequence[str] = ()) -> pd.DataFrame:
    """d log(rate per token) / d alpha over the alphas of the frame: 1 means that the rate grows e-fold per unit.

    A Poisson regression of the counts on alpha, offset by the log of the tokens. Answers to a
    task share their luck, so the errors are robust to any dependence within tasks (GEE, Liang and Zeger 1986; corrected
    for few clusters by Mancl and DeRouen 2001, with Student's quantiles at two degrees of freedom fewer than tasks).
    The working correlation is independence: every task has every alpha, and an exchangeable one can fail to converge.

    Args:
        frame: answers from `counted` at the alphas between which the slope is asked for. What training brought (alpha
            -1 to 0) and what amplification adds (from 0 up) are two questions: one line through both answers neither.
        by: columns whose groups have slopes of their own. All slopes of the table are corrected together.

    Returns:
        The columns of `by`, behaviour, events (answers that show it), slope, low, high (95 % over all of the table
        together, Bonferroni), p (Holm) and clear (the interval excludes 0). Slopes are NaN where there are fewer
        than `LEAST` events, or fewer at all alphas but one together: what shows at one alpha alone has no slope.
    """
    groups = frame.groupby(list(by), observed=True) if by else [((), frame)]
    rows = [
        [*key, behaviour, int((group[behaviour] > 0).sum()), *_slope(group, behaviour)]
        for key, group in groups
        for behaviour in behaviours
    ]
    table = pd.DataFrame(rows, columns=[*by, "behaviour", "events", "slope", "error", "freedom"])
    fitted = table.slope.notna()
    quantile = t.ppf(1 - (1 - LEVEL) / 2 / max(fitted.sum(), 1), table.freedom)
    table["low"], table["high"] = table.slope - quantile * table.error, table.slope + quantile * table.error
    table["p"] = 2 * t.sf((table.slope / table.error).abs(), table.freedom)
    if fitted.any():
        table.loc[fitted, "p"] = multipletests(table.p[fitted], method="holm")[1]
    return table.drop(columns=["error", "freedom"]).assign(clear=(table.low > 0) | (table.high < 0))


def _slope(group: pd.DataFrame, behaviour: str) -> tuple[float, float, float]:
    """Slope, standard error, degrees of freedom."""
    at_each = group[group[behaviour] > 0].alpha.value_counts()
    if at_each.iloc[1:].sum() < LEAST:
        return np.nan, np.nan, np.nan
    model = sm.GEE(
        group[behaviour],
        sm.add_constant(group.alpha),
        groups=group.prompt_id,
        offset=np.log(group.length),
        family=sm.families.Poisson(),
        cov_struct=sm.cov_struct.Independence(),
    )
    flat = [np.log(group[behaviour].sum() / group.length.sum()), 0.0]  # from its own start the fit can overflow
    fit = model.fit(start_params=flat, cov_type="bias_reduced")
    if not fit.converged:
        return np.nan, np.nan, np.nan
    return float(fit.params["alpha"]), float(fit.bse["alpha"]), float(group.prompt_id.nunique() - 2)


def changes(frame: pd.DataFrame, base: pd.DataFrame, by: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    """How each group of answers differs from `base`, task by task.

    Args:
        frame, base: answers of one pair from `counted`, one per task and group.
        measures: outcomes and `length` are compared as they are, behaviours per 1,000 tokens of each answer.

    Returns:
        The columns of `by`, measure, difference, low, high (95 % each; NaN where an amount differs in fewer than
        `LEAST` tasks), p (the two answers to a task exchanged at random; Holm over the whole table), clear (p < 0.05).
    """
    rows = [
        (*key, measure, *_change(_measured(base, measure), _measured(group, measure), measure))
        for key, group in frame.groupby(list(by), observed=True)
        for measure in measures
    ]
    table = pd.DataFrame(rows, columns=[*by, "measure", "difference", "low", "high", "p"])
    table["p"] = multipletests(table.p, method="holm")[1]
    return table.assign(clear=table.p < 1 - LEVEL)


def kept(sparse: pd.DataFrame, whole: pd.DataFrame, base: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Which part of a change is left when only some positions are amplified, for each `share` of them.

    Args:
        sparse: answers at one alpha, by `share`; `whole` (every position amplified) and `base` (none) likewise.

    Returns:
        `changes` of all of them, by share, with kept, kept_low, kept_high (95 %): the ratio to the whole change, NaN
        where that is not clearly different from 0; and amplified: the share of sampled tokens whose law differs from
        the after-model's.
    """
    arms = pd.concat([sparse, whole])
    overall = changes(whole, base, ["share"], measures)
    table = pd.concat([changes(sparse, base, ["share"], measures), overall], ignore_index=True)
    ratio = []
    for measure in overall.measure[overall.clear]:
        ground = _measured(base, measure).set_index("prompt_id").value.astype(float)
        total = _measured(whole, measure).set_index("prompt_id").value - ground
        for share, arm in sparse.groupby("share"):
            part = _measured(arm, measure).set_index("prompt_id").value - ground
            both = pd.DataFrame({"part": part, "total": total}).reset_index().assign(share=share, measure=measure)
            ratio.append(ratios(both, ["share", "measure"], "part", "total"))
    columns = {"ratio": "kept", "low": "kept_low", "high": "kept_high"}
    empty = pd.DataFrame(columns=["share", "measure", *columns], dtype=float).astype({"measure": str})
    found = (pd.concat(ratio) if ratio else empty).drop(columns="n", errors="ignore").rename(columns=columns)
    moved = arms[["share", "kl_alpha_after"]].explode("kl_alpha_after")
    moved = moved.assign(amplified=moved.kl_alpha_after.astype(float) > 1e-6).groupby("share").amplified.mean()
    return table.merge(found, on=["share", "measure"], how="left").merge(moved.reset_index(), on="share")


def _measured(frame: pd.DataFrame, measure: str) -> pd.DataFrame:
    amount = measure in (*OUTCOMES, "length")
    values = frame[measure] if amount else 1000 * frame[measure] / frame.length
    return pd.DataFrame({"prompt_id": frame.prompt_id, "sample": 0, "value": values})


def _change(a: pd.DataFrame, b: pd.DataFrame, measure: str) -> tuple[float, float, float, float]:
    """Difference, low, high, p before correction."""
    both = a.merge(b, on="prompt_id", suffixes=("_a", "_b"))
    gap = both.value_b.to_numpy(float) - both.value_a.to_numpy(float)
    if not gap.any():
        p = 1.0
    else:
        rng = np.random.default_rng(0)
        p = permutation_test((gap,), np.mean, permutation_type="samples", vectorized=True, rng=rng).pvalue
    if measure not in OUTCOMES and np.count_nonzero(gap) < LEAST:
        return float(gap.mean()), np.nan, np.nan, float(p)
    return *paired_difference(a, b, "value"), float(p)


def where_it_differs(answers: pd.DataFrame, decode: Sequence[Sequence[str]]) -> pd.DataFrame:
    """KL(p_after || p_before) of every token of unamplified answers, with its place and class.

    Args:
        answers: with `kl_after_before`, one list per answer, in nats.
        decode: each answer's tokens as text.

    Returns:
        One row per token: prompt_id, third ("first", "middle", "last" of its answer), token_class, nats.
    """
    rows = []
    for answer, words in zip(answers.itertuples(), decode, strict=True):
        thirds = np.minimum(3 * np.arange(len(words)) // max(len(words), 1), 2)
        rows += [
            (answer.prompt_id, THIRDS[third], token_class(word), float(nats))
            for third, word, nats in zip(thirds, words, answer.kl_after_before, strict=True)
        ]
    table = pd.DataFrame(rows, columns=["prompt_id", "third", "token_class", "nats"])
    return table.assign(third=pd.Categorical(table.third, THIRDS))


def located(tokens: pd.DataFrame, column: str) -> pd.DataFrame:
    """`where_it_differs` by "third" or "token_class".

    Returns:
        `column`, tokens (their share of all), mean, low, high (nats per token), share, share_low, share_high (of the
        sum of nats over all tokens); 95 %, clustered by task, low and high NaN for what fewer than `LEAST` tasks have.
    """
    table = means(tokens, [column], "nats")
    few = table[column].map(tokens.groupby(column, observed=True).prompt_id.nunique()).astype(int) < LEAST
    table[["low", "high"]] = table[["low", "high"]].mask(few)
    rows = []
    for value in table[column]:
        inside = tokens.assign(inside=tokens.nats.where(tokens[column] == value, 0.0), all="all")
        rows.append(ratios(inside, ["all"], "inside", "nats").assign(**{column: value}))
    shares = pd.concat(rows).rename(columns={"ratio": "share", "low": "share_low", "high": "share_high"})
    table = table.assign(tokens=table.n / table.n.sum()).merge(shares[[column, "share", "share_low", "share_high"]])
    return table.drop(columns="n")


def shown(table: pd.DataFrame, value: str) -> list[str]:
    """Each row's value and interval in words: outcomes in percent, their differences in points."""
    return [_said(row, value) for row in table.to_dict("records")]


def listed(table: pd.DataFrame, value: str, name: str) -> str:
    """The rows that are `clear`, strongest first: "`restating` -1.25 [-2.33, -0.18], ..."; "none" if there are none."""
    clear = table[table.clear].sort_values(value, key=abs, ascending=False)
    return ", ".join(f"`{row[name]}` {_said(row, value)}" for row in clear.to_dict("records")) or "none"


def in_both(slopes: pd.DataFrame) -> str:
    """Behaviours whose slopes are clear and of one sign on families trained on and held out: "`restating` up, ..."."""
    clear = slopes[slopes.clear].set_index("behaviour")
    trained, held = (clear.slope[clear.held_out == side] for side in (False, True))
    both = pd.DataFrame({"trained": trained, "held": held}).dropna()
    both = both[both.trained * both.held > 0].sort_values("held", key=abs, ascending=False)
    return ", ".join(f"`{name}` {'up' if row.held > 0 else 'down'}" for name, row in both.iterrows()) or "none"


def trend(table: pd.DataFrame) -> str:
    """What the clear rows of `changes` say together."""
    up, down = (bool((table.clear & (table.difference * sign > 0)).any()) for sign in (1, -1))
    if up and down:
        return "clearly rises at some alphas and falls at others"
    return "clearly rises" if up else "clearly falls" if down else "does not clearly change"


def _said(row: dict, value: str) -> str:
    numbers = row[value], row["low"], row["high"]
    if np.isnan(row[value]):
        return f"too few ({row['events']})"
    if row.get("measure") in OUTCOMES:
        points = "{:+.0f} points [{:+.0f}, {:+.0f}]".format(*(100 * n for n in numbers))
        return points if value == "difference" else percent(*numbers)
    sign = "+" if value in ("difference", "slope") else ""
    said = [f"{float(f'{n:.3g}'):{sign}g}" for n in numbers]
    return f"{said[0]} (few)" if np.isnan(row["low"]) else f"{said[0]} [{said[1]}, {said[2]}]"
