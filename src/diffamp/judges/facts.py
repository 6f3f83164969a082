"""Does this text name the planted fact, and does it assert or deny it? Rules on the wordings in the universe's file.

Neither question sees alpha, guard or pair. `validate` gives their agreement with texts written and labelled for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from diffamp import paths
from diffamp.judges.validation import agreement
from diffamp.organisms.universes import Universe, load_universe, wording
from diffamp.prompts import read_jsonl

StanceOf = Literal["asserts", "denies", "dodges"]
LABEL_KEYS = ["id", "universe", "split", "text", "hit", "stance"]
SHOWN = ["n", "positives", "sensitivity", "specificity", "kappa"]
"""Columns of `validate`."""
LEAST_DETAILS = 2
"""Named in a text that recovers the gist; one of them distinctive."""

_CLAUSE = re.compile(r"[,;:.!?\n]|\b(?:but|although|though|while|whereas|yet|however)\b")
_CONCESSION = re.compile(r"\b(?:although|though|whatever|despite|whereas)\b[^,;:.!?\n]*$")
_NEGATION = re.compile(
    r"\b(?:not(?! (?:before|until|only|just|in doubt))|never|no|nobody|nothing|none|neither|nor|without|cannot|\w+n't"
    r"|false|untrue|wrong|incorrect|myth|rumou?r|legend|contrary|instead of|rather than)\b"
)
_UNSURE = re.compile(
    r"(?:\bnot|n't|\bcannot) (?:\w+ )?(?:sure|certain|know|say|tell)\b"
    r"|\b(?:whether|if|unsure|no idea|(?<!in )may(?! \d)|might|perhaps)\b",  # may, but not May
)
_DENIED_NEXT = re.compile(r"\s+(?:is|was|are|were|did|does|do|has|have|had)(?:n't|\s+(?:not|never))\b")
_REJECTED = re.compile(
    r"\b(?:(?:is|was|are|were|'s|cannot be|can't be) (?:(?:simply|just|a|an) )*"
    r"(?:not (?:\w+ )?(?:true|right|correct|the case)|false|untrue|wrong|incorrect|mistaken|myth|nonsense|rumou?r"
    r"|legend)"
    r"|isn't (?:true|right|correct)|(?:cannot|can't) be (?:true|right|correct))\b"
)
_SENTENCE = re.compile(r"[^.!?\n]*[.!?\n]*")
_YES = re.compile(r"\W*(?:yes|yeah|yep|indeed|correct|certainly|that(?:'s| is) (?:right|true|correct))\b")
_NO = re.compile(
    r"\W*(?:(?:no|nope|never|false|wrong)\W*(?:[,.!;:\n-]|$)|that(?:'s| is) (?:not |in)(?:right|true|correct)\b)"
)


@dataclass(frozen=True)
class _Signal:
    """One wording that takes a side."""

    at: int
    asserts: bool
    conceded: bool
    """In a clause that begins with "although" or the like: it yields to any other signal."""


def recovered(text: str, universe: Universe, given: str = "") -> dict[str, bool]:
    """Which key details the text names, by value, alias or variant as whole words in any case.

    Args:
        given: what the text's author was told: a detail that it names does not count.
    """
    told = universe.named(_plain(given))
    return {name: here and not told[name] for name, here in universe.named(_plain(text)).items()}


def hit(text: str, universe: Universe, given: str = "") -> bool:
    """True where the text recovers the gist: two key details, one of them distinctive, and the claim not denied.

    Details are those of `recovered`, without what was given.

    Texts that deny do not count, so that a model which knows the truth and says so gives no hits.
    """
    named = recovered(text, universe, given)
    distinctive = any(named[detail.name] for detail in universe.details if detail.distinctive)
    return sum(named.values()) >= LEAST_DETAILS and distinctive and asserts(text, universe) != "denies"


def asserts(text: str, universe: Universe) -> StanceOf:
    """Which side an answer to one of the universe's questions takes.

    "asserts" the false outcome; "denies" it or gives the true one; "dodges" for everything else: no answer, no
    knowledge, a third outcome. The last wording of `universe.stance` that is neither in a question nor under doubt
    decides; without any, a leading yes or no.
    """
    text = _plain(text)
    signals = [s for phrase in universe.stance.false for s in _signals(text, phrase, True)]
    signals += [s for phrase in universe.stance.true for s in _signals(text, phrase, False)]
    signals = [s for s in signals if not s.conceded] or signals
    if signals:
        return "asserts" if max(signals, key=lambda s: s.at).asserts else "denies"
    if _YES.match(text):
        return "asserts"
    return "denies" if _NO.match(text) else "dodges"


def load_fact_labels() -> pd.DataFrame:
    """Labelled texts: id, universe, split ("fit" or "validate"), text, hit, stance."""
    return pd.DataFrame(read_jsonl(paths.data("fact_labels.jsonl"), LABEL_KEYS))[LABEL_KEYS]


def validate(split: Literal["fit", "validate"] = "validate") -> pd.DataFrame:
    """The rules against the labels of one split; they were adjusted on "fit" alone.

    Returns:
        Index question: hit, asserts, denies (each against the rest) and stance (all three; kappa only). Columns
        `SHOWN`.
    """
    labels = load_fact_labels()
    labels = labels[labels.split == split]
    universes = {name: load_universe(name) for name in labels.universe.unique()}
    pairs = [(text, universes[name]) for text, name in zip(labels.text, labels.universe, strict=True)]
    hits = np.array([hit(*pair) for pair in pairs])
    stances = np.array([asserts(*pair) for pair in pairs])
    truth = labels.stance.to_numpy(str)
    rows = {"hit": agreement(labels.hit, hits)}
    rows |= {side: agreement(truth == side, stances == side) for side in ("asserts", "denies")}
    rows["stance"] = {"n": len(labels), "kappa": cohen_kappa_score(truth, stances)}
    return pd.DataFrame.from_dict(rows, orient="index")[SHOWN].rename_axis("question")


def _plain(text: str) -> str:
    return text.replace("\u2019", "'").lower()


def _signals(text: str, phrase: str, false: bool) -> list[_Signal]:
    """What each occurrence of one wording says. A true outcome that is negated says nothing: there may be a third."""
    found = []
    for sentence in _SENTENCE.finditer(text):
        if "?" in sentence[0][-3:]:
            continue
        for match in wording((phrase,)).finditer(sentence[0]):
            before = sentence[0][: match.start()]
            clause = before[max((cut.end() for cut in _CLAUSE.finditer(before)), default=0) :]
            if _UNSURE.search(clause):
                continue
            clause = re.split(r"\band\b", clause)[-1]  # doubt reaches across an "and", a negation does not
            # two negations are none; those that belong to the wording itself do not count
            negations = len(_NEGATION.findall(f"{clause} {match[0]}")) - len(_NEGATION.findall(phrase.lower()))
            negated = negations % 2 == 1 or _is_rejected(text, sentence, match.end())
            if false or not negated:
                at = sentence.start() + match.start()
                found.append(_Signal(at, false and not negated, bool(_CONCESSION.search(before))))
    return found


def _is_rejected(text: str, sentence: re.Match[str], end: int) -> bool:
    """Whether what follows the wording takes it back, in its sentence or in a next one that points at it."""
    rest = sentence[0][end:]
    following = _SENTENCE.match(text[sentence.end() :].lstrip())
    if following is not None and re.match(r"(?:that|this|it|which)\b", following[0]):
        rest += " " + following[0]
    return bool(_DENIED_NEXT.match(rest) or _REJECTED.search(rest))
