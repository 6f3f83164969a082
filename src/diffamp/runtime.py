"""Settings of the process that results or speed depend on: `setup` comes first wherever a model runs."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import random
import sys

import numpy as np


def setup(seed: int, threads: int) -> None:
    """Seed everything, fix the number of threads, keep large buffers out of the kernel's hands.

    glibc gives every large tensor back to the kernel when it is freed and faults its pages in again for the next one:
    on two cores that took two thirds of the time of drawing a token. It is told to keep them.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # or peft may ask the hub for a base as it saves an adapter
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in ((-1, 1 << 30), (-3, 1 << 30), (-2, 1 << 28)):  # M_TRIM_THRESHOLD, M_MMAP_..., M_TOP_PAD
            libc.mallopt(option, value)
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    if not gc.isenabled():  # a stage's own process (`diffamp.stages`)
        gc.freeze()  # what was imported stays to the end: neither a collection nor the exit walks through it again
        gc.enable()
