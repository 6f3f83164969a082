"""The luck of a draw, as a function of what is drawn and of nothing else."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def uniforms(seed: int, prompt: str, sample: int, steps: int) -> NDArray[np.float64]:
    """One uniform in [0, 1) per step, from a counter-based generator keyed by (seed, prompt, sample).

    All alphas, guards and pairs share it, so two of them are compared on the same luck, and no result depends on the
    order or the sharding of the work. The first values do not depend on `steps`.
    """
    key = hashlib.blake2b(f"{seed}\0{sample}\0{prompt}".encode(), digest_size=16).digest()
    generator = np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)))
    return generator.random(steps)
