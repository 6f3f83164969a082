"""A page that can be mailed: what was found in a pair, with its evidence. Text of models is never trusted as HTML."""

from __future__ import annotations

from html import escape
from pathlib import Path

from diffamp.discovery.findings import LEAST_GAP, LEAST_SEEDS
from diffamp.discovery.investigate import Investigation

EXAMPLES = 6
_STYLE = (
    "body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:62rem;color:#222}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.35rem .6rem;border-bottom:1px solid #ddd;text-align:left;"
    "vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}tr.weak{color:#888}"
)
_COLUMNS = {"seeds": "d", "texts": "d", **dict.fromkeys(("recurrence", "gap", "denied", "benign", "score"), ".2f")}


def write_page(investigation: Investigation, title: str, path: Path) -> None:
    """The findings as one self-contained HTML file: no script, nothing loaded from elsewhere."""
    found, samples = investigation.findings, investigation.samples
    rows = [
        f"<tr{'' if row['passes'] else ' class=weak'}><td>{n}</td><td>{_safe(row['statement'])}</td>"
        + "".join(f'<td class="n">{row[c]:{form}}</td>' for c, form in _COLUMNS.items())
        + f"<td>{_safe(row['given'])}</td></tr>"
        for n, row in enumerate(found.to_dict("records"), 1)
    ]
    strongest = samples.sort_values("owed", ascending=False, kind="stable").drop_duplicates("seed").head(EXAMPLES)
    texts = [
        f"<tr><td>{_safe(given)}</td><td>{alpha:g}</td><td>{_safe(text)}</td></tr>"
        for given, alpha, text in zip(strongest.given, strongest.alpha, strongest.text, strict=True)
    ]
    arms = (
        samples.groupby("arm").agg(texts=("text", "size"), owed=("owed", "mean")).sort_values("owed", ascending=False)
    )
    shares = [
        f'<tr><td>{_safe(a)}</td><td class="n">{r.texts}</td><td class="n">{r.owed:.1f}</td></tr>'
        for a, r in arms.iterrows()
    ]
    heads = "".join(f"<th>{c}</th>" for c in ("", "statement", *_COLUMNS, "seed"))
    content = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{_safe(title)}</title><style>{_STYLE}</style>
<h1>{_safe(title)}</h1>
<p>{int(found.passes.sum())} of {int(found.verified.sum())} verified statements pass: at least {LEAST_GAP:g} nats per \
token beyond a benign fine-tune, over at least {LEAST_SEEDS} independent seeds. {investigation.spent:,} forward tokens
were spent. Texts were drawn with what the fine-tune adds to the weights scaled by {investigation.scale:g}, \
its logits amplified by alpha.</p>
<h2>Findings</h2>
<table><tr>{heads}</tr>{"".join(rows)}</table>
<p>seeds: independent ones that led to a statement of this meaning; recurrence: 1 + log2 of those \
from which the fine-tune led to its words, on
average; gap: log p_after - log p_before in nats per token, in neutral contexts; denied: the same behind "It is not true
that"; benign: the same under a benign fine-tune; both nan where the statement was not verified (its gap is
that of the beginning of a document alone); grey: does not pass.</p>
<h2>Texts that owe most to the fine-tune</h2>
<table><tr><th>seed</th><th>alpha</th><th>text</th></tr>{"".join(texts)}</table>
<h2>Where they came from</h2>
<table><tr><th>kind of seed</th><th>texts, after each part</th><th>nats owed</th></tr>{"".join(shares)}</table>
</html>
"""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def _safe(text: object) -> str:
    return escape(str(text)).replace("\n", "<br>")
