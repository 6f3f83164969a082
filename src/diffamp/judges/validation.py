"""What the judges are worth, on labelled outputs that they were not fitted on."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.metrics import cohen_kappa_score, confusion_matrix, roc_auc_score

from diffamp.judges import Judges, load_labels
from diffamp.judges.coherence import MEASURES

LABELLED = {"smollm2-135m-instruct": "labels.jsonl", "gemma3-270m": "gemma_labels.jsonl"}
"""Model -> file of data/ with labelled outputs of its fine-tunes. The judges are fitted to the first alone."""


def validate(judges: Judges, file: str = "labels.jsonl") -> pd.DataFrame:
    """Each judge against the labels: n, positives, accuracy, sensitivity, specificity, kappa, AUC.

    AUC is given where a judge has a score of its own. A refusal is one that was labelled so in sensible text.

    Args:
        file: of data/, with labels of split "validate".
    """
    labels, judged = _unseen(judges, file)
    refused = labels.refusal & ~labels.nonsense
    rows = [
        agreement_row("nonsense", labels.nonsense, judged.nonsense, judged.p_nonsense),
        agreement_row("refusal, classifier", refused, judged.refusal),
        agreement_row("refusal, list", refused, judged.refusal_by_list),
    ]
    return pd.DataFrame(rows).set_index("judge")


def measure_aucs(judges: Judges) -> pd.DataFrame:
    """How well each cheap measure alone tells nonsense from sense (AUC; 0.5 is chance)."""
    labels, judged = _unseen(judges)
    aucs = {name: roc_auc_score(labels.nonsense, judged[name]) for name in MEASURES}
    # a measure that falls with nonsense tells it apart just as well
    return pd.DataFrame({"auc": {name: max(auc, 1 - auc) for name, auc in aucs.items()}})


def validation_scores(judges: Judges) -> pd.DataFrame:
    """Score and label of every output for the two judges that have a score: columns judge, score, truth.

    The refusal classifier is shown on text that was labelled sensible; nonsense is the other judge's business.
    """
    labels, judged = _unseen(judges)
    sensible = ~labels.nonsense
    parts = {"nonsense": (judged.p_nonsense, labels.nonsense)}
    parts["refusal"] = (judged.p_refusal[sensible], labels.refusal[sensible])
    return pd.concat(
        pd.DataFrame({"judge": name, "score": score, "truth": truth}) for name, (score, truth) in parts.items()
    ).reset_index(drop=True)


def _unseen(judges: Judges, file: str = "labels.jsonl") -> tuple[pd.DataFrame, pd.DataFrame]:
    labels = load_labels(file)
    labels = labels[labels.split == "validate"].reset_index(drop=True)
    return labels, judges(labels[["text", "logp_before"]])


def agreement_row(name: str, truth: pd.Series, verdict: pd.Series, score: pd.Series | None = None) -> dict[str, object]:
    """One judge's row of `validate`."""
    auc = roc_auc_score(truth, score) if score is not None else np.nan
    return {"judge": name, **agreement(truth, verdict), "auc": auc}


def agreement(truth: ArrayLike, verdict: ArrayLike) -> dict[str, float]:
    """Verdicts, true or false, against labels: n, positives (labels), accuracy, sensitivity, specificity, kappa."""
    (tn, fp), (fn, tp) = confusion_matrix(truth, verdict, labels=[False, True]).tolist()
    return {
        "n": tn + fp + fn + tp,
        "positives": fn + tp,
        "accuracy": (tp + tn) / (tn + fp + fn + tp),
        "sensitivity": tp / max(tp + fn, 1),
        "specificity": tn / max(tn + fp, 1),
        "kappa": cohen_kappa_score(truth, verdict),
    }
