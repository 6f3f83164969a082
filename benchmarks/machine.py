"""What a timing depends on besides the code. Nothing here names the machine or a path on it."""

from __future__ import annotations

import os
import platform
import re
import resource
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

Facts = dict[str, str | int | float | bool]


def facts(threads: int) -> Facts:
    """Date, processor, GPU, versions and settings."""
    found: Facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "threads": threads,
        "bf16 in hardware": bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        "load before": round(os.getloadavg()[0], 2),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "unset"),
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found | {name: version(name) for name in ("torch", "transformers", "peft")}


def slug(found: Facts) -> str:
    """The device that computes, as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", str(found.get("gpu", found["cpu"])).lower()).strip("-")


def peak_memory() -> int:
    """The most bytes of main memory that this process has held, all models together."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.is_file() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.machine()
    # virtual machines hide the product's name, not its generation
    return f"{fields['model name']} (family {fields['cpu family']}, model {fields['model']})"
