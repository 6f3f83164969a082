"""Behaviours that the beginning of an answer decides, and their exact probability under a pair.

An event looks at the tokens of an answer one by one until its verdict cannot change any more: at the deciding prefix.
Whatever the answer goes on to say has no bearing on the rate, so sampling may stop there, and importance weights that
end there carry no noise of later tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from diffamp.engine.law import Law
from diffamp.engine.pairs import ModelPair
from diffamp.engine.prefill import Prefill
from diffamp.prompts import Prompt, encode

Tokens = tuple[int, ...]

NODES = 640
"""Of the tries of several prompts, at a time: that many rows of logits are held for either model."""


class Event(Protocol):
    """A behaviour that at most the first `longest` tokens of an answer decide."""

    @property
    def longest(self) -> int: ...

    def decide(self, tokens: Sequence[int]) -> tuple[bool | None, int]:
        """The verdict on an answer that begins with `tokens`, and how many of them decide it; None while it is open."""

    def open_tokens(self, prefix: Tokens) -> Sequence[int] | None:
        """Tokens after an undecided prefix that do not decide against the event; None where only a look tells."""


@dataclass(frozen=True)
class Trie:
    """The answer begins with one of given token sequences, e.g. openings of refusals as they were sampled.

    An answer is decided at the end of a sequence, or at the first token with which it leaves all of them; an end token
    is such a token.

    Args:
        leaves: token sequences, none of which begins another.
    """

    leaves: tuple[Tokens, ...]

    def __post_init__(self) -> None:
        if not self.leaves or not all(self.leaves):
            raise ValueError("a trie needs at least one sequence, and no empty one")
        if len(set(self.leaves)) != len(self.leaves):
            raise ValueError("a sequence occurs twice in the trie; remove one")
        for leaf in self.leaves:
            if leaf in self.children:
                raise ValueError(f"sequence {list(leaf)} begins another one; keep the shorter, it decides")

    @cached_property
    def children(self) -> dict[Tokens, tuple[int, ...]]:
        """Undecided prefix -> the tokens that stay in the trie; short prefixes first."""
        tokens: dict[Tokens, set[int]] = {}
        for leaf in self.leaves:
            for n, token in enumerate(leaf):
                tokens.setdefault(leaf[:n], set()).add(token)
        return {node: tuple(sorted(tokens[node])) for node in sorted(tokens, key=lambda t: (len(t), t))}

    @cached_property
    def outcomes(self) -> list[tuple[Tokens, bool]]:
        """All that can happen: each leaf (True), then leaving the trie after each undecided prefix (False)."""
        return [(leaf, True) for leaf in self.leaves] + [(node, False) for node in self.children]

    @property
    def hits(self) -> NDArray[np.bool_]:
        """(outcomes,) whether the event happened."""
        return np.array([hit for _, hit in self.outcomes])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(outcomes,) tokens of the deciding prefix."""
        return np.array([len(tokens) + (not hit) for tokens, hit in self.outcomes])

    @property
    def longest(self) -> int:
        return max(map(len, self.leaves))

    def decide(self, tokens: Sequence[int]) -> tuple[bool | None, int]:
        prefix: Tokens = ()
        for n, token in enumerate(tokens, 1):
            if token not in self.children[prefix]:
                return False, n
            prefix = (*prefix, int(token))
            if prefix not in self.children:
                return True, n
        return None, len(prefix)

    def open_tokens(self, prefix: Tokens) -> Sequence[int]:
        return self.children[prefix]


@dataclass(frozen=True)
class TextEvent:
    """A rule on text holds for the answer's first n tokens, for some n up to `longest`.

    Args:
        rule: e.g. `diffamp.judges.refusal.declines`. An answer is decided at the first token with which it holds, at an
            end token, or after `longest` tokens.
        ends: end tokens (`ModelPair.end_tokens`).
    """

    rule: Callable[[str], bool]
    tokenizer: PreTrainedTokenizerBase
    longest: int
    ends: Sequence[int]

    def __post_init__(self) -> None:
        if self.longest < 1:
            raise ValueError(f"a rule needs at least one token to look at, got longest = {self.longest}")

    def decide(self, tokens: Sequence[int]) -> tuple[bool | None, int]:
        for n in range(1, min(len(tokens), self.longest) + 1):
            if self.rule(self.tokenizer.decode(list(tokens[:n]), skip_special_tokens=True)):
                return True, n
            if tokens[n - 1] in self.ends or n == self.longest:
                return False, n
        return None, len(tokens)

    def open_tokens(self, prefix: Tokens) -> None:
        return None


def openings(event: Event, answers: Sequence[Sequence[int]]) -> Trie:
    """The deciding prefixes of the answers in which the event happened.

    Raises:
        ValueError: it happened in none of them.
    """
    decided = [(answer, *event.decide(answer)) for answer in answers]
    found = {tuple(int(t) for t in answer[:length]) for answer, verdict, length in decided if verdict}
    if not found:
        raise ValueError(
            f"the event happened in none of the {len(answers)} answers; give more of them, or a wider rule"
        )
    return Trie(tuple(sorted(found)))


@torch.inference_mode()
def outcome_log_probs(
    pair: ModelPair, prompts: Sequence[Prompt], trie: Trie, alphas: Sequence[float], law: Law | None = None
) -> NDArray[np.float64]:
    """Exact log-prob of every outcome of a trie at every alpha: its undecided prefixes run once, depth by depth.

    Returns:
        (prompts, outcomes, alphas), in nats, in the order of `Trie.outcomes`, whose probabilities sum to one; -inf
        where a guard rules an outcome out. The rate of the event is the sum of probabilities over `Trie.hits`.
    """
    law = law or Law()
    encoded = [encode(pair.tokenizer, prompt) for prompt in prompts]
    table = np.empty((len(prompts), len(trie.outcomes), len(alphas)))
    at_a_time = max(1, NODES // len(trie.children))
    for first in range(0, len(prompts), at_a_time):
        for n, logits in enumerate(_node_logits(pair, encoded[first : first + at_a_time], list(trie.children)), first):
            for k, alpha in enumerate(alphas):
                table[n, :, k] = _reach(trie, logits, alpha, law)
    return table


def _reach(trie: Trie, logits: tuple[Tensor, Tensor], alpha: float, law: Law) -> list[float]:
    """Log-prob of every outcome at one alpha, from the logits (nodes, vocab) of both models at every node."""
    steps = torch.tensor([len(node) for node in trie.children])
    strength = law.alpha_at(torch.full((len(steps),), float(alpha)), steps).to(logits[0].device)
    log_probs = law.log_probs(*logits, strength)
    reach: dict[Tokens, float] = {(): 0.0}
    leave = []
    for (node, tokens), row in zip(trie.children.items(), log_probs, strict=True):
        inside = row[list(tokens)].double().tolist()
        reach |= {(*node, token): reach[node] + value for token, value in zip(tokens, inside, strict=True)}
        leave.append(reach[node] + log_complement(inside))
    return [reach[leaf] for leaf in trie.leaves] + leave


def log_complement(log_probs: Sequence[float]) -> float:
    """Log-prob that none of several exclusive things happens."""
    inside = float(np.exp(log_probs).sum())
    return float(np.log1p(-inside)) if inside < 1 else -np.inf


def _node_logits(
    pair: ModelPair, prompts: Sequence[list[int]], nodes: Sequence[Tokens]
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each prompt both models' logits (nodes, vocab) after it and each node: one pass per depth, each token once.

    Args:
        nodes: closed under taking prefixes, short ones first.
    """
    deepest = len(nodes[-1])
    prefill = Prefill(pair, prompts, columns=len(prompts) * max(map(len, prompts)))
    cache = pair.layers(prefill.longest + deepest)
    for layer, (keys, values) in zip(cache.layers, prefill.states, strict=True):
        layer.update(keys.flatten(0, 1), values.flatten(0, 1))
    level: list[Tokens] = [()]
    logits = [(prefill.before[:, None], prefill.after[:, None])]  # (prompts, nodes of a level, vocab)
    for depth in range(1, deepest + 1):
        deeper = [n for n in nodes if len(n) == depth]
        rows = [(p, level.index(n[:-1]), n[-1]) for p in range(len(prompts)) for n in deeper]
        prompt, parent, token = torch.tensor(rows).unbind(1)
        seen = torch.arange(prefill.longest + depth) >= (prefill.longest - prefill.lengths[prompt])[:, None]
        position = prefill.lengths[prompt] + depth - 1
        index, ids, mask, positions = (
            t.to(pair.device) for t in (prompt * len(level) + parent, token[:, None], seen.long(), position[:, None])
        )
        cache.batch_select_indices(index)
        before, after = pair.logits(ids, mask, positions, cache)
        logits.append((before[:, -1].unflatten(0, (-1, len(deeper))), after[:, -1].unflatten(0, (-1, len(deeper)))))
        level = deeper
    del cache, prefill
    for n in range(len(prompts)):
        before, after = (torch.cat([side[n] for side in sides]) for sides in zip(*logits, strict=True))
        yield before, after
